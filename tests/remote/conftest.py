"""A stack in a control plane, as the real program makes it, with people in groups of their own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes
import pytest

from infra import platform, workload
from infra.cluster import Cluster
from infra.plan import plan
from modelport.connection import Connection, Role
from tests.cluster.control_plane import ControlPlane
from tests.components.recording import Recorded, record
from tools import crds

PROJECT = Path(__file__).resolve().parents[2]
STACK = "dev"
ACCESS = {
    "reader": ["reader"],
    "trainer": ["trainer"],
    "promoter": ["promoter"],
    "gateway/hospital": ["hospital"],
    "gateway/road": ["hospital-and-road"],
}
"""Groups are called after what they may; `hospital-and-road` may also ask as the hospital."""
EVERYBODY = ("reader", "trainer", "promoter", "hospital", "hospital-and-road", "nobody")
_SETTINGS = {
    "modelport:owner": "tests",
    "modelport:image": "registry.test/platform:1",
    "modelport:cluster": {"kind": "existing", "nodes": {"all": {"cpus": 14, "memory": "60Gi", "count": 9}}},
    "modelport:gateway": {"callers": ["hospital", "road"]},
    "modelport:monitoring": {"enabled": False},
    "modelport:operators": {"kuberay": False, "keda": False},
}
_KINDS = {"ConfigMap", "Secret", "Service", "Role", "RoleBinding", "ServiceAccount", "Namespace"}
_NAMESPACES = ("modelport-registry", "modelport-training", "modelport-serving")
_SECRET = "4dabf18193072939515e22adb298388d"
"""Pulumi's mark of what is secret."""


def group(name: str) -> str:
    """The group that all service accounts of a namespace are in: how to be in a group without an identity provider."""
    return f"system:serviceaccounts:people-{name}"


def manifests(project: Path) -> list[dict[str, Any]]:
    """What the real program makes of a stack that people use with `modelport connect`."""
    access = {name: [group(each) for each in groups] for name, groups in ACCESS.items()}
    access["gateway/hospital"].append(group("hospital-and-road"))
    made = plan({**_SETTINGS, "modelport:access": access}, STACK, project)
    labels = {"modelport.dev/stack": STACK}

    def build() -> None:
        provider = kubernetes.Provider("cluster")
        nothing: dict[str, str] = {}
        base = Cluster(provider, pulumi.Output.from_input(""), pulumi.Output.from_input(nothing))
        shared = platform.build(made.settings, None, base, labels)
        opts = pulumi.ResourceOptions(providers=[provider])
        for model in made.models:
            workload.build(model, made.placed, made.settings, shared, labels, opts)

    return [_plain(each.inputs) for each in record(build) if _is_object(each)]


