"""`modelport train` in a cluster: a real API server, KubeRay's operator, a real object store; nothing runs in pods."""

import base64
import contextlib
import io
import json
import os
import signal
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelport.connection import Connection, Role
from modelport.contract import find_model
from modelport.data import push
from modelport.objects import ObjectStore
from modelport.remote.training import follow, new_lines, waiting
from modelport.training.rayjob import Phase
from tests.remote.conftest import STACK, Person, Stack, end, until

TRAINING = "/apis/ray.io/v1/namespaces/modelport-training/rayjobs"
MAPS = "/api/v1/namespaces/modelport-training/configmaps"


@pytest.fixture
def trainer(stack: Stack, s3_connection: Connection, tmp_path: Path) -> Iterator[Person]:
    """Somebody who may train, in a stack with data and an operator, and a checkout that nobody has trained yet."""
    stack.plan()
    stack.control_plane.start_ray_operator()
    folder = find_model("dry_wet", stack.project)
    push(folder.spec.data.name, folder.path / "sample", folder.spec, ObjectStore.connect(s3_connection, Role.PROMOTER))
    code = folder.path / "train.py"
    kept = code.read_text()
    code.write_text(f"{kept}\n# not committed: {tmp_path}\n")
    yield stack.person("trainer", tmp_path / "trainer")
    code.write_text(kept)
    for job in jobs(stack):
        stack.control_plane.request("DELETE", f"{TRAINING}/{job['metadata']['name']}")
    stack.control_plane.wait_for("ray-operator", "lets go of RayJobs", lambda: not jobs(stack))


def jobs(stack: Stack) -> list[dict[str, Any]]:
    return stack.control_plane.get(TRAINING)["items"]


def bundles(stack: Stack) -> list[dict[str, Any]]:
    """ConfigMaps of bundles that go with a RayJob."""
    return [item for item in stack.control_plane.get(MAPS)["items"] if item["metadata"].get("ownerReferences")]


def train(person: Person, *options: str) -> tuple[int, str]:
    done = person.run("connect", STACK, "--", "modelport", "train", "dry_wet", *options)
    return done.returncode, done.stdout + done.stderr


def test_the_code_of_the_checkout_is_trained_to_itsend(stack: Stack, trainer: Person) -> None:
    stack.control_plane.end_ray_jobs("SUCCEEDED")
    code, told = train(trainer, "--set", "train.parameters.epochs=2")
    assert code == 0, told
    (job,) = jobs(stack)
    name = job["metadata"]["name"]
    assert f"RayJob {name} has succeeded" in told
    assert "next      modelport gate dry_wet" in told
    assert "--set train.parameters.epochs=2" in job["spec"]["entrypoint"]
    assert "--checkpoints s3" in job["spec"]["entrypoint"], "as the stack's template has it"

    (bundle,) = bundles(stack)
    (owner,) = bundle["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("RayJob", job["metadata"]["uid"])
    assert bundle["immutable"]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(bundle["binaryData"]["bundle.tar.gz"]))) as archive:
        packed = archive.extractfile("train.py")
        assert packed is not None
        assert b"# not committed" in packed.read()
    spec = job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        sources = [
            source["configMap"]["name"]
            for volume in group["template"]["spec"]["volumes"]
            for source in volume.get("projected", {}).get("sources", ())
            if "configMap" in source
        ]
        assert sources == [bundle["metadata"]["name"]]

    # Once is enough; and it goes on from what failed only when that is said.
    code, told = train(trainer, "--set", "train.parameters.epochs=2")
    assert code == 0
    assert f"RayJob {name} has trained this code on this data" in told
    assert len(jobs(stack)) == 1
    stack.control_plane.end_ray_jobs("FAILED")
    code, told = train(trainer)
    assert code == 1, told
    assert "failed" in told
    code, told = train(trainer)
    assert code == 1, told
    assert "modelport train dry_wet --again" in told
    assert len(jobs(stack)) == 2


def test_it_goes_on_when_nobody_follows_it_and_can_be_followed_again(stack: Stack, trainer: Person) -> None:
    with unattended(stack):
        following = trainer.start("connect", STACK, "--", "modelport", "train", "dry_wet")
        assert following.stdout is not None
        try:
            until(following, "waiting for KubeRay")
            os.killpg(following.pid, signal.SIGINT)
            told = following.stdout.read()
            assert following.wait(timeout=30) == 130, told
        finally:
            end(following)
        (job,) = jobs(stack)
        name = job["metadata"]["name"]
        assert f"RayJob {name} goes on" in told
        assert f"--namespace=modelport-training delete rayjob {name}" in told
        assert trainer.left() == []

        # As if we had been killed between the RayJob and its bundle.
        (bundle,) = bundles(stack)
        stack.control_plane.request("DELETE", f"{MAPS}/{bundle['metadata']['name']}")
        following = trainer.start("connect", STACK, "--", "modelport", "train", "dry_wet")
        try:
            told = until(following, "waiting for KubeRay")
            assert f"RayJob {name} trains this code on this data already" in told
            (mended,) = bundles(stack)
            assert mended["metadata"]["name"] == bundle["metadata"]["name"]
            assert mended["metadata"]["uid"] != bundle["metadata"]["uid"]

            stack.control_plane.request("DELETE", f"{TRAINING}/{name}")
            assert following.stdout is not None
            assert "the RayJob was deleted" in following.stdout.read()
            assert following.wait(timeout=30) == 1
        finally:
            end(following)
        stack.control_plane.wait_for("kube-controller-manager", "takes the bundle away", lambda: not bundles(stack))


