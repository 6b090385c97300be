"""Detection and classification behind a real Triton, the choice of a release, and the same answer from every way."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from modelport.connection import Connection
from modelport.contract import Task, parse_spec
from modelport.data import HeldOut, load_heldout
from modelport.errors import BadInput, ModelportError, Refused
from modelport.imaging import decode, encode_png
from modelport.loadtest import gateway_outputs
from modelport.local.served import look_at_answers
from modelport.promotion.log import Action, LogEntry, append, read_log
from modelport.release import RELEASES, Release, ReleaseManifest, sha256
from modelport.serving.predicting import Unanswered, Via, asking
from tests.serving import tiny_tasks as tiny
from tests.serving.conftest import Agent, Gateway, Stand, Starter
from tests.serving.waiting import until

KNOBS = {Task.DETECT: 0.3, Task.CLASSIFY: 4.0}
MODELS = {task: f"tasks_{task}" for task in Task}
IMAGE = tiny.image(2, 70, 51)
PNG = encode_png(IMAGE)


@dataclass
class Three:
    """A model of each task behind one gateway."""

    stand: Stand
    agent: Agent
    gateway: Gateway
    digests: dict[Task, str]
    connection: Connection


@pytest.fixture(scope="module")
def three(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    starter = Starter(stand, tmp_path_factory.mktemp("tasks"))
    digests = {Task.SEGMENT: stand.publish(MODELS[Task.SEGMENT])}
    for task, knob in KNOBS.items():
        digests[task] = stand.put(*tiny.release(task, MODELS[task], knob, {"unsure": 0.7}))
    agent = starter.agent(*MODELS.values())
    agent.want({MODELS[task]: digest for task, digest in digests.items()})
    gateway = starter.gateway(agent, record_seconds=1)
    for task, digest in digests.items():
        agent.serving(MODELS[task], digest)
    until(lambda: len(gateway.get("/readyz").json()["models"]) == 3, "the gateway to know all three")
    asking_it = {"agent_urls": (agent.url,), "gateway_url": gateway.url, "gateway_api_key": gateway.key}
    yield Three(stand, agent, gateway, digests, stand.connection.model_copy(update=asking_it))
    starter.close()


def test_detections_and_probabilities_are_the_releases_own(three) -> None:
    for task, knob in KNOBS.items():
        answer = three.gateway.predict(MODELS[task], PNG, overlay=True)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        digest, outputs, precision = gateway_outputs(body)
        assert (digest, precision) == (three.digests[task], "fp32")
        expected = tiny.answer(task, IMAGE, knob)
        for name, values in outputs.items():
            np.testing.assert_allclose(values, expected[name], atol=1e-4)
        assert not np.array_equal(decode(base64.b64decode(body["overlay"])), IMAGE)
    nothing = three.gateway.predict(MODELS[Task.DETECT], encode_png(IMAGE * 0))
    assert nothing.json()["detections"] == []
    # 61 % is not enough for this release.
    assert (body["label"], body["unsure"], body["threshold"]) == ("red", True, 0.7)
    red = IMAGE * 0
    red[:, :, 0] = 255
    assert not three.gateway.predict(MODELS[Task.CLASSIFY], encode_png(red)).json()["unsure"]


@pytest.mark.parametrize(("task", "said"), [(Task.DETECT, "class 7"), (Task.CLASSIFY, "not between 0 and 1")])
def test_outputs_that_are_no_answer_are_a_bad_gateway_and_a_record(three, task, said) -> None:
    answer = three.gateway.predict(MODELS[task], encode_png(tiny.breaking()))
    assert answer.status_code == 502, answer.text
    assert answer.json()["reason"] == "wrong_outputs"
    assert said in answer.json()["message"]
    good = three.gateway.predict(MODELS[task], PNG).json()
    wanted = {answer.json()["request_id"], good["request_id"]}

    def rows() -> dict | None:
        found = {}
        for info in three.stand.server_store.list(f"records/predictions/model={MODELS[task]}/"):
            table = pq.read_table(BytesIO(three.stand.server_store.get(info.key)), partitioning=None)
            found |= {row["request_id"]: row for row in table.to_pylist()}
        return found if wanted <= found.keys() else None

    records = until(rows, "the records")
    bad = records[answer.json()["request_id"]]
    assert (bad["status"], bad["reason"], bad["release"]) == (502, "wrong_outputs", three.digests[task])
    right = records[good["request_id"]]
    assert (right["status"], right["precision"]) == (200, "fp32")
    expected = (
        {"count": len(good["detections"]), "top_score": good["detections"][0]["score"]}
        if task is Task.DETECT
        else {"class_id": 0, "confidence": good["confidence"], "unsure": 1}
    )
    assert json.loads(right["summary"]) == expected


def twins(model: str) -> list[tuple[ReleaseManifest, dict[str, bytes]]]:
    """Two releases whose digests begin alike, found by trying."""
    manifest, files = tiny.release(Task.DETECT, model, 0.3)
    seen: dict[str, bytes] = {}
    text = manifest.to_bytes()
    for number in count():
        data = text.replace(b'"run_key":"tests"', b'"run_key":"tests%d"' % number)
        other = seen.setdefault(sha256(data)[:6], data)
        if other != data:
            return [(ReleaseManifest.parse(each, "twin"), files) for each in (other, data)]
    raise AssertionError("unreachable")


def test_a_caller_may_choose_among_the_loaded_releases(stand, start) -> None:
    model = "chosen"
    pair = [stand.put(*release) for release in twins(model)]
    third = stand.put(*tiny.release(Task.DETECT, model, 0.7))
    agent = start.agent(model, grace=600)
    gateway = start.gateway(agent)
    for digest in (*pair, third):
        agent.want({model: digest})
        agent.serving(model, digest)
    until(lambda: gateway.predict(model, PNG).json().get("release") == third, "the gateway to change over")

    listed = gateway.get(f"/v1/models/{model}").json()["releases"]
    assert listed[0] == {"digest": third, "active": True, "precision": "fp32"}
    assert {row["digest"]: row["active"] for row in listed} == {third: True, pair[0]: False, pair[1]: False}
    for digest in (*pair, third):
        for asked in (digest, digest[:20]):
            body = gateway.predict(model, PNG, release=asked).json()
            assert body["release"] == digest
            assert len(body["detections"]) == len(
                tiny.answer(Task.DETECT, IMAGE, 0.7 if digest == third else 0.3)["scores"]
            )
    for asked, status, reason in (
        (pair[0][:6], 422, "ambiguous_release"),
        ("0" * 12, 404, "unknown_release"),
        ("abc", 422, "invalid_parameter"),
        ("latest", 422, "invalid_parameter"),
    ):
        answer = gateway.predict(model, PNG, release=asked)
        assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text
        assert answer.json()["message"]
    counted = f'modelport_gateway_answers_total{{model="{model}",precision="fp32",release="{pair[0][:12]}"}} '
    assert counted in gateway.get("/metrics").text


@pytest.fixture
def place(three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, connected to the platform."""
    (tmp_path / "models").mkdir()
    three.connection.save(tmp_path / "connection.json")
    for name, value in (("PROJECT", tmp_path), ("STATE", tmp_path), ("CONNECTION", tmp_path / "connection.json")):
        monkeypatch.setenv(f"MODELPORT_{name}", str(value))
    return tmp_path


