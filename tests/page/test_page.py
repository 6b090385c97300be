"""The page for people, in Chromium, in front of a real Triton."""

import base64
import hashlib
import io

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from modelport.contract import Task
from modelport.imaging import encode_png
from modelport.serving import new_key
from modelport.serving.gateway.page import CAUTION
from tests.page.conftest import NOT_READY, Site
from tests.page.reader import Reader
from tests.serving import tiny_release as tiny


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=70)
    return stream.getvalue()


RED = np.zeros((40, 30, 3), np.uint8) + np.array([220, 20, 10], np.uint8)


def test_nothing_is_told_without_a_valid_key(reader: Reader, site: Site) -> None:
    expect(reader.page.locator("#mp-caution")).to_have_text(CAUTION.replace("**", ""))
    reader.page.get_by_role("button", name="Show models").click()
    expect(reader.status).to_contain_text("Give your API key first")
    for wrong in (new_key(), "my key", "schlüssel"):
        reader.show_models(wrong)
        expect(reader.status).to_contain_text("This key is not valid")
        assert reader.options("Model") == []
    reader.give("a.png", encode_png(tiny.image()))
    reader.press()
    expect(reader.status).to_contain_text("Show the models, and choose one")
    assert site.versions[Task.SEGMENT][1][:12] not in reader.page.content()


@pytest.mark.parametrize("task", list(Task))
def test_every_task_is_answered_as_the_api_answers(reader: Reader, site: Site, task: Task) -> None:
    model, digest = site.model(task), site.versions[task][1]
    # A JPEG: made anew, its pixels would not be the same.
    data, name = jpeg(tiny.image(3, height=72, width=50)), "Anna Müller.jpg"
    reader.show_models(site.gateway.key)
    expect(reader.status).to_contain_text("4 models, 3 ready")
    reader.choose("Model", model)
    reader.give(name, data, "image/jpeg")
    reader.watch_uploads()
    answer = reader.predict()
    assert reader.uploaded() == ("image", data), "the file's own bytes are sent, and not its name"

    direct = site.gateway.predict(model, data, overlay=True).json()
    its_own = ("request_id", "milliseconds")
    assert {k: v for k, v in answer.items() if k not in its_own} == {
        k: v for k, v in direct.items() if k not in its_own
    }
    width, height, source = reader.overlay()
    assert (width, height) == (50, 72)
    assert source.removeprefix("data:image/png;base64,") == direct["overlay"]
    for said in (
        model,
        digest,
        "fp32",
        "50 \N{MULTIPLICATION SIGN} 72 pixels",
        answer["request_id"],
        "Decoding",
        "Inference",
        "Total",
    ):
        expect(reader.details).to_contain_text(said)
    expect(reader.details).to_contain_text(f"{answer['milliseconds']['total']:.1f} ms")
    if task is Task.SEGMENT:
        expect(reader.status).to_contain_text(f"{100 * direct['coverage']:.1f} % of the image is red")
    elif task is Task.DETECT:
        (found,) = direct["detections"]
        expect(reader.status).to_contain_text("1 box")
        cells = reader.details.locator("tbody tr").first.locator("th, td").all_inner_texts()
        assert cells == ["red", f"{found['score']:.3f}", *(f"{edge:.1f}" for edge in found["box"])]
    else:
        assert direct["unsure"]
        expect(reader.page.get_by_role("alert")).to_contain_text("Unsure")
        expect(reader.status).to_contain_text("below the 80.0 %")
        bars = reader.details.get_by_role("meter")
        assert [bar.get_attribute("aria-label") for bar in bars.all()] == ["red", "blue"], "the likeliest first"

    reader.drop("red.png", encode_png(RED))
    answer = reader.predict()
    assert reader.overlay()[:2] == (30, 40)
    if task is Task.CLASSIFY:
        expect(reader.page.get_by_role("alert")).to_have_count(0)
        expect(reader.status).to_contain_text(f"red Confidence {100 * answer['confidence']:.1f} %")


def test_another_version_answers_when_it_is_chosen(reader: Reader, site: Site) -> None:
    before, active = site.versions[Task.DETECT]
    reader.show_models(site.gateway.key)
    reader.choose("Model", site.model(Task.DETECT))
    expect(reader.page.get_by_label("Version", exact=True)).to_have_value(f"active: {active[:12]}, fp32")
    assert reader.options("Version") == [f"active: {active[:12]}, fp32", f"{before[:12]}, fp32"]
    reader.give("ramp.png", encode_png(tiny.image()))
    assert len(reader.predict()["detections"]) == 1
    reader.choose("Version", before[:12])
    answer = reader.predict()
    assert answer["release"] == before
    expect(reader.details).to_contain_text(before)
    expect(reader.status).to_contain_text("2 boxes")
    # Another model has other versions: nothing of the last choice goes along.
    reader.choose("Model", site.model(Task.SEGMENT))
    expect(reader.page.get_by_label("Version", exact=True)).to_have_value(
        f"active: {site.versions[Task.SEGMENT][1][:12]}, fp32"
    )


