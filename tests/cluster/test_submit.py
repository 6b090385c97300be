"""`modelport submit` against a real API server and a real object store: one RayJob for each pair of code and data."""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.connection import Connection, Role
from modelport.contract import ModelFolder
from modelport.data import push
from modelport.imaging import encode_png
from modelport.objects import ObjectStore
from modelport.training.journal import Journal
from modelport.training.memory import remember
from modelport.training.rayjob import read_template
from modelport.training.submit import ClusterRayJobs, Command, Submission, submit
from tests.cluster.control_plane import ControlPlane
from tools import crds

MODEL_YAML = """\
name: {name}
task: segment
owner: tests
license: Apache-2.0
classes: [{{name: background}}, {{name: red}}]
data: {{name: {name}}}
train: {{parameters: {{epochs: 2}}, select: {{metric: dice}}}}
gate: {{metric: dice, minimum: 0.5}}
"""
ACCOUNT = "model-ray"
"""What the trainings' pods run as."""
RULES = [
    {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]},
    {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": [ACCOUNT], "verbs": ["get"]},
]


@dataclass
class Site:
    """A namespace in which a service account may submit, and what its pods have mounted."""

    control_plane: ControlPlane
    namespace: str
    connection: Connection
    folder: Path
    model: str

    @property
    def template(self) -> Path:
        return self.folder / "rayjob.json"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle.tar.gz"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def model_folder(self) -> ModelFolder:
        return ModelFolder(self.folder / "models" / self.model)

    def push(self, brightness: int) -> str:
        """Push a dataset; its digest."""
        data = self.folder / f"data{brightness}"
        for number in range(6):
            split = data / ("train" if number < 4 else "validation")
            image = np.full((8, 8, 3), brightness + number, np.uint8)
            for name, pixels in (("images", image), ("masks", np.zeros((8, 8), np.uint8))):
                (split / name).mkdir(parents=True, exist_ok=True)
                (split / name / f"{number}.png").write_bytes(encode_png(pixels))
        store = ObjectStore.connect(self.connection, Role.PROMOTER)
        return push(self.model, data, self.model_folder().spec, store).digest

    def authorize(self, account: str) -> None:
        """Be this service account from now on."""
        admin = json.loads(self.control_plane.kubeconfig.read_text())
        token = self.control_plane.kubectl("create", "token", account, "-n", self.namespace).strip()
        admin["users"][0]["user"] = {"token": token}
        self.kubeconfig.write_text(json.dumps(admin))

    def submit(self, *options: str) -> tuple[int, str]:
        """Exit code and what was said."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "modelport", "submit", self.model),
                *("--template", str(self.template), "--bundle", str(self.bundle), *options),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=self.folder,
            env={
                **os.environ,
                "KUBECONFIG": str(self.kubeconfig),
                "MODELPORT_CONNECTION": str(self.folder / "connection.json"),
            },
        )
        return done.returncode, done.stdout + done.stderr

    def rayjobs(self) -> dict[str, Any]:
        """Every RayJob by name."""
        items = self.control_plane.get(self.path())["items"]
        return {item["metadata"]["name"]: item for item in items}

    def path(self, name: str = "") -> str:
        return f"/apis/ray.io/v1/namespaces/{self.namespace}/rayjobs/{name}".rstrip("/")

    def account(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{ACCOUNT}"

    def ends(self, name: str, **status: str) -> None:
        """Say of a RayJob what KubeRay's operator would."""
        self.control_plane.request(
            "PATCH", f"{self.path(name)}/status", {"status": status}, content_type="application/merge-patch+json"
        )


