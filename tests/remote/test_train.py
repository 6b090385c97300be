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
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from modelport.cli.train import _for_cluster
from modelport.connection import Connection, Role
from modelport.contract import find_model
from modelport.data import push
from modelport.errors import BadInput, ModelportError
from modelport.objects import ObjectStore
from modelport.remote.cluster import KubernetesCluster
from modelport.remote.training import follow, new_lines, nothing_done, waiting
from modelport.training.rayjob import Phase
from modelport.training.submit import Submission
from tests.cluster.garbage import collected
from tests.remote.conftest import STACK, Person, Stack, end, until

TRAINING = "/apis/ray.io/v1/namespaces/modelport-training/rayjobs"
MAPS = "/api/v1/namespaces/modelport-training/configmaps"
ACCOUNTS = "/api/v1/namespaces/modelport-training/serviceaccounts"
ACCOUNT = f"{ACCOUNTS}/dry-wet-ray"


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
    (account,) = job["metadata"]["ownerReferences"]
    assert (account["kind"], account["name"]) == ("ServiceAccount", "dry-wet-ray")
    assert account["uid"] == stack.control_plane.get(ACCOUNT)["metadata"]["uid"]

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
            told = following.stdout.read()
            assert "the RayJob was deleted" in told
            assert "--again goes on" in told
            assert following.wait(timeout=30) == 1
        finally:
            end(following)
        stack.control_plane.wait_for("kube-controller-manager", "takes the bundle away", lambda: not bundles(stack))


def test_what_was_trained_goes_with_its_model(stack: Stack, trainer: Person) -> None:
    cluster = stack.control_plane
    collected(cluster, "modelport-training")
    cluster.end_ray_jobs("SUCCEEDED")
    with account_put_back(stack):
        code, told = train(trainer)
        assert code == 0, told
        (job,) = jobs(stack)
        assert "ray.io/rayjob-finalizer" in job["metadata"]["finalizers"]
        delete_account(stack)
        cluster.wait_for("ray-operator", "lets go of the RayJob", lambda: not jobs(stack))
        cluster.wait_for("kube-controller-manager", "deletes the account", lambda: cluster.find(ACCOUNT) is None)
        cluster.wait_for("kube-controller-manager", "takes the bundle away", lambda: not bundles(stack))


def test_a_model_goes_when_its_trainings_have_gone(stack: Stack, trainer: Person) -> None:
    cluster = stack.control_plane
    collected(cluster, "modelport-training")
    with unattended(stack), account_put_back(stack):
        following = trainer.start("connect", STACK, "--", "modelport", "train", "dry_wet")
        try:
            until(following, "waiting for KubeRay")
            (job,) = jobs(stack)
            path = f"{TRAINING}/{job['metadata']['name']}"
            # As if it took its time to end.
            patch(stack, path, {"finalizers": ["tests.modelport.dev/hold"]})
            delete_account(stack)
            cluster.wait_for(
                "kube-controller-manager",
                "deletes the RayJob",
                lambda: "deletionTimestamp" in cluster.get(path)["metadata"],
            )
            assert "deletionTimestamp" in cluster.get(ACCOUNT)["metadata"]
            code, told = other_training(trainer)
            assert code == 4, told
            assert "ServiceAccount modelport-training/dry-wet-ray: is being deleted" in told

            patch(stack, path, {"finalizers": None})
            assert following.stdout is not None
            assert "the RayJob was deleted" in following.stdout.read()
            cluster.wait_for("kube-controller-manager", "deletes the account", lambda: cluster.find(ACCOUNT) is None)
            code, told = other_training(trainer)
            assert code == 2, told
            assert "ServiceAccount modelport-training/dry-wet-ray: is not there" in told
            assert jobs(stack) == []
        finally:
            end(following)


def other_training(person: Person) -> tuple[int, str]:
    """One that has no RayJob yet."""
    return train(person, "--set", "train.parameters.epochs=3")


def delete_account(stack: Stack) -> None:
    """Delete what the model's trainings go with, as Pulumi's provider does."""
    stack.control_plane.request("DELETE", ACCOUNT, {"propagationPolicy": "Foreground"})


def patch(stack: Stack, path: str, metadata: dict[str, Any]) -> None:
    stack.control_plane.request("PATCH", path, {"metadata": metadata}, content_type="application/merge-patch+json")


@contextlib.contextmanager
def account_put_back(stack: Stack) -> Generator[None]:
    """What is done to the account of the model's trainings is undone afterwards."""
    cluster = stack.control_plane
    kept = cluster.get(ACCOUNT)
    kept["metadata"] = {key: kept["metadata"][key] for key in ("name", "labels", "annotations")}
    try:
        yield
    finally:
        for job in jobs(stack):
            if "tests.modelport.dev/hold" in job["metadata"].get("finalizers", ()):
                patch(stack, f"{TRAINING}/{job['metadata']['name']}", {"finalizers": None})

        def there_or_not() -> bool:
            found = cluster.find(ACCOUNT)
            return found is None or "deletionTimestamp" not in found["metadata"]

        cluster.wait_for("kube-controller-manager", "deletes the account or not", there_or_not)
        if cluster.find(ACCOUNT) is None:
            cluster.request("POST", ACCOUNTS, kept)


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


@pytest.mark.parametrize(
    "given",
    [{"workers": 3}, {"overrides": ("train.epochs=3", "train.workers.gpus=1")}, {"overrides": ("train.workers={}",)}],
)
def test_what_the_stack_decides_is_not_asked_of_a_cluster(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="a stack decides") as caught:
        _for_cluster(None, **{"overrides": (), "workers": None, **given})
    assert "modelport:models.NAME.train.workers" in str(caught.value.remedy)
    assert _for_cluster(None, ("train.workers_of_mine=3",), None) == ["--set", "train.workers_of_mine=3"]


@pytest.mark.parametrize(("unfinished", "said"), [(False, "see `modelport versions"), (True, "stopped before its end")])
def test_a_training_that_was_stopped_is_no_success(unfinished: bool, said: str) -> None:
    jobs = SimpleNamespace(asked=object(), all=list)
    submission = Submission(None, "run a was begun", unfinished)
    if not unfinished:
        assert said in nothing_done("dry_wet", jobs, submission)
        return
    with pytest.raises(ModelportError, match=said) as caught:
        nothing_done("dry_wet", jobs, submission)
    assert "`modelport train dry_wet --again` goes on" in str(caught.value.remedy)


def test_a_progress_bar_does_not_end_the_following() -> None:
    cluster = KubernetesCluster.__new__(KubernetesCluster)
    text = "1 download\n2 10 %\r99 %\x0b\u2028end\n\n3 epoch 1/2\n"
    cluster._core = Mock(read_namespaced_pod_log=Mock(return_value=text))
    fresh, last = new_lines(cluster.log("n", "p", None), ("", set()))
    assert fresh == ["download", "10 %\r99 %\x0b\u2028end", "epoch 1/2"]
    assert new_lines(["4 epoch 2/2"], last)[0] == ["epoch 2/2"]


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