def comparable(prediction) -> dict:
    return prediction.model_dump(mode="json", exclude={"milliseconds", "request_id"})


@pytest.mark.parametrize("task", list(Task))
def test_every_way_gives_the_same_answer(three, place, task) -> None:
    model, digest = MODELS[task], three.digests[task]
    folder = Release.fetch(three.stand.server_store, RELEASES, digest, place / digest).folder
    ways = [(Via.GATEWAY, None), (Via.TRITON, None), (Via.RELEASE, digest), (None, str(folder))]
    ways += [(Via.GATEWAY, str(folder)), (Via.TRITON, digest[:9])]
    answers = []
    for via, release in ways:
        with asking(model, via=via, release=release) as ask:
            answers.append(comparable(ask(PNG, True)))
            for data, reason in ((PNG[:-300], "truncated"), (b"", "empty")):
                with pytest.raises(Unanswered) as raised:
                    ask(data, False)
                assert (raised.value.reason, raised.value.exit_code) == (reason, 2)
            if task is not Task.SEGMENT:
                with pytest.raises(Unanswered) as raised:
                    ask(encode_png(tiny.breaking()), False)
                assert (raised.value.reason, raised.value.exit_code) == ("wrong_outputs", 1)
    assert answers[0]["release"] == digest
    assert answers[0]["overlay"]
    assert all(answer == answers[0] for answer in answers[1:])