def test_what_a_cluster_cannot_do_is_said(stack: Stack, trainer: Person) -> None:
    code, told = train(trainer, "--workers", "3")
    assert code == 2
    assert "modelport:models.NAME.train.workers" in told
    code, told = train(trainer, "--data", "./data")
    assert code == 2
    assert "modelport data push" in told
    other = stack.project / "models" / "new_here"
    code = trainer.run("connect", STACK, "--", "modelport", "train", "new_here").returncode
    assert code == 2, "no such folder"
    assert not other.exists()
    path = f"{MAPS}/dry-wet-rayjob"
    kept = stack.control_plane.get(path)
    stack.control_plane.request("DELETE", path)
    try:
        code, told = train(trainer)
    finally:
        del kept["metadata"]["resourceVersion"]
        stack.control_plane.request("POST", MAPS, kept)
    assert code == 2
    assert "the stack does not know how to train 'dry_wet'" in told
    assert "pulumi up" in told
    assert jobs(stack) == []


@contextlib.contextmanager
def unattended(stack: Stack) -> Generator[None]:
    """RayJobs that the operator leaves to somebody else, so that they neither begin nor end."""
    path = f"{MAPS}/dry-wet-rayjob"
    kept = stack.control_plane.get(path)["data"]["rayjob.json"]
    template = json.loads(kept)
    template["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"

    def say(text: str) -> None:
        body = {"data": {"rayjob.json": text}}
        stack.control_plane.request("PATCH", path, body, content_type="application/merge-patch+json")

    say(json.dumps(template))
    try:
        yield
    finally:
        say(kept)


class Seen:
    """A RayJob that goes through phases, as somebody who looks sees it."""

    def __init__(self, *steps: tuple[dict[str, str], list[str]]) -> None:
        self._steps = list(steps)
        self.asked: list[int | None] = []

    def job(self) -> dict[str, Any]:
        self._status, self._lines = self._steps.pop(0)
        return {"metadata": {"name": "x"}, "status": self._status}

    def pods(self, job: object) -> list[dict[str, Any]]:
        labels = {"batch.kubernetes.io/job-name": "x"}
        started = {"metadata": {"name": "x-abc", "labels": labels}, "status": {"phase": "Running"}}
        return [started] if self._lines else []

    def lines(self, pod: str, seconds: int | None) -> list[str]:
        self.asked.append(seconds)
        return self._lines


def test_what_a_training_prints_is_told_once_and_to_theend() -> None:
    said: list[str] = []
    first, second = "2026-11-21T10:00:00.100000000Z epoch 1/2", "2026-11-21T10:00:02.000000000Z epoch 2/2"
    last = "2026-11-21T10:00:02.000000000Z release abc"
    seen = Seen(
        ({"jobDeploymentStatus": "Initializing"}, []),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, [first]),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, [first, second]),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, [second, last]),
    )
    ended = follow(seen, said.append, pause=0)
    assert ended.phase is Phase.SUCCEEDED
    assert said == [
        "-- Initializing",
        "-- Running (RUNNING)",
        "epoch 1/2",
        "epoch 2/2",
        "-- Complete (SUCCEEDED)",
        "release abc",
    ]
    assert seen.asked[0] is None
    assert all(seconds for seconds in seen.asked[1:]), "of a long log, only what is new"


def test_lines_of_one_moment_are_told_apart() -> None:
    fresh, last = new_lines(["1 a", "2 b"], ("", set()))
    assert fresh == ["a", "b"]
    fresh, last = new_lines(["2 b", "2 c", "3 d"], last)
    assert fresh == ["c", "d"]
    assert new_lines(["2 c", "3 d"], last)[0] == []


def test_why_pods_wait_is_told() -> None:
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/3 nodes are available: 3 Insufficient cpu",
    }
    pulling = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    starting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert waiting(
        [
            {"metadata": {"name": "head"}, "status": {"conditions": [unschedulable]}},
            {"metadata": {"name": "worker"}, "status": {"containerStatuses": [pulling, starting]}},
            {"metadata": {"name": "new"}},
        ]
    ) == [
        "pod head waits: 0/3 nodes are available: 3 Insufficient cpu",
        "pod worker waits: ImagePullBackOff not found",
    ]
