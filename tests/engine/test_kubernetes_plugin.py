"""The stand-in for the Kubernetes provider on the real engine, against a real API server."""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_charts as charts  # pyright: ignore[reportMissingImports]
import psutil
import pytest
from kubernetes_api import access  # pyright: ignore[reportMissingImports]
from kubernetes_plugin import refusals  # pyright: ignore[reportMissingImports]
from kubernetes_ready import pending  # pyright: ignore[reportMissingImports]
from plugin_kit import Refused  # pyright: ignore[reportMissingImports]

from tests.cluster.control_plane import ControlPlane
from tests.engine.conftest import TinyEngine
from tests.engine.engine import Engine, EngineFailed, chart_definitions

PARTS = """
import pulumi
import pulumi_kubernetes as k8s

config = pulumi.Config()
SAFE = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pods(labels, security=SAFE, **more):
    container = {"name": "main", "image": "registry.example/main:1", "securityContext": security}
    return {"metadata": {"labels": labels}, "spec": {"containers": [container], **more}}


class Group(pulumi.ComponentResource):
    def __init__(self, name):
        super().__init__("tests:index:Group", name)


def space(name):
    return k8s.core.v1.Namespace(name, metadata={"name": name})
"""

WEB = (
    PARTS
    + """
under = pulumi.ResourceOptions(parent=Group("group"))
here = {"namespace": space("life").metadata["name"]}
labels = {"app": config.get("app") or "web"}
secret = k8s.core.v1.Secret(
    "secret", metadata={"name": "secret", **here}, string_data={"password": config.require_secret("password")}
)
settings = k8s.core.v1.ConfigMap("settings", metadata=here, data={"level": config.get("level") or "1"})
web = k8s.apps.v1.Deployment(
    "web",
    metadata={"name": "web", **here},
    spec={"replicas": config.get_int("replicas") or 2, "selector": {"matchLabels": labels}, "template": pods(labels)},
    opts=under,
)
service = k8s.core.v1.Service(
    "service", metadata={"name": "web", **here}, spec={"selector": labels, "ports": [{"port": 80}]}, opts=under
)
pulumi.export("address", service.spec["cluster_ip"])
pulumi.export("settings", settings.metadata["name"])
"""
)


def test_objects_are_made_kept_changed_replaced_and_destroyed(tiny: TinyEngine, control_plane: ControlPlane) -> None:
    engine = tiny(WEB, kubeconfig=control_plane.kubeconfig)
    engine.config_set("password", "canary-in-the-mine", secret=True)

    made = engine.up()
    assert {step.name for step in made.created} >= {"life", "secret", "settings", "web", "service"}
    assert any("webhooks" in text for text in made.diagnostics), "says what it cannot do"
    first = engine.outputs()
    assert control_plane.get("/api/v1/namespaces/life/services/web")["spec"]["clusterIP"] == first["address"]
    assert control_plane.get("/apis/apps/v1/namespaces/life/deployments/web")["status"]["readyReplicas"] == 2
    assert "canary" not in json.dumps(engine.export())
    assert "canary" in json.dumps(engine.export(show_secrets=True))

    again = engine.preview()
    assert again.empty, str(again)

    control_plane.kubectl("-n", "life", "scale", "deployment/web", "--replicas=1")
    control_plane.kubectl("-n", "life", "delete", "service/web")
    drift = engine.refresh()
    assert [step.name for step in drift.updated] == ["web"]
    assert [step.name for step in drift.deleted] == ["service"]

    engine.config_set("app", "other")
    engine.config_set("level", "2")
    changed = engine.preview()
    assert [step.name for step in changed.created] == ["service"]
    replaced = {step.name: step.changed for step in changed.replaced}
    # Pulumi's provider replaces a ConfigMap whose data changes, the API server would not; the selector is the server's.
    assert replaced["settings"] == {"data.level"}
    assert {"spec.replicas", "spec.selector.matchLabels.app"} <= replaced["web"]

    engine.up()
    assert engine.outputs()["settings"] != first["settings"], "a name that Pulumi made is new for a replacement"
    web = control_plane.get("/apis/apps/v1/namespaces/life/deployments/web")
    assert (web["spec"]["selector"]["matchLabels"], web["spec"]["replicas"]) == ({"app": "other"}, 2)

    engine.destroy()
    assert "life" not in _namespaces(control_plane)
    assert not engine.export()["deployment"].get("resources")


