"""Locust's gateway users against a server of this test's own: do they count exactly the wrong answers as failed?"""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.contract import ClassSpec, Task
from modelport.errors import BadInput
from modelport.imaging import encode_png
from modelport.loadtest import LoadReport, Target, measure
from modelport.release import FileEntry, GoldenEntry, Release, ReleaseManifest, Tolerance, sha256

MASK = np.zeros((24, 32), np.uint8)
MASK[4:12, 5:20] = 1
COVERAGE = float(MASK.mean())

Answer = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of one golden image; it has no graphs, since only its answers are looked at."""
    folder = tmp_path_factory.mktemp("release")
    stream = BytesIO()
    np.savez(stream, mask=MASK, coverage=np.asarray([COVERAGE], np.float32))
    image = encode_png(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
    content = {"golden/a.png": image, "golden/a.png.npz": stream.getvalue()}
    (folder / "golden").mkdir()
    for path, data in content.items():
        (folder / path).write_bytes(data)
    manifest = ReleaseManifest(
        model="m",
        task=Task.SEGMENT,
        code_digest="0" * 64,
        data_digest="1" * 64,
        heldout_digest=None,
        run_key="r",
        mlflow_run_id=None,
        parameters={},
        classes=(ClassSpec(name="background"), ClassSpec(name="polyp")),
        thresholds={},
        license="Apache-2.0",
        metrics={},
        files={path: FileEntry(sha256=sha256(data), size=len(data)) for path, data in content.items()},
        golden=(GoldenEntry(file="golden/a.png", outputs="golden/a.png.npz"),),
        tolerances={"fp32": {"mask": Tolerance(differing=0.001), "coverage": Tolerance(absolute=0.001)}},
        versions={},
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return Release.open(folder)


@contextmanager
def server(answer: Callable[[int, bytes], Answer]) -> Iterator[str]:
    """A gateway that gives `answer(number of the request, its body)`; yields its URL."""
    numbers = iter(range(1_000_000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.headers.get("X-API-Key") == "the-key" and self.path == "/v1/models/m/predict"
            status, content = answer(next(numbers), body) if known else (401, {"detail": "no key"})
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(timeout=10)


def right(digest: str, mask: np.ndarray = MASK) -> dict[str, Any]:
    png = base64.b64encode(encode_png(mask * np.uint8(255))).decode()
    said = {"task": "segment", "release": digest, "precision": "fp32", "classes": [{"id": 0}, {"id": 1}]}
    return {**said, "mask": png, "coverage": COVERAGE}


def ask(release: Release, out: Path, answer: Callable[[int, bytes], Answer], key: str = "the-key") -> LoadReport:
    with server(answer) as url:
        return measure(
            "m", url, Target.GATEWAY, {release.digest: release.folder}, users=2, duration=1, out=out, api_key=key
        )


def test_every_wrong_answer_is_counted_and_named(release: Release, tmp_path: Path) -> None:
    small = MASK[:-1]
    shifted = np.roll(MASK, 3, axis=1)
    uploads: list[bytes] = []
    wrong: list[Answer] = [
        (200, right(release.digest, small)),
        (200, right(release.digest, shifted)),
        (200, right("f" * 64)),
        (200, {**right(release.digest), "mask": "no base64!"}),
        (200, {**right(release.digest), "precision": "int8"}),
        (503, {"detail": "Triton is away"}),
        *((503, {"reason": "busy", "message": "too many", "request_id": str(number)}) for number in range(2)),
    ]

    def answer(number: int, body: bytes) -> Answer:
        uploads.append(body)
        return wrong[number] if number < len(wrong) else (200, right(release.digest))

    report = ask(release, tmp_path, answer)

    assert report.requests > 20
    assert report.failed == len(wrong)
    assert not report.passed
    reasons = "\n".join(report.failures)
    assert report.failures["503: busy: too many"] == 2, "one reason, whatever the requests' numbers"
    for expected in ("mask has shape [23, 32]", "of mask differ", "release ffffffffffff", "nobody can read", "503"):
        assert expected in reasons
    assert "ran with int8, for which it states no tolerance" in reasons
    assert all((release.folder / "golden/a.png").read_bytes() in upload for upload in uploads)
    assert report.p50_ms is not None
    assert 0 < report.p50_ms <= (report.p99_ms or 0) < 5000
    assert json.loads((tmp_path / "report.json").read_text())["failed"] == len(wrong)
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "the-key" not in (tmp_path / "locust.log").read_text()


def test_a_server_that_is_away_fails_every_request(release: Release, tmp_path: Path) -> None:
    with server(lambda *_: (200, {})) as url:
        pass
    report = measure(
        "m", url, Target.GATEWAY, {release.digest: release.folder}, users=1, duration=1, out=tmp_path, api_key="k"
    )
    assert report.failed == report.requests > 0
    assert report.p50_ms is None


def test_a_wrong_key_fails_every_request(release: Release, tmp_path: Path) -> None:
    report = ask(release, tmp_path, lambda *_: (200, right(release.digest)), key="another")
    assert report.failed == report.requests > 0
    assert "401" in next(iter(report.failures))


def test_a_damaged_release_is_refused_before_anything_is_sent(release: Release, tmp_path: Path) -> None:
    from modelport.errors import ModelportError

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_bytes(b"{}")
    asked: list[int] = []
    with (
        server(lambda number, _: (asked.append(number), (200, {}))[1]) as url,
        pytest.raises(ModelportError, match="locust ended with code"),
    ):
        measure("m", url, Target.GATEWAY, {"0" * 64: broken}, users=1, duration=1, out=tmp_path)
    assert asked == []


@pytest.mark.parametrize(("users", "duration"), [(0, 5), (257, 5), (1, 0.2), (1, 7200)])
def test_runs_are_bounded(release: Release, tmp_path: Path, users: int, duration: float) -> None:
    with pytest.raises(BadInput, match="1 to"):
        measure("m", "http://127.0.0.1:9", Target.GATEWAY, {}, users=users, duration=duration, out=tmp_path)


def test_an_open_loop_asks_when_it_is_due_however_slow_the_answers_are(release: Release, tmp_path: Path) -> None:
    def answer(number: int, body: bytes) -> Answer:
        time.sleep(0.5)
        return 200, right(release.digest)

    def measured(out: Path, rate: float | None) -> LoadReport:
        folders = {release.digest: release.folder}
        with server(answer) as url:
            return measure(
                "m", url, Target.GATEWAY, folders, users=2, duration=4, out=out, api_key="the-key", rate=rate
            )

    waiting = measured(tmp_path / "closed", None)
    assert waiting.requests <= 2 * 4 / 0.5 + 2, "each user waits half a second for each answer"
    open_loop = measured(tmp_path / "open", 20)
    assert open_loop.failed == 0, open_loop.failures
    assert 60 <= open_loop.requests <= 82


@pytest.mark.parametrize(("rate", "target"), [(0, Target.GATEWAY), (2000, Target.GATEWAY), (5, Target.TRITON_HTTP)])
def test_rates_are_bounded(release: Release, tmp_path: Path, rate: float, target: Target) -> None:
    with pytest.raises(BadInput) as raised:
        measure("m", "http://127.0.0.1:9", target, {}, users=1, duration=5, out=tmp_path, rate=rate)
    assert raised.value.key == "--rate"