def _is_object(resource: Recorded) -> bool:
    return (
        resource.type.startswith("kubernetes:")
        and resource.kind in _KINDS
        and resource.inputs.get("metadata", {}).get("namespace") in (None, *_NAMESPACES)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value["value"]) if _SECRET in value else {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


@dataclass
class Person:
    """Somebody at a laptop: his kubeconfig, his state folder, what he has on PATH."""

    stack: "Stack"
    name: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "modelport", *arguments]

    def run(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `modelport` to its end."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            cwd=self.stack.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `modelport` in a terminal of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.stack.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def left(self) -> list[str]:
        """Files of credentials in the state folder."""
        return sorted(str(path.relative_to(self.state)) for path in self.state.rglob("*.json"))

    def session(self, *options: str) -> dict[str, Any]:
        """What a program that is started in a session finds: its variables, and each file with its mode."""
        done = self.run("connect", STACK, *options, "--", sys.executable, "-c", _SHOW)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


_SHOW = """
import json, os, pathlib, stat
folder = pathlib.Path(os.environ["MODELPORT_SESSION"])
mode = lambda path: stat.S_IMODE(path.stat().st_mode)
print(json.dumps({
    "variables": {name: value for name, value in os.environ.items() if name.startswith("MODELPORT_")},
    "folder": mode(folder),
    "files": {file.stem: {"mode": mode(file), **json.loads(file.read_text())} for file in folder.glob("*.json")},
}))
"""


@dataclass
class Stack:
    """A stack that people connect to."""

    control_plane: ControlPlane
    project: Path
    """A copy of the project: model folders may be changed in it."""
    ports: dict[str, int]
    """Servers of this machine that stand behind ports of pods."""
    folder: Path

    @property
    def forwarded(self) -> Path:
        """A line for each forward that was started."""
        return self.folder / "forwarded"

    def plan(self, **more: str) -> None:
        """Say what kubectl does."""
        plan = {"ports": self.ports, "log": str(self.forwarded), **more}
        (self.folder / "kubectl.json").write_text(json.dumps(plan))

    def person(self, name: str, folder: Path) -> Person:
        """Somebody of a group, with a folder of his own."""
        admin = json.loads(self.control_plane.kubeconfig.read_text())
        token = self.control_plane.kubectl("create", "token", "me", "-n", f"people-{name}").strip()
        admin["users"][0]["user"] = {"token": token}
        programs = folder / "bin"
        programs.mkdir(parents=True)
        kubectl = programs / "kubectl"
        kubectl.write_text(f'#!/bin/sh\nexec {sys.executable} -I {Path(__file__).parent}/kubectl_stand_in.py "$@"\n')
        kubectl.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODELPORT_", "KUBE"))}
        made = Person(self, name, folder)
        made.environment = {
            **kept,
            # No pulumi: the kubeconfig says which cluster it is.
            "PATH": f"{programs}:/usr/bin:/bin",
            "KUBECONFIG": str(made.kubeconfig),
            "KUBECTL_STAND_IN": str(self.folder / "kubectl.json"),
            "MODELPORT_STATE": str(made.state),
            "PYTHONPATH": str(PROJECT),
        }
        made.kubeconfig.write_text(json.dumps(admin))
        return made

    def pod(self, namespace: str, name: str, labels: Mapping[str, str]) -> None:
        """A pod that only looks as if it ran."""
        security = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        container = {"name": "main", "image": "registry.test/any:1", "securityContext": security}
        self.control_plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            }
        )

    def pods_of(self, service: str, namespace: str, *names: str) -> None:
        """Let these pods, and no others, be behind a Service, ready."""
        found = self.control_plane.get(f"/api/v1/namespaces/{namespace}/services/{service}")
        selector: dict[str, str] = found["spec"]["selector"]
        query = ",".join(f"{key}%3D{value}" for key, value in selector.items())
        listing = f"/api/v1/namespaces/{namespace}/pods?labelSelector={query}"
        for name in names:
            self.pod(namespace, name, selector)
        for item in self.control_plane.get(listing)["items"]:
            if item["metadata"]["name"] not in names:
                path = f"/api/v1/namespaces/{namespace}/pods/{item['metadata']['name']}"
                self.control_plane.request("DELETE", f"{path}?gracePeriodSeconds=0")

        def ready() -> bool:
            items = self.control_plane.get(listing)["items"]
            conditions = [c for item in items for c in item["status"].get("conditions", ()) if c["type"] == "Ready"]
            return len(items) == len(names) == len(conditions) and all(c["status"] == "True" for c in conditions)

        self.control_plane.wait_for("kwok", f"makes the pods of {service} ready", ready)


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, s3_connection: Connection) -> Iterator[Stack]:
    """A stack that is up: what the real program makes, with the keys of a real object store."""
    project = tmp_path_factory.mktemp("project") / "checkout"
    shutil.copytree(PROJECT / "models" / "dry_wet", project / "models" / "dry_wet")
    with ControlPlane() as control_plane:
        control_plane.apply_crds(crds("ray-operator"))
        namespaces = [*_NAMESPACES, *(f"people-{name}" for name in EVERYBODY)]
        control_plane.apply(
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in namespaces)
        )
        control_plane.apply(
            *(
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": "me", "namespace": f"people-{name}"},
                }
                for name in EVERYBODY
            ),
            *(_with_key(manifest, s3_connection) for manifest in manifests(project)),
        )
        port = int(s3_connection.s3_endpoint.rpartition(":")[2])
        made = Stack(control_plane, project, {"9000": port}, tmp_path_factory.mktemp("stack"))
        made.plan()
        for service, namespace in (("object-store", "registry"), ("mlflow", "registry"), ("gateway", "serving")):
            made.pods_of(service, f"modelport-{namespace}", f"{service}-0")
        yield made


def _with_key(manifest: dict[str, Any], real: Connection) -> dict[str, Any]:
    """A role's Secret with the key that the object store of this machine knows."""
    text = manifest.get("stringData", {}).get("connection.json")
    if text is None:
        return manifest
    document = json.loads(text)
    for role in document["s3_keys"]:
        if role in set(Role):
            key = real.key_for(Role(role))
            document["s3_keys"][role] = {"access_key": key.access_key, "secret_key": key.secret_key}
    return {**manifest, "stringData": {"connection.json": json.dumps(document)}}


def until(process: subprocess.Popen[str], word: str) -> str:
    """What a process says up to the line with a word."""
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if word in line:
            return said
    pytest.fail(f"it ended: {said}")


def end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started, if it has not ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    if process.stdout is not None:
        process.stdout.close()