def test_a_release_is_found_by_what_people_call_it(three, place) -> None:
    model, digest = MODELS[Task.DETECT], three.digests[Task.DETECT]
    with pytest.raises(BadInput, match="nothing of this model is promoted"), asking(model, via=Via.RELEASE):
        pass
    entry = LogEntry.model_validate(
        {"seq": 1, "time": datetime.now(UTC), "who": "tests", "action": Action.PROMOTE, "from": None, "to": digest}
        | {"why": "", "evidence": None, "evidence_sha256": None, "previous": None}
    )
    append(three.stand.store, read_log(three.stand.store, model), entry)
    for name in (None, digest[:8]):
        with asking(model, via=Via.RELEASE, release=name) as ask:
            assert ask(PNG, False).release == digest
    for via in Via:
        with (
            pytest.raises(BadInput, match=r"release.*0123456789"),
            asking(model, via=via, release="0123456789") as ask,
        ):
            ask(PNG, False)
        with pytest.raises(BadInput), asking("no_such_model", via=via, release=digest) as ask:
            ask(PNG, False)
        with pytest.raises(BadInput, match="names no release"), asking(model, via=via, release="latest"):
            pass
    wrong = three.connection.model_copy(update={"gateway_api_key": "wrong"})
    with pytest.raises(Refused), asking(model, connection=wrong) as ask:
        ask(PNG, False)


def heldout_of(task: Task, folder: Path) -> HeldOut:
    """Two held-out images in the task's usual format."""
    for split in ("train", "validation"):
        for number in range(2):
            name = "red" if number else "blue"
            place = folder / split / (name if task is Task.CLASSIFY else "images")
            place.mkdir(parents=True, exist_ok=True)
            pixels = tiny.image(number + 4 * (split == "train"), 40, 50 + number)
            (place / f"{number}.png").write_bytes(encode_png(pixels))
            if task is Task.DETECT:
                (folder / split / "labels").mkdir(exist_ok=True)
                (folder / split / "labels" / f"{number}.txt").write_text("1 0.5 0.5 0.25 0.25\n")
    spec = parse_spec(tiny.release(task, "m", KNOBS[task])[1]["model.yaml"].decode())
    return load_heldout(str(folder), spec, store=None, cache=folder / "cache")


@pytest.mark.parametrize("task", list(KNOBS))
def test_the_demo_looks_at_answers_of_every_task(three, tmp_path, task) -> None:
    model, digest = MODELS[task], three.digests[task]
    release = Release.fetch(three.stand.server_store, RELEASES, digest, tmp_path / digest)
    heldout = heldout_of(task, tmp_path / "data")
    section, answers = look_at_answers(model, release, "name", heldout, tmp_path / "data", three.connection, 1)
    assert (section.answered_by, section.images, section.differing_pixels) == (digest, 2, None)
    assert section.largest_difference < 0.001
    assert "largest difference from the graphs is" in section.sameness("the graphs")
    assert answers[0].shown.shape == heldout.image(0).shape
    assert answers[1].shown is None
    # Held against another release's graphs, the same answers are wrong.
    manifest, files = tiny.release(task, model, 0.7)
    for path, data in {**files, "manifest.json": manifest.to_bytes()}.items():
        (tmp_path / "other" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "other" / path).write_bytes(data)
    other = replace(Release.open(tmp_path / "other"), digest=digest)
    with pytest.raises(ModelportError, match="the gateway's answer is wrong"):
        look_at_answers(model, other, "name", heldout, tmp_path / "data", three.connection, 0)


def test_the_command_answers_what_it_can_and_overwrites_no_input(three, place) -> None:
    good, broken, taken = place / "a.png", place / "b.jpg", place / "a.overlay.png"
    good.write_bytes(PNG)
    broken.write_bytes(b"no picture")
    taken.write_bytes(PNG)
    images = [str(path) for path in (good, broken, taken, place / "missing.png")]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelport", "predict", MODELS[Task.DETECT], *options]
        return subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=120)

    told = run(*images, "--overlay")
    assert told.returncode == 2, told.stderr
    assert "b.jpg: no answer (not_an_image)" in told.stderr
    assert "missing.png: no answer (unreadable)" in told.stderr
    shown = tiny.answer(Task.DETECT, IMAGE, KNOBS[Task.DETECT])["scores"]
    assert told.stdout.count(f"{len(shown)} detections") == 2
    assert told.stdout.count(f"\n  blue  {shown[-1]:.3f}  ") == 2
    assert three.digests[Task.DETECT][:12] in told.stdout
    assert taken.read_bytes() == good.read_bytes() == PNG
    assert str(place / "a.2.overlay.png") in told.stdout
    assert decode((place / "a.2.overlay.png").read_bytes()).shape == IMAGE.shape

    said = run("--json", "--overlay", str(good), "--via", "triton")
    assert said.returncode == 0, said.stderr
    (line,) = said.stdout.splitlines()
    body = json.loads(line)
    gateway = three.gateway.predict(MODELS[Task.DETECT], PNG, overlay=True).json()
    assert body.pop("image") == str(good)
    assert body.keys() == gateway.keys()
    assert body["detections"] == gateway["detections"]