def test_an_unknown_field_fails_in_the_preview_with_its_name(tiny: TinyEngine, control_plane: ControlPlane) -> None:
    program = (
        "k8s.apps.v1.Deployment('web', metadata={'namespace': space('new').metadata['name']}, spec={"
        "'replicaz': 2, 'selector': {'matchLabels': {'app': 'a'}}, 'template': pods({'app': 'a'})})"
    )
    engine = tiny(PARTS + program, kubeconfig=control_plane.kubeconfig)
    with pytest.raises(EngineFailed) as refused:
        engine.preview()
    assert "replicaz" in str(refused.value.diagnostics)


INSECURE = """
here = {"namespace": space("strict").metadata["name"]}
security = SAFE if config.get_bool("safe") else {}
data = {"app": "data"}
k8s.apps.v1.Deployment(
    "web",
    metadata={"name": "web", **here},
    spec={"selector": {"matchLabels": {"app": "web"}}, "template": pods({"app": "web"}, security)},
)
k8s.apps.v1.StatefulSet(
    "data",
    metadata={"name": "data", **here},
    spec={"serviceName": "data", "selector": {"matchLabels": data}, "template": pods(data, security)},
)
"""


def test_pods_that_admission_refuses_fail_with_the_reason_and_can_be_mended(
    tiny: TinyEngine, control_plane: ControlPlane
) -> None:
    engine = tiny(PARTS + INSECURE, kubeconfig=control_plane.kubeconfig)
    with pytest.raises(EngineFailed) as refused:
        engine.up("--continue-on-error")
    for name in ("web-", "data-0"):
        reasons = [text for text in refused.value.diagnostics if f'pods "{name}' in text]
        assert reasons, refused.value.diagnostics
        assert "violates PodSecurity" in reasons[0]
        assert "allowPrivilegeEscalation" in reasons[0]
    assert {"web", "data"} <= _names(engine), "objects that exist but failed stay in the state"

    engine.config_set("safe", "true")
    mended = engine.up()
    assert {step.name for step in mended.updated} == {"web", "data"}


