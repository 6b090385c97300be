"""What `make demo` does, with a training that is shorter still: from the model folder to right answers under load."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelport.connection import Connection, Role
from modelport.errors import GateFailed
from modelport.loadtest import Target
from modelport.loadtest import run as run_load_test
from modelport.objects import ObjectStore
from modelport.promotion import desired, read_log
from modelport.release import Registry
from tests.plain_http import HTTP

PROJECT = Path(__file__).resolve().parents[2]
SAMPLE = PROJECT / "models" / "polyp_seg" / "sample"
MODEL = "polyp_seg"


@dataclass(frozen=True)
class Ran:
    """A demo that has ended."""

    code: int
    output: str
    out: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.out / "report.json").read_text())


def demo(state: Path, out: Path, *options: str, program: str = "modelport") -> Ran:
    command = [sys.executable, "-m", program, "demo", "--out", str(out), "--load-seconds", "4", *options]
    environment = {**os.environ, "MODELPORT_PROJECT": str(PROJECT), "MODELPORT_STATE": str(state)}
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=540)
    return Ran(done.returncode, done.stdout + done.stderr, out)


@pytest.fixture(scope="module")
def served(platform: Connection, platform_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A demo that goes well."""
    ran = demo(platform_state, tmp_path_factory.mktemp("served"), "--set", "train.epochs=2", "--minimum", "0")
    assert ran.code == 0, ran.output
    return ran


@pytest.fixture(scope="module")
def refused(served: Ran, platform_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A second demo on top of it, the same but for a minimum that it cannot reach, and trained without Ray."""
    options = ("--set", "train.epochs=2", "--minimum", "0.999")
    folder = tmp_path_factory.mktemp("refused")
    return demo(platform_state, folder, *options, program="tests.end_to_end.without_ray")


@pytest.fixture
def state(platform: Connection, platform_state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The platform for calls in this process."""
    monkeypatch.setenv("MODELPORT_PROJECT", str(PROJECT))
    monkeypatch.setenv("MODELPORT_STATE", str(platform_state))
    return platform_state


def answering(platform: Connection) -> str:
    """Digest of the release that the gateway answers with now."""
    headers = {"X-API-Key": platform.gateway_api_key or ""}
    return HTTP.get(f"{platform.gateway_url}/v1/models/{MODEL}", headers=headers).raise_for_status().json()["release"]


def test_the_report_says_what_happened(served: Ran, platform: Connection) -> None:
    report = served.report
    assert list(report) == ["data", "training", "metrics", "gate", "release", "serving", "load", "seconds"]
    data, training, release, serving, load = (report[key] for key in ("data", "training", "release", "serving", "load"))
    assert (data["train"] + data["selection"], data["held_out"]) == (48, 16)
    assert "CC BY 4.0" in data["attribution"]
    assert [set(epoch) for epoch in training["epochs"]] == [{"loss", "dice"}] * 2
    assert not training["resumed"]
    assert report["gate"]["passed"]
    assert (report["gate"]["minimum"], report["gate"]["minimum_of_model"], report["gate"]["overridden"]) == (
        0,
        0.8,
        True,
    )
    assert report["gate"]["value"] == report["metrics"]["held_out"]["dice"]
    assert serving["answered_by"] == release["digest"]
    assert serving["images"] == 16
    assert serving["differing_pixels"] <= 0.001 * serving["pixels"] == 0.001 * 16 * 352 * 352
    assert load["failed"] == 0
    assert load["requests"] > 10
    assert 1 < load["p50_ms"] <= load["p99_ms"] < 15_000
    # Two users who wait for their answers cannot have more than two requests under way.
    assert 0 < load["requests_per_s"] <= 2000 / load["p50_ms"] * 2
    steps = ["platform", "training", "release", "gate", "promotion", "serving", "load"]
    assert [name for name in report["seconds"] if name != "total"] == steps
    assert 0 < sum(report["seconds"][step] for step in steps) <= report["seconds"]["total"] + 0.1


def test_the_release_is_served_and_registered_as_the_report_says(served: Ran, platform: Connection) -> None:
    digest = served.report["release"]["digest"]
    evidence = json.loads(ObjectStore.connect(platform, Role.PROMOTER).get(served.report["gate"]["evidence"]))
    assert evidence["release"] == digest
    assert evidence["rules"]["minimum"] == 0
    assert evidence["rules"]["minimum_from"] == "the --minimum option"
    assert Registry.connect(platform).aliases(MODEL)["champion"] == digest


def test_the_page_needs_no_other_file(served: Ran) -> None:
    page = (served.out / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    pictures = [source for source in sources if source.startswith("data:image/png;base64,")]
    assert len(pictures) == 2 + 4 * 3  # curve, latency, and four images with truth and answer
    assert [
        source for source in sources if not source.startswith(("data:image/png;base64,", "http://127.0.0.1:"))
    ] == []
    assert "the model's own: 0.8" in page.replace("&#39;", "'")


def test_the_table_says_where_to_look_and_how_to_stop(served: Ran, platform: Connection) -> None:
    for needed in (platform.tracking_uri, platform.gateway_url, "tracking_password", "make down", "report.html"):
        assert needed in served.output
    for secret in (platform.tracking_password, platform.gateway_api_key):
        assert secret
        assert secret not in served.output
        assert secret not in (served.out / "report.html").read_text()
        assert secret not in (served.out / "report.json").read_text()


def test_a_release_that_misses_the_minimum_is_registered_and_not_promoted(
    refused: Ran, served: Ran, platform: Connection
) -> None:
    assert refused.code == GateFailed.exit_code == 3, refused.output
    report = refused.report
    assert report["failure"]["step"] == "gate"
    assert "misses the minimum 0.999" in report["failure"]["error"]
    assert report["training"] is not None
    assert not report["gate"]["passed"]
    assert (report["serving"], report["load"]) == (None, None)
    assert "misses the minimum 0.999" in (refused.out / "report.html").read_text()

    digest = report["release"]["digest"]
    assert digest != served.report["release"]["digest"]
    # It was trained anew, not remembered; and the same training gives the same network.
    assert report["training"]["run"] == served.report["training"]["run"] + "-2"
    assert not report["training"]["resumed"]
    assert report["training"]["epochs"] == served.report["training"]["epochs"]
    assert report["metrics"] == served.report["metrics"]
    assert Registry.connect(platform).find(MODEL, digest) is not None
    assert desired(read_log(ObjectStore.connect(platform, Role.SERVER), MODEL)) == served.report["release"]["digest"]
    assert answering(platform) == served.report["release"]["digest"]


@pytest.mark.parametrize("target", [Target.TRITON_HTTP, Target.TRITON_GRPC])
def test_triton_answers_its_own_clients_rightly(
    target: Target, served: Ran, platform: Connection, state: Path, tmp_path: Path
) -> None:
    report = run_load_test(MODEL, platform, target, 2, 2, tmp_path)
    assert report.passed, report.failures
    assert report.releases == (answering(platform),)
    assert report.requests > 10


def test_a_bad_option_fails_its_step_and_says_so(platform: Connection, platform_state: Path, tmp_path: Path) -> None:
    ran = demo(platform_state, tmp_path, "--set", "train.nonsense=1")
    assert ran.code == 2, ran.output
    assert ran.report["failure"]["step"] == "training"
    assert ran.report["training"] is None
    assert "nonsense" in ran.report["failure"]["error"]
    assert "Traceback" not in ran.output
