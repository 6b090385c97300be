"""The proof of `modelport new`: a model nobody wrote code for is trained, gated, promoted, served and asked.

Commands are run as a user runs them, in a project of this test's own, on the platform that all tests share.
"""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modelport.connection import Connection, Role
from modelport.contract import Task, check, find_model
from modelport.imaging import decode
from modelport.objects import ObjectStore
from modelport.promotion import desired, gate, promote, read_log
from modelport.release import FP32, Registry, Release, Runtime, build, compare
from modelport.scaffold import create
from tests.plain_http import HTTP
from tests.release import redness
from tests.serving.waiting import until
from tests.training.in_process import train_here

NAME, OTHER = "snow_level", "red_before_snow"
LOOKS = {"bare": (70, 65, 62), "slush": (140, 120, 100), "snow": (225, 228, 238)}


def photograph(level: str, seed: int) -> bytes:
    """JPEG of a road with asphalt, brown slush in ruts, or snow; sizes differ."""
    random = np.random.default_rng((sorted(LOOKS).index(level), seed))
    height, width = random.integers(70, 110, 2)
    picture = np.full((height, width, 3), LOOKS[level], np.float64) * random.uniform(0.92, 1.06)
    picture += random.normal(0, {"bare": 14, "slush": 6, "snow": 2}[level], (height, width, 1))
    if level == "slush":
        rut = np.sin(np.arange(width) / width * random.uniform(9, 14) + random.uniform(0, 6))
        picture += 28 * rut[None, :, None]
    stream = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(stream, format="JPEG", quality=90)
    return stream.getvalue()


