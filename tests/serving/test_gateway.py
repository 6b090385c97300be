"""The gateway in front of a real Triton: answers, bad input, keys, and what happens when things are away."""

import base64
import http.client
import io
import json
import signal
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from modelport.imaging import decode, decode_mask, encode_png
from modelport.serving import hash_key, new_key
from modelport.serving.answers import parse_prediction
from modelport.serving.gateway.problems import DOCUMENTED, Problem, Reason
from tests.plain_http import HTTP
from tests.serving import tiny_release as tiny
from tests.serving.waiting import until


def png(pixels: np.ndarray) -> bytes:
    return encode_png(pixels)


def jpeg(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def header_bomb() -> bytes:
    """A PNG of a few bytes whose header claims 100 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (10_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def mask_of(answer: httpx.Response) -> np.ndarray:
    return decode_mask(base64.b64decode(answer.json()["mask"]), classes=2)


def problem(answer: httpx.Response, status: int, reason: str) -> Problem:
    assert answer.status_code == status, answer.text
    found = Problem.model_validate_json(answer.content)
    assert found.reason == reason
    assert found.message
    assert found.request_id == answer.headers["X-Request-ID"]
    return found


def test_an_answer_is_the_releases_own_and_says_which(served) -> None:
    image = tiny.image(3, height=70, width=51)
    answer = served.gateway.predict(served.model, png(image), overlay=True)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    expected = tiny.answer(image, served.threshold)
    assert (body["model"], body["release"], body["task"]) == (served.model, served.digest, "segment")
    assert (body["width"], body["height"]) == (51, 70)
    assert np.array_equal(mask_of(answer), expected["mask"])
    # With two classes the mask is made for eyes, too.
    assert set(np.unique(np.asarray(Image.open(io.BytesIO(base64.b64decode(body["mask"])))))) == {0, 255}
    assert body["coverage"] == pytest.approx(float(expected["coverage"][0]))
    assert [info["name"] for info in body["classes"]] == ["background", "red"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert 0 < body["milliseconds"]["decode"] + body["milliseconds"]["inference"] <= body["milliseconds"]["total"]
    tinted = decode(base64.b64decode(body["overlay"]))
    assert np.array_equal(tinted[expected["mask"] == 0], image[expected["mask"] == 0])
    assert (tinted[expected["mask"] == 1][:, 1] > image[expected["mask"] == 1][:, 1]).all(), "red class shown in green"
    assert "overlay" not in served.gateway.predict(served.model, png(image)).json()


def test_an_image_on_its_side_is_turned_upright(served) -> None:
    upright = tiny.image(1, height=40, width=90)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: turn it by 90 degrees clockwise to see it
    data = jpeg(np.rot90(upright).copy(), exif=exif.tobytes())
    answer = served.gateway.predict(served.model, data)
    assert (answer.json()["width"], answer.json()["height"]) == (90, 40)
    assert np.array_equal(mask_of(answer), tiny.answer(decode(data), served.threshold)["mask"])


def test_deep_and_grey_pngs_are_taken(served) -> None:
    stream = io.BytesIO()
    Image.fromarray((np.arange(64 * 48).reshape(48, 64) * 20).astype(np.uint16)).save(stream, "PNG")
    for data in (stream.getvalue(), png(tiny.image()[:, :, 0].copy())):
        answer = served.gateway.predict(served.model, data)
        assert answer.status_code == 200, answer.text
        assert np.array_equal(mask_of(answer), tiny.answer(decode(data), served.threshold)["mask"])


GIF = io.BytesIO()
Image.new("RGB", (8, 8)).save(GIF, "GIF")
BAD_IMAGES = {
    "0 bytes": (b"", 400, "empty"),
    "truncated jpeg": (jpeg(tiny.image())[:-400], 422, "truncated"),
    "truncated png": (png(tiny.image())[:-400], 422, "truncated"),
    "100 megapixels in a header": (header_bomb(), 413, "too_many_pixels"),
    "text as jpeg": (b"this is a letter, not a picture" * 10, 415, "not_an_image"),
    "another format": (GIF.getvalue(), 415, "not_an_image"),
    "more bytes than are taken": (b"\xff\xd8" + bytes(1024 * 1024), 413, "too_large"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_get_a_status_and_a_reason(served, case) -> None:
    data, status, reason = BAD_IMAGES[case]
    problem(served.gateway.predict(served.model, data), status, reason)


def test_bad_uploads_get_a_status_and_a_reason(served) -> None:
    gateway, headers = served.gateway, {"X-API-Key": served.gateway.key}
    url = f"{gateway.url}/v1/models/{served.model}/predict"

    def post(**content) -> httpx.Response:
        return HTTP.post(url, **{"headers": headers, **content})

    problem(post(content=png(tiny.image())), 415, "not_multipart")
    problem(post(files={"picture": ("a.png", b"x")}), 422, "missing_image")
    problem(post(data={"image": "x"}, files={"other": ("a", b"x")}), 422, "missing_image")
    kind = {**headers, "Content-Type": "multipart/form-data; boundary=x"}
    problem(post(content=b"no boundary here", headers=kind), 400, "malformed_upload")
    problem(post(content=b"", headers={**kind, "Content-Type": "multipart/form-data"}), 400, "malformed_upload")
    problem(post(files={"image": ("a", b"x")}, params={"overlay": "maybe"}), 422, "invalid_parameter")
    problem(gateway.predict("no_such_model", png(tiny.image())), 404, "unknown_model")
    problem(gateway.get("/v1/nothing"), 404, "not_found")
    problem(gateway.get(f"/v1/models/{served.model}/predict"), 405, "method_not_allowed")


def test_an_upload_without_end_is_cut_off(served) -> None:
    """A chunked upload declares no length: it is counted while it arrives."""
    sent = 0

    def endless():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        while sent < 300 * 1024 * 1024:
            sent += 65536
            yield bytes(65536)

    headers = {"X-API-Key": served.gateway.key, "Content-Type": "multipart/form-data; boundary=x"}
    url = f"{served.gateway.url}/v1/models/{served.model}/predict"
    problem(HTTP.post(url, content=endless(), headers=headers), 413, "too_large")
    assert sent < 50 * 1024 * 1024

    # A length that is declared is refused before anything is read.
    with raw_upload(served, 10**12) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def raw_upload(served, length: int) -> socket.socket:
    """A connection on which an upload has only begun."""
    host, _, port = served.gateway.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST /v1/models/{served.model}/predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {served.gateway.key}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n--x\r\n"
    connection.sendall(head.encode())
    return connection


def test_a_client_that_hangs_up_costs_nothing(served) -> None:
    with raw_upload(served, 90_000):
        time.sleep(0.2)
    assert served.gateway.predict(served.model, png(tiny.image())).status_code == 200


def test_keys_decide_who_may_ask(served) -> None:
    gateway, image = served.gateway, png(tiny.image())
    url = f"{gateway.url}/v1/models/{served.model}/predict"

    def ask(headers: dict[str, str]) -> httpx.Response:
        return HTTP.post(url, files={"image": image}, headers=headers)

    assert ask({"Authorization": f"Bearer {gateway.key}"}).status_code == 200
    answer = ask({})
    problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    problem(ask({"X-API-Key": new_key()}), 401, "unauthorized")
    problem(ask({"X-API-Key": hash_key(gateway.key)}), 401, "unauthorized")
    problem(ask({"Authorization": f"Basic {gateway.key}"}), 401, "unauthorized")
    for path in ("/v1/models", f"/v1/models/{served.model}"):
        problem(HTTP.get(f"{gateway.url}{path}"), 401, "unauthorized")

    # A new caller needs no restart; a file that is being edited locks nobody out; a removed caller is out.
    before, key = gateway.keys.read_text(), new_key()
    gateway.keys.write_text(json.dumps({**json.loads(before), "nurse": hash_key(key)}))
    until(lambda: ask({"X-API-Key": key}).status_code == 200, "the new key to be taken")
    gateway.keys.write_text('{"half')
    time.sleep(1.2)
    assert ask({"X-API-Key": key}).status_code == 200
    gateway.keys.write_text(before)
    until(lambda: ask({"X-API-Key": key}).status_code == 401, "the removed key to be refused")


def test_models_are_listed_and_operations_carry_no_secret(served) -> None:
    gateway = served.gateway
    (listed,) = gateway.get("/v1/models").json()["models"]
    assert listed == gateway.get(f"/v1/models/{served.model}").json()
    assert (listed["release"], listed["desired"], listed["ready"]) == (served.digest, served.digest, True)
    assert listed["releases"] == [{"digest": served.digest, "active": True, "precision": "fp32"}]
    assert [info["name"] for info in listed["classes"]] == ["background", "red"]
    problem(gateway.get("/v1/models/no_such_model"), 404, "unknown_model")
    public = [HTTP.get(f"{gateway.url}{path}") for path in ("/healthz", "/readyz", "/metrics")]
    assert [answer.status_code for answer in public] == [200, 200, 200]
    assert public[1].json() == {"ready": True, "models": [served.model]}
    for answer in public:
        assert gateway.key not in answer.text
        assert hash_key(gateway.key) not in answer.text
    assert f'modelport_gateway_requests_total{{model="{served.model}",reason="",status="200"}}' in public[2].text


def test_a_connection_may_rest_for_longer_than_servers_usually_wait(served) -> None:
    # Uvicorn's own patience is 5 s: who asked again just then was hung up on.
    connection = http.client.HTTPConnection(served.gateway.url.removeprefix("http://"), timeout=30)
    connection.auto_open = 0  # no other connection in its place
    connection.connect()
    for rest in (6, 0):
        connection.request("GET", "/healthz")
        assert json.loads(connection.getresponse().read()) == {"status": "ok"}
        time.sleep(rest)
    connection.close()


def test_the_api_document_is_complete(served) -> None:
    document = HTTP.get(f"{served.gateway.url}/openapi.json").json()
    assert set(document["paths"]) == {
        *("/v1/models", "/v1/models/{name}", "/v1/models/{name}/predict", "/healthz", "/readyz", "/metrics")
    }
    predict = document["paths"]["/v1/models/{name}/predict"]["post"]
    assert set(predict["responses"]) == {"200", *map(str, DOCUMENTED)}
    problem_schema = {"$ref": "#/components/schemas/Problem"}
    for status in DOCUMENTED:
        assert predict["responses"][str(status)]["content"]["application/json"]["schema"] == problem_schema
    assert "Retry-After" in predict["responses"]["503"]["headers"]
    answer = predict["responses"]["200"]["content"]["application/json"]
    schemas = {task: f"#/components/schemas/{task.title()}Prediction" for task in ("segment", "detect", "classify")}
    assert answer["schema"]["oneOf"] == [{"$ref": schema} for schema in schemas.values()]
    assert answer["schema"]["discriminator"] == {"propertyName": "task", "mapping": schemas}
    for task, example in answer["examples"].items():
        assert parse_prediction(json.dumps(example["value"])).task == task
    upload = predict["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert upload["properties"]["image"]["format"] == "binary"
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas, "errors have one shape"
    assert set(schemas["Reason"]["enum"]) == {reason.value for reason in Reason}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert ("security" in operation) == path.startswith("/v1/")
    assert set(document["components"]["securitySchemes"]) == {"APIKeyHeader", "HTTPBearer"}
    body = served.gateway.predict(served.model, png(tiny.image()), overlay=True).json()
    assert set(body) == set(schemas["SegmentPrediction"]["properties"])


def test_swaps_under_traffic_fail_nothing_and_every_answer_is_its_releases(stand, start) -> None:
    model = "busy"
    images = [tiny.image(seed, 40 + seed, 60 + seed) for seed in range(4)]
    thresholds = (0.25, 0.5, 0.75)
    digests = [stand.publish(model, threshold=threshold) for threshold in thresholds]
    expected = {
        digest: [tiny.answer(image, threshold)["mask"] for image in images]
        for digest, threshold in zip(digests, thresholds, strict=True)
    }
    # The old release goes sooner than the gateway looks again: it has to notice by being told "unknown model".
    agent = start.agent(model, grace=0.1)
    agent.want({model: digests[0]})
    agent.serving(model, digests[0])
    gateway = start.gateway(agent)
    until(lambda: gateway.get("/readyz").is_success, "the gateway to be ready")
    uploads = [png(image) for image in images]
    stop, failures, seen = threading.Event(), list[str](), list[str]()

    def ask(number: int) -> None:
        with httpx.Client(headers={"X-API-Key": gateway.key}, trust_env=False, timeout=40) as client:
            while not stop.is_set():
                answer = client.post(f"{gateway.url}/v1/models/{model}/predict", files={"image": uploads[number]})
                if answer.status_code != 200:
                    failures.append(answer.text)
                elif not np.array_equal(mask_of(answer), expected[answer.json()["release"]][number]):
                    failures.append(f"{answer.json()['release'][:12]} did not say this")
                else:
                    seen.append(answer.json()["release"])

    with ThreadPoolExecutor(len(images)) as pool:
        clients = [pool.submit(ask, number) for number in range(len(images))]
        try:
            for digest in [*digests[1:], *digests[:2]]:
                agent.want({model: digest})
                agent.serving(model, digest)
                until(lambda wanted=digest: seen[-1] == wanted, "answers of the new release")
        finally:
            stop.set()
        for client in clients:
            client.result(timeout=60)
    assert failures == []
    assert set(seen) == set(digests)


def test_what_is_away_is_said_and_comes_back(stand, start) -> None:
    model, image = "away", png(tiny.image())
    good, bad = stand.publish(model), stand.publish(model, flipped=True)
    agent = start.agent(model)
    gateway = start.gateway(agent, deadline=1.5, max_in_flight=2, max_queued=1, queue_seconds=0.5)
    until(lambda: gateway.predict(model, image).status_code == 404, "the gateway to know that there is no such model")

    agent.want({model: bad})
    agent.error(model, "answered wrongly")
    answer = gateway.predict(model, image)
    problem(answer, 503, "no_release_ready")
    assert int(answer.headers["Retry-After"]) > 0
    assert gateway.get("/readyz").status_code == 503
    assert "answered wrongly" in gateway.get(f"/v1/models/{model}").json()["error"]

    agent.want({model: good})
    agent.serving(model, good)
    assert gateway.predict(model, image).status_code == 200

    # A dead agent takes nothing out of Triton.
    agent.process.kill()
    time.sleep(1.0)
    assert gateway.predict(model, image).status_code == 200
    assert gateway.get("/readyz").is_success

    # A Triton that hangs: the deadline ends two, one waits for its turn in vain, and the fourth finds the queue full.
    stand.triton.running.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: gateway.predict(model, image), range(4)))
    finally:
        stand.triton.running.send_signal(signal.SIGCONT)
    assert sorted(answer.status_code for answer in answers) == [503, 503, 504, 504]
    for answer in answers:
        problem(answer, answer.status_code, "deadline_exceeded" if answer.status_code == 504 else "busy")
    busy = sorted(answer.json()["message"] for answer in answers if answer.status_code == 503)
    assert ["1 requests wait" in busy[0], "too few ended in 0.5 s" in busy[1]] == [True, True], busy
    assert gateway.predict(model, image).status_code == 200

    stand.triton.kill()
    answer = gateway.predict(model, image)
    problem(answer, 503, "server_away")
    assert "Retry-After" in answer.headers
    assert gateway.get("/readyz").status_code == 503
    assert gateway.get("/healthz").status_code == 200, "restarting the gateway would not bring Triton back"
    stand.start_triton()
    # It is up and empty, and the agent is dead: nothing to ask.
    until(lambda: gateway.predict(model, image).json().get("reason") == "no_release_ready", "the empty Triton")
    fresh = start.gateway(agent)
    problem(fresh.predict(model, image), 503, "no_release_ready")  # nobody has said that there is no such model
    agent.process.start()
    agent.serving(model, good)
    until(lambda: gateway.predict(model, image).status_code == 200, "predictions to come back")


@pytest.mark.parametrize(
    ("limits", "in_flight"),
    [({"max_in_flight": 2}, 2), ({"max_megapixels_in_flight": 2e-6 * tiny.image()[:, :, 0].size}, 12)],
    ids=["places", "pixels"],
)
def test_a_moment_in_which_nothing_is_answered_is_waited_out(stand, start, limits, in_flight) -> None:
    model, image = "stalling", png(tiny.image())
    digest = stand.publish(model)
    agent = start.agent(model)
    gateway = start.gateway(agent, queue_seconds=30, **limits)
    agent.want({model: digest})
    agent.serving(model, digest)
    assert gateway.predict(model, image).status_code == 200
    stand.triton.running.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(gateway.predict, model, image) for _ in range(12)]
            until(lambda: "modelport_gateway_queued 10.0" in gateway.get("/metrics").text, "ten of them to wait")
            assert f"modelport_gateway_in_flight {in_flight}.0" in gateway.get("/metrics").text
            stand.triton.running.send_signal(signal.SIGCONT)
            assert [answer.result().status_code for answer in asked] == [200] * 12
    finally:
        stand.triton.running.send_signal(signal.SIGCONT)
    assert "modelport_gateway_queued 0.0" in gateway.get("/metrics").text


def test_a_model_that_fails_on_an_input_is_a_bad_gateway(stand, start) -> None:
    model = "fragile"
    agent = start.agent(model)
    gateway = start.gateway(agent)
    digest = stand.publish(model, **{"preprocess/model.onnx": tiny.preprocess(only_size=(48, 64))})
    agent.want({model: digest})
    agent.serving(model, digest)
    assert gateway.predict(model, png(tiny.image())).status_code == 200
    problem(gateway.predict(model, png(tiny.image(0, 20, 20))), 502, "inference_failed")
    assert gateway.predict(model, png(tiny.image())).status_code == 200


def test_a_gateway_without_keys_replicas_or_a_spool_does_not_start(stand, start) -> None:
    gateway = start.gateway(start.agent("unused"), wait=False)
    gateway.process.kill()
    gateway.keys.write_text(json.dumps({"tester": gateway.key}))
    gateway.process.start()
    assert gateway.process.running.wait(timeout=30) == 2
    assert "is not a SHA-256" in gateway.process.said()
    assert gateway.key not in gateway.process.said(), "a key written there by mistake must not reach a log"
    gateway.keys.write_text(json.dumps({"tester": hash_key(gateway.key)}))
    gateway.process.start()
    until(lambda: gateway.get("/healthz").is_success, "the gateway")
    twin = start.gateway(start.agent("unused too", wait=False), wait=False, spool=gateway.spool)
    assert twin.process.running.wait(timeout=30) == 4
    assert "another gateway has this spool" in twin.process.said()
    lonely = start.gateway(wait=False)
    assert lonely.process.running.wait(timeout=30) == 2
    assert "agent_urls" in lonely.process.said()