@pytest.fixture
def site(control_plane: ControlPlane, s3_connection: Connection, tmp_path: Path) -> Iterator[Site]:
    control_plane.apply_crds(crds("ray-operator"))
    mark = secrets.token_hex(4)
    found = Site(control_plane, f"submit-{mark}", s3_connection, tmp_path, f"submitted_{mark}")
    meta = {"namespace": found.namespace}
    subjects = [{"kind": "ServiceAccount", "name": "trigger", "namespace": found.namespace}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "trigger"}
    rbac = "rbac.authorization.k8s.io/v1"
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": found.namespace}})
    control_plane.apply(
        *(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**meta, "name": name}}
            for name in ("trigger", "none", ACCOUNT)
        ),
        {"apiVersion": rbac, "kind": "Role", "metadata": {**meta, "name": "trigger"}, "rules": RULES},
        {
            "apiVersion": rbac,
            "kind": "RoleBinding",
            "metadata": {**meta, "name": "trigger"},
            "roleRef": role,
            "subjects": subjects,
        },
    )
    folder = found.model_folder().path
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(MODEL_YAML.format(name=found.model))
    (folder / "train.py").write_text("def train(run):\n    pass\n")
    found.bundle.write_bytes(found.model_folder().bundle().to_bytes())
    s3_connection.restricted_to(Role.TRAINER).save(tmp_path / "connection.json")
    command = f"modelport train {found.model} --bundle /b --data s3://modelport/datasets/{found.model} --checkpoints s3"
    containers = [{"name": "ray-head", "image": "registry.test/platform:1"}]
    pod = {"spec": {"serviceAccountName": ACCOUNT, "containers": containers}}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"generateName": "x-", "namespace": found.namespace, "labels": {"modelport.dev/owner": "tests"}},
        "spec": {
            "entrypoint": command,
            # The operator, if another test has started it, leaves these to somebody else.
            "managedBy": "kueue.x-k8s.io/multikueue",
            "rayClusterSpec": {"headGroupSpec": {"rayStartParams": {}, "template": pod}},
        },
    }
    found.template.write_text(json.dumps(job))
    found.authorize("trigger")
    yield found
    control_plane.request("DELETE", f"/api/v1/namespaces/{found.namespace}")