@dataclass(frozen=True)
class Project:
    """A project's root on the shared platform."""

    root: Path
    state: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command of the user's."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELPORT_")}
        return subprocess.Popen(
            [sys.executable, "-m", "modelport", *arguments],
            cwd=self.root,
            env={**environment, "MODELPORT_STATE": str(self.state)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        """What a command of the user's prints."""
        running = self.start(*arguments)
        try:
            said, _ = running.communicate(timeout=300)
        finally:
            running.kill()
        assert running.returncode == 0, f"modelport {' '.join(arguments)}:\n{said}"
        return said


def ask(platform: Connection, model: str, image: bytes) -> dict[str, Any]:
    headers = {"X-API-Key": platform.gateway_api_key or ""}
    url = f"{platform.gateway_url}/v1/models/{model}/predict"
    answer = HTTP.post(url, files={"image": image}, headers=headers, timeout=30)
    return answer.raise_for_status().json()


def serving(platform: Connection, model: str) -> str | None:
    headers = {"X-API-Key": platform.gateway_api_key or ""}
    answer = HTTP.get(f"{platform.gateway_url}/v1/models/{model}", headers=headers)
    return answer.json()["release"] if answer.is_success else None


def without_chance(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in ("request_id", "milliseconds")}


@pytest.fixture
def project(platform: Connection, platform_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a model that is served already."""
    monkeypatch.setenv("MODELPORT_PROJECT", str(tmp_path))
    monkeypatch.setenv("MODELPORT_STATE", str(platform_state))
    folder = redness.write_project(tmp_path, OTHER)
    built = build(folder, redness.trained(folder, platform), platform, folder.spec)
    assert gate(OTHER, built.digest, str(tmp_path / "data"), connection=platform).passed
    promote(OTHER, built.digest, connection=platform)
    until(lambda: serving(platform, OTHER) == built.digest, f"{OTHER} to be served", 60)
    return Project(tmp_path, platform_state)


def test_images_in_class_folders_become_a_served_model(project: Project, platform: Connection) -> None:
    images = project.root / "photographs"
    for split, seeds in (("train", range(12)), ("validation", range(100, 104))):
        for level in LOOKS:
            (images / split / level).mkdir(parents=True)
            for seed in seeds:
                (images / split / level / f"{seed}.jpg").write_bytes(photograph(level, seed))
    other_image = (project.root / "models" / OTHER / "sample" / "golden" / "0.png").read_bytes()
    other_release, other_answer = serving(platform, OTHER), without_chance(ask(platform, OTHER, other_image))
    elsewhere = contents(project.root, NAME)

    said = project.run("new", NAME, "--task", "classify", "--classes", "bare,slush,snow")
    assert f"modelport train {NAME}" in said
    assert contents(project.root, NAME) == elsewhere
    assert f"{NAME}: ok" in project.run("check", NAME)
    options = ("--set", "train.epochs=8", "--set", "train.batch_size=4")
    training = ("train", NAME, "--data", str(images), *options)
    stopped(project, platform, *training)
    project.run(*training)
    assert status_in_mlflow(platform) == ["FINISHED"]
    project.run("gate", NAME, "--data", str(images))
    project.run("promote", NAME)
    digest = desired(read_log(ObjectStore.connect(platform, Role.SERVER), NAME))
    assert digest is not None
    assert Registry.connect(platform).aliases(NAME)["champion"] == digest
    until(lambda: serving(platform, NAME) == digest, f"{NAME} to be served", 60)

    for level in LOOKS:
        answer = ask(platform, NAME, photograph(level, 1000))
        assert (answer["label"], answer["release"]) == (level, digest)
        assert list(answer["probabilities"]) == ["bare", "slush", "snow"]
        assert answer["probabilities"][level] == max(answer["probabilities"].values()) > 0.4
    predicted = project.run("predict", NAME, str(images / "validation" / "slush" / "100.jpg"))
    assert "slush" in predicted

    assert contents(project.root, NAME) == elsewhere
    assert serving(platform, OTHER) == other_release
    assert without_chance(ask(platform, OTHER, other_image)) == other_answer
    assert {row["name"] for row in listed(platform)} >= {NAME, OTHER}


def stopped(project: Project, platform: Connection, *command: str) -> None:
    """Begin a training and end it as a pod is ended, or by whoever kills it by its number.

    Before its first epoch: what is kept of those, tests/training sees after harder kills.
    """
    running = project.start(*command)

    def begun() -> bool:
        assert running.poll() is None, running.communicate()[0]
        return status_in_mlflow(platform) == ["RUNNING"]

    until(begun, "the training to begin", 150)
    running.terminate()
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, said
    assert "the same command goes on" in said
    assert status_in_mlflow(platform) == ["KILLED"]


def status_in_mlflow(platform: Connection) -> list[str]:
    platform.configure_tracking()
    from mlflow import MlflowClient

    client = MlflowClient(platform.tracking_uri)
    experiment = client.get_experiment_by_name(NAME)
    runs = client.search_runs([experiment.experiment_id]) if experiment is not None else []
    return [run.info.status for run in runs]


def listed(platform: Connection) -> list[dict[str, Any]]:
    headers = {"X-API-Key": platform.gateway_api_key or ""}
    answer = HTTP.get(f"{platform.gateway_url}/v1/models", headers=headers).raise_for_status().json()
    return answer["models"] if isinstance(answer, dict) else answer


def contents(root: Path, without: str) -> dict[str, bytes]:
    """Files of a project, but for one model's and what Python keeps of modules that it has read."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_relative_to(root / "models" / without) and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("task", [Task.SEGMENT, Task.DETECT])
def test_the_other_tasks_train_on_their_sample_and_give_a_release(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELPORT_PROJECT", raising=False)
    monkeypatch.setenv("MODELPORT_STATE", str(tmp_path / "state"))
    (tmp_path / "models").mkdir()
    create(tmp_path, "fresh", task, ["first", "second"], owner="tests")
    folder = find_model("fresh", tmp_path)
    assert check(folder) == []
    result = train_here(folder, folder.path / "sample", ["train.epochs=2"])
    assert len(result.epochs) == 2
    assert result.metrics["loss"] > 0
    built = build(folder, result, None, result.spec)
    release = Release.open(built.path, built.digest)
    runtime = Runtime(release)
    assert release.golden()
    for golden in release.golden():
        outputs = runtime.predict(decode(golden.data))
        assert compare(outputs, golden.expected, release.manifest.tolerances[FP32]) == []