def test_an_answer_goes_when_another_image_is_chosen(reader: Reader, site: Site) -> None:
    """One patient's answer must never stand beside another patient's picture."""

    def nothing_said(words: str) -> None:
        expect(reader.status).to_contain_text(words)
        expect(reader.page.locator("#mp-overlay img")).to_have_count(0)
        expect(reader.details).to_have_text("")

    def answered() -> None:
        reader.predict()
        reader.overlay()
        expect(reader.details).to_contain_text("This answer")

    reader.show_models(site.gateway.key)
    reader.choose("Model", site.model(Task.SEGMENT))
    reader.give("one.png", encode_png(tiny.image()))
    answered()
    reader.give("two.png", encode_png(RED))
    nothing_said("Not asked about this image yet")
    answered()
    reader.drop("three.png", encode_png(tiny.image(3)))
    nothing_said("Not asked about this image yet")
    answered()
    reader.page.get_by_role("button", name="Show models").click()
    nothing_said("4 models, 3 ready")

    # An answer, or a failure, that is still on its way says nothing of the image that was chosen meanwhile.
    for status in (200, 503):
        with reader.held("**/predict*", status) as go_on:
            # Of the image that is chosen when it is sent, which a busy machine does later than it says so.
            with reader.page.expect_request("**/predict*"):
                reader.press()
            expect(reader.status).to_contain_text("Asking the model")
            reader.give(f"while-{status}.png", encode_png(RED))
            go_on()
            expect(reader.page.get_by_role("button", name="Predict")).to_be_enabled()
        nothing_said("Not asked about this image yet")
    answered()


def test_what_goes_wrong_is_told_in_words(reader: Reader, site: Site) -> None:
    reader.show_models(site.gateway.key)
    reader.choose("Model", site.model(Task.SEGMENT))
    reader.press()
    expect(reader.status).to_contain_text("Choose an image first")
    reader.give("good.png", encode_png(tiny.image()))
    reader.predict()
    for name, data, words in (
        ("letter.txt", b"this is a letter, not a picture" * 10, "not a JPEG or PNG image"),
        ("empty.png", b"", "This file is empty"),
        ("broken.jpg", jpeg(tiny.image())[:-400], "damaged or incomplete"),
        ("big.png", encode_png(tiny.image()) + bytes(1024 * 1024), "at most 1 MB"),
    ):
        reader.give(name, data, "text/plain")
        reader.press()
        expect(reader.page.get_by_role("alert")).to_contain_text(words)
        expect(reader.page.locator("#mp-overlay img")).to_have_count(0)
        expect(reader.details).to_have_text("")
    assert not any("predict" in each.url for each in reader.requests[-1:]), "what is too large is not sent"
    reader.choose("Model", NOT_READY)
    reader.give("good.png", encode_png(tiny.image()))
    reader.press()
    expect(reader.status).to_contain_text("No version of this model is ready")


@pytest.mark.parametrize("reader", [(390, 844)], indirect=True)
def test_it_can_be_used_on_a_phone_and_with_a_screen_reader(reader: Reader, site: Site) -> None:
    def fits() -> None:
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= 390

    fits()
    reader.show_models(site.gateway.key)
    reader.choose("Model", site.model(Task.DETECT))
    reader.give("a-name-that-is-long-and-has-no-spaces-in-it-as-machines-make-them-0123456789.png", encode_png(RED))
    reader.predict()
    reader.overlay()
    fits()
    assert reader.unnamed() == []
    # What it says is read out when it changes.
    assert reader.status.get_attribute("role") == "status"


CLOSED = (
    ("POST", "gradio_api/upload"),
    ("POST", "gradio_api/queue/join"),
    ("POST", "gradio_api/run/predict"),
    ("GET", "gradio_api/file=/etc/passwd"),
    ("GET", "gradio_api/proxy=http://127.0.0.1/"),
    ("GET", "gradio_api/info"),
    ("GET", "gradio_api/startup-events"),
    ("GET", "gradio_api/heartbeat/a"),
    ("GET", "config"),
    ("GET", "monitoring"),
    ("GET", "login"),
    ("GET", "assets/..%2f..%2f..%2f__init__.py"),
    ("GET", "static/..%2f..%2findex.html"),
    ("POST", ""),
)


def test_nothing_of_gradio_but_its_files_is_reachable_and_none_stays_on_disk(reader: Reader, site: Site) -> None:
    image = encode_png(tiny.image(9))
    reader.show_models(site.gateway.key)
    reader.choose("Model", site.model(Task.SEGMENT))
    reader.give("scan.png", image)
    reader.predict()
    with httpx.Client(base_url=site.gateway.url, trust_env=False, headers={"X-API-Key": site.gateway.key}) as client:
        for method, path in CLOSED:
            content = {"files": {"files": ("scan.png", image)}} if path.endswith("upload") else {}
            answer = client.request(method, f"/ui/{path}", **content)
            assert (answer.status_code, answer.json()["reason"]) == (404, "not_found"), path
        page = client.get("/")
        assert page.status_code == 307
        assert page.headers["Location"] == "/ui/"
        page = client.get("/ui/")
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert site.gateway.key not in page.text
        assert not any("/ui" in path for path in client.get("/openapi.json").json()["paths"])
    digest = hashlib.sha256(image).digest()
    left = [path for path in site.temporary.rglob("*") if path.is_file()]
    assert not any(hashlib.sha256(path.read_bytes()).digest() == digest for path in left)
    assert left == []
    assert site.gateway.key not in site.gateway.process.said()
    assert base64.b64encode(image).decode() not in site.gateway.process.said()