RELEASE = """
keda = k8s.helm.v3.Release(
    "keda",
    name="keda",
    namespace="default",
    chart=config.get("chart") or "keda",
    version="2.18.0",
    repository_opts={"repo": "https://charts.example"},
    values={"replicas": 1},
)
k8s.apiextensions.CustomResource(
    "scaled",
    api_version="tests.modelport/v1",
    kind="Scaled",
    metadata={"name": "scaled", "namespace": "default"},
    spec={"most": 3},
    opts=pulumi.ResourceOptions(depends_on=[keda]),
)
pulumi.export("status", keda.status["status"])
"""

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: scaleds.tests.modelport
spec:
  group: tests.modelport
  names:
    kind: Scaled
    plural: scaleds
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              most: {type: integer}
"""


def test_a_chart_brings_its_kinds_and_only_known_charts_are_taken(
    tiny: TinyEngine, control_plane: ControlPlane, tmp_path: Path
) -> None:
    (tmp_path / "crds" / "keda").mkdir(parents=True)
    (tmp_path / "crds" / "keda" / "scaled.yaml").write_text(DEFINITION)
    engine = tiny(
        PARTS + RELEASE, kubeconfig=control_plane.kubeconfig, env={charts.DEFINITIONS_VARIABLE: str(tmp_path / "crds")}
    )
    assert {step.name for step in engine.preview().created} >= {"keda", "scaled"}
    engine.up()
    path = "/apis/tests.modelport/v1/namespaces/default/scaleds/scaled"
    assert control_plane.get(path)["spec"] == {"most": 3}
    assert engine.outputs()["status"] == "deployed"

    engine.config_set("chart", "podinfo")
    with pytest.raises(EngineFailed) as refused:
        engine.preview()
    assert "knows the charts kuberay-operator, kube-prometheus-stack, keda, cert-manager" in str(refused.value)

    engine.destroy()
    assert "scaleds" not in control_plane.kubectl("api-resources", "--api-group=tests.modelport", "-o", "name")


STUCK = """
here = {"namespace": space("stuck").metadata["name"]}
first = k8s.core.v1.ConfigMap("first", metadata={"name": "first", **here}, data={})
k8s.apps.v1.Deployment(
    "never",
    metadata={"name": "never", **here},
    spec={"selector": {"matchLabels": {"app": "a"}}, "template": pods({"app": "a"}, nodeSelector={"no": "node"})},
    opts=pulumi.ResourceOptions(depends_on=[first]),
)
"""


def test_what_was_made_before_a_plugin_died_stays_in_the_state(
    tiny: TinyEngine, control_plane: ControlPlane, tmp_path: Path
) -> None:
    engine = tiny(PARTS + STUCK, kubeconfig=control_plane.kubeconfig)
    failures: list[EngineFailed] = []

    def update() -> None:
        try:
            engine.up()
        except EngineFailed as error:
            failures.append(error)

    updating = threading.Thread(target=update)
    updating.start()
    deadline = time.monotonic() + 60
    while "never" not in control_plane.kubectl("-n", "stuck", "get", "deployments", "-o", "name", "--ignore-not-found"):
        assert time.monotonic() < deadline
        assert updating.is_alive(), failures
        time.sleep(0.2)
    _plugin(tmp_path).kill()
    updating.join(timeout=60)

    assert not updating.is_alive()
    assert failures[0].diagnostics
    assert {"stuck", "first"} <= _names(engine)


def _seen(kind: str, **status: Any) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": kind, "status": {"observedGeneration": 1, **status}}


def _condition(kind: str, name: str, message: str, status: str = "True", reason: str = "Why") -> dict[str, Any]:
    return _seen(kind, conditions=[{"type": name, "status": status, "reason": reason, "message": message}])


def _refused_before() -> dict[str, Any]:
    """A deployment with a new template, which still tells that pods of the one before were refused."""
    failure = {"type": "ReplicaFailure", "status": "True", "message": "it violates PodSecurity"}
    progress = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetCreated"}
    times = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z")
    conditions = [{**one, "lastUpdateTime": time} for one, time in zip((failure, progress), times, strict=True)]
    return _seen("Deployment", conditions=conditions)


@pytest.mark.parametrize(
    ("item", "reason", "hopeless"),
    [
        ({**_seen("Deployment"), "spec": {"replicas": 0}}, None, False),
        (_seen("Deployment", readyReplicas=1, updatedReplicas=1), None, False),
        (_seen("Deployment", readyReplicas=1, updatedReplicas=1, observedGeneration=0), "has not seen", False),
        (_seen("Deployment", readyReplicas=1), "1 of 1 pods are ready, 0 of", False),
        (_condition("Deployment", "ReplicaFailure", "quota exceeded"), "quota exceeded", False),
        (_condition("Deployment", "ReplicaFailure", "it violates PodSecurity"), "PodSecurity", True),
        (_refused_before(), "PodSecurity", False),
        (_condition("Deployment", "Progressing", "slow", "False", "ProgressDeadlineExceeded"), "slow", True),
        ({**_seen("StatefulSet", readyReplicas=1), "spec": {"replicas": 2}}, "1 of 2", False),
        (
            {**_seen("StatefulSet", readyReplicas=1), "spec": {"updateStrategy": {"type": "OnDelete"}}},
            None,
            False,
        ),
        (_seen("DaemonSet"), None, False),
        (_seen("DaemonSet", desiredNumberScheduled=3, numberReady=2), "2 of 3", False),
        ({"apiVersion": "batch/v1", "kind": "Job"}, "not complete", False),
        ({**_condition("Job", "Complete", ""), "apiVersion": "batch/v1"}, None, False),
        ({**_condition("Job", "Failed", "limit"), "apiVersion": "batch/v1"}, "limit", True),
        ({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "status": {"phase": "Pending"}}, "Pending", False),
        ({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "status": {"phase": "Bound"}}, None, False),
        ({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Failed"}}, "Failed", True),
        ({"apiVersion": "v1", "kind": "ConfigMap"}, None, False),
    ],
)
def test_readiness_is_what_the_status_says(item: dict[str, Any], reason: str | None, hopeless: bool) -> None:
    waiting = pending({"metadata": {"generation": 1}, **item})
    if reason is None:
        assert waiting is None
    else:
        assert waiting is not None
        assert reason in waiting.reason
        assert waiting.hopeless is hopeless


@pytest.mark.parametrize(
    ("token", "inputs", "field"),
    [
        ("kubernetes:apps/v1:DeploymentPatch", {}, ""),
        ("kubernetes:core/v1:ConfigMapList", {}, ""),
        ("kubernetes:yaml:ConfigGroup", {}, ""),
        ("kubernetes:helm.sh/v4:Chart", {}, ""),
        ("kubernetes:core/v1:ConfigMap", {"kind": "ConfigMap"}, "apiVersion"),
        ("kubernetes:core/v1:ConfigMap", {"metadata": {"generateName": "a-"}}, "metadata.generateName"),
        (
            "kubernetes:core/v1:ConfigMap",
            {"metadata": {"annotations": {"pulumi.com/waitFor": "condition=Ready"}}},
            'metadata.annotations["pulumi.com/waitFor"]',
        ),
    ],
)
def test_what_is_not_emulated_is_refused(token: str, inputs: Mapping[str, Any], field: str) -> None:
    assert field in [found for found, _ in refusals(token, inputs)]


GOOD_RELEASE = {"chart": "keda", "version": "1", "repositoryOpts": {"repo": "https://charts.example"}, "values": {}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, None),
        ({"chart": "podinfo"}, "chart"),
        ({"version": None}, "version"),
        ({"repositoryOpts": {}}, "repositoryOpts.repo"),
        ({"repositoryOpts": {"repo": "https://charts.example", "password": "x"}}, "repositoryOpts.password"),
        ({"postrender": "sed"}, "postrender"),
    ],
)
def test_a_release_that_is_not_emulated_is_refused_by_its_field(change: dict[str, Any], field: str | None) -> None:
    inputs = {key: value for key, value in {**GOOD_RELEASE, **change}.items() if value is not None}
    assert [found for found, _ in charts.refusals(inputs)] == ([field] if field else [])


def test_definitions_are_read_from_any_document_of_a_file() -> None:
    found = list(charts.parse(f"# a comment\n---\nkind: Namespace\n---{DEFINITION}"))
    assert [(item.name, item.group, item.kind, item.namespaced) for item in found] == [
        ("scaleds.tests.modelport", "tests.modelport", "Scaled", True)
    ]


@pytest.mark.parametrize("running", [(), ("kuberay-operator",)])
def test_every_chart_has_its_definitions(
    running: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(charts.DEFINITIONS_VARIABLE, str(chart_definitions(tmp_path / "crds", running=running)))
    found = {
        chart: {item.kind for item in charts.definitions({"chart": chart, "values": {"crds": {"enabled": True}}})}
        for chart in charts.CHARTS
    }
    assert found == {
        "cert-manager": {"Certificate"},
        "keda": {"ScaledObject"},
        "kube-prometheus-stack": {"PodMonitor", "PrometheusRule"},
        "kuberay-operator": {"RayJob"} | ({"RayCluster", "RayService", "RayCronJob"} if running else set()),
    }


def test_a_chart_whose_values_leave_its_kinds_out_brings_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cert-manager").mkdir()
    (tmp_path / "cert-manager" / "all.yaml").write_text(DEFINITION)
    monkeypatch.setenv(charts.DEFINITIONS_VARIABLE, str(tmp_path))
    assert charts.definitions({"chart": "cert-manager", "values": {}}) == []
    assert len(charts.definitions({"chart": "cert-manager", "values": {"crds": {"enabled": True}}})) == 1
    assert charts.definitions({"chart": "cert-manager", "values": {"installCRDs": True}, "skipCrds": True}) == []


def _kubeconfig(user: dict[str, Any]) -> str:
    return json.dumps(
        {
            "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "home"}}],
            "current-context": "x",
        }
    )


BY_PROGRAM = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "gke-gcloud-auth-plugin"}}


def test_a_kubeconfig_is_read_by_its_text_or_its_path(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(_kubeconfig({"token": "t"}))
    by_path = access({"kubeconfig": str(tmp_path / "kubeconfig")})
    by_text = access({"kubeconfig": _kubeconfig({"token": "t"}), "namespace": "away"})
    assert (by_path.url, by_path.namespace, by_path.headers) == (
        "https://192.0.2.1",
        "home",
        {"Authorization": "Bearer t"},
    )
    assert by_text.namespace == "away"


def test_a_cluster_with_logins_by_a_program_is_stood_for_by_the_cluster_of_the_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubeconfig").write_text(_kubeconfig({"token": "t"}).replace("192.0.2.1", "192.0.2.2"))
    monkeypatch.setenv("MODELPORT_TEST_CLUSTER", str(tmp_path / "kubeconfig"))
    assert access({"kubeconfig": _kubeconfig(BY_PROGRAM)}).url == "https://192.0.2.2"
    assert access({"kubeconfig": _kubeconfig({"token": "t"})}).url == "https://192.0.2.1"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"kubeconfig": "/nowhere/kubeconfig"}, "/nowhere/kubeconfig cannot be read"),
        ({"kubeconfig": "{}"}, "no contexts"),
        ({"kubeconfig": _kubeconfig({"token": "t"}), "context": "other"}, "no context 'other'"),
        ({"kubeconfig": _kubeconfig({})}, "neither a token nor"),
        ({"kubeconfig": _kubeconfig(BY_PROGRAM)}, "MODELPORT_TEST_CLUSTER"),
        ({"kubeconfig": _kubeconfig({"exec": {**BY_PROGRAM["exec"], "command": ""}})}, "exec.command"),
        ({"kubeconfig": _kubeconfig({"exec": {"apiVersion": "v1", "command": "login"}})}, "exec.apiVersion"),
    ],
)
def test_a_kubeconfig_that_leads_nowhere_says_why(
    config: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELPORT_TEST_CLUSTER", raising=False)
    with pytest.raises(Refused) as refused:
        access(config)
    assert why in str(refused.value)


def _names(engine: Engine) -> set[str]:
    return {item["urn"].split("::")[-1] for item in engine.export()["deployment"].get("resources") or []}


def _namespaces(control_plane: ControlPlane) -> set[str]:
    return {item["metadata"]["name"] for item in control_plane.get("/api/v1/namespaces")["items"]}


def _plugin(folder: Path) -> psutil.Process:
    """The process of the Kubernetes plugin of an engine with its files in a folder."""
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if "kubernetes_plugin.py" in command and str(folder) in process.environ()["PULUMI_HOME"]:
                return process
        except (psutil.Error, KeyError):
            continue
    raise AssertionError("the Kubernetes plugin does not run")