def test_a_pair_of_code_and_data_is_submitted_once_through_its_life(site: Site) -> None:
    code, told = site.submit()
    assert code == 0, told
    assert f"modelport data push {site.model} PATH" in told, "without data there is nothing to train, and no error"
    assert site.rayjobs() == {}

    digest = site.push(10)
    code, told = site.submit("--if-new")
    assert code == 0, told
    ((name, made),) = site.rayjobs().items()
    assert name.startswith(site.model.replace("_", "-"))
    assert name in told
    annotations = made["metadata"]["annotations"]
    assert annotations["modelport.dev/code"] == site.model_folder().bundle().digest
    assert digest in annotations["modelport.dev/data"]
    assert made["metadata"]["labels"]["modelport.dev/owner"] == "tests"
    account = site.control_plane.get(site.account())
    assert made["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "name": ACCOUNT,
            "uid": account["metadata"]["uid"],
            "blockOwnerDeletion": True,
        }
    ]
    run = annotations["modelport.dev/run"]
    assert name.endswith(run)
    assert made["spec"]["entrypoint"].endswith(f"manifests/{digest}.json --run {run}")

    for option in ("--if-new", "--again"):
        code, told = site.submit(option)
        assert (code, list(site.rayjobs())) == (0, [name]), told
        assert "already" in told

    # Failed: not by itself, but when somebody says so, and then the same run goes on.
    site.ends(name, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", message="out of memory")
    code, told = site.submit()
    assert (code, list(site.rayjobs())) == (0, [name]), told
    assert "AppFailed: out of memory" in told
    assert "--again" in told
    code, told = site.submit("--again")
    assert code == 0, told
    assert site.rayjobs()[f"{name}-2"]["metadata"]["annotations"]["modelport.dev/run"] == run

    # Done, and its RayJobs removed: what lies on S3 remembers, and a further run gets a name of its own.
    trainer = ObjectStore.connect(site.connection, Role.TRAINER)
    journal = Journal(run=run, finished=True)
    trainer.put(f"checkpoints/{site.model}/{run}/journal.json", journal.model_dump_json().encode())
    site.ends(f"{name}-2", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    assert "has trained this code" in site.submit()[1]
    for done in list(site.rayjobs()):
        site.control_plane.request("DELETE", site.path(done))
    code, told = site.submit()
    assert (code, site.rayjobs()) == (0, {}), told
    assert "there is nothing new" in told
    # Its checkpoints expire; that it was trained does not.
    remember(trainer, site.model, run, run)
    trainer.delete(f"checkpoints/{site.model}/{run}/journal.json")
    code, told = site.submit()
    assert (code, site.rayjobs()) == (0, {}), told
    assert "there is nothing new" in told
    code, told = site.submit("--again")
    assert site.rayjobs()[name]["metadata"]["annotations"]["modelport.dev/run"] == f"{run}-2", told
    # It fails before it has written anything: the same run goes on, and not the one that is finished.
    site.ends(name, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", message="no such image")
    code, told = site.submit("--again")
    assert site.rayjobs()[f"{name}-2"]["metadata"]["annotations"]["modelport.dev/run"] == f"{run}-2", told

    # Other data is another pair.
    other = site.push(60)
    code, told = site.submit()
    assert code == 0, told
    (added,) = set(site.rayjobs()) - {name, f"{name}-2"}
    assert other in site.rayjobs()[added]["spec"]["entrypoint"]


def test_of_several_at_once_one_creates_it_and_the_others_are_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.push(10)
    monkeypatch.setenv("KUBECONFIG", str(site.kubeconfig))
    everyone = threading.Barrier(4, timeout=60)

    class AtOnce(ClusterRayJobs):
        def create(self, body: dict[str, Any]) -> None:
            everyone.wait()  # all of them have looked, and found none
            super().create(body)

    template = read_template(site.template.read_text(), "template")
    results: list[Submission] = []

    def go() -> None:
        rayjobs = AtOnce(None, template)
        results.append(
            submit(site.model, template, site.bundle, Command(), connection=site.connection, rayjobs=rayjobs)
        )

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (name,) = site.rayjobs()
    assert sorted((result.rayjob or "") for result in results) == ["", "", "", name]
    assert all(name in result.message for result in results)


def test_nothing_is_submitted_that_would_outlive_the_model(site: Site) -> None:
    site.push(10)
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{site.namespace}/roles/trigger"

    def grant(rules: list[dict[str, Any]]) -> None:
        site.control_plane.request("PATCH", role, {"rules": rules}, content_type="application/merge-patch+json")

    # As a stack has it that was brought up before RayJobs had owners.
    grant(RULES[:1])
    code, told = site.submit()
    assert (code, site.rayjobs()) == (6, {}), told
    assert f"serviceaccounts/{ACCOUNT} in namespace {site.namespace}: may not get" in told
    assert "run `pulumi up`" in told
    grant(RULES)

    hold = {"metadata": {"finalizers": ["tests.modelport.dev/hold"]}}
    patch = "application/merge-patch+json"
    site.control_plane.request("PATCH", site.account(), hold, content_type=patch)
    site.control_plane.request("DELETE", site.account())
    code, told = site.submit()
    assert (code, site.rayjobs()) == (4, {}), told
    assert "is being deleted" in told

    site.control_plane.request("PATCH", site.account(), {"metadata": {"finalizers": None}}, content_type=patch)
    code, told = site.submit()
    assert (code, site.rayjobs()) == (2, {}), told
    assert f"serviceaccounts/{ACCOUNT} in namespace {site.namespace}: is not there" in told


def test_what_is_wrong_is_said(site: Site) -> None:
    site.push(10)
    site.authorize("none")
    code, told = site.submit()
    assert code == 6
    assert "may not list" in told
    assert "verbs get, list and create" in told
    site.authorize("trigger")
    code, told = site.submit("--namespace", "default")
    assert code == 6
    assert "in namespace default" in told

    job = json.loads(site.template.read_text())
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"] = "many"
    site.template.write_text(json.dumps(job))
    code, told = site.submit()
    assert code == 2
    assert "the template is refused" in told
    config = json.loads(site.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    site.kubeconfig.write_text(json.dumps(config))
    code, told = site.submit()
    assert code == 5
    assert "did not answer" in told
    assert "Traceback" not in told
