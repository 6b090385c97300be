"""The example as a stranger's project: outside of this tree, its SDK made from the package, on the real engine."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ApiError, ControlPlane
from tests.engine.engine import Changes, Engine, EngineFailed

PROJECT = Path(__file__).resolve().parents[2]
NAMESPACE = "example-of-a-store"


@dataclass
class Outside:
    """The example's copy, its engine and its cluster."""

    engine: Engine
    cluster: ControlPlane

    def objects(self, path: str) -> dict[str, dict[str, Any]]:
        """Objects of a kind in the example's namespace, by name; the path is the API group's, then the kind's."""
        group, _, kind = path.rpartition("/")
        items = self.cluster.get(f"{group}/namespaces/{NAMESPACE}/{kind}")["items"]
        return {item["metadata"]["name"]: item for item in items}


@dataclass
class Up(Outside):
    """The example, up."""

    first_preview: Changes
    first_up: Changes


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, control_plane: ControlPlane) -> Outside:
    folder = tmp_path_factory.mktemp("outside")
    hidden = shutil.ignore_patterns("__pycache__", "sdks")
    project = shutil.copytree(
        PROJECT / "examples" / "object-store", folder / "examples" / "object-store", ignore=hidden
    )
    shutil.copytree(PROJECT / "components", folder / "components", ignore=hidden)
    # Nothing but the generated SDK is importable beside the environment's packages: pip would have installed it.
    engine = Engine(
        project,
        folder / "state",
        kubeconfig=control_plane.kubeconfig,
        env={"PYTHONPATH": str(project / "sdks" / "modelport")},
    )
    engine.run("install")
    engine.stack_init("dev")
    engine.config_set("namespace", NAMESPACE)
    return Outside(engine, control_plane)


@pytest.fixture(scope="module")
def up(outside: Outside) -> Iterator[Up]:
    preview = outside.engine.preview()
    made = outside.engine.up()
    try:
        yield Up(outside.engine, outside.cluster, preview, made)
    finally:
        outside.engine.destroy()


def test_the_preview_says_what_up_then_makes(up: Up):
    assert {step.urn for step in up.first_preview.created} == {step.urn for step in up.first_up.created}
    assert {"modelport:index:ObjectStore", "modelport:index:SecureNamespace"} <= {
        step.type for step in up.first_up.created
    }
    assert not up.first_up.failed


def test_a_second_preview_is_empty(up: Up):
    preview = up.engine.preview()
    assert preview.empty, str(preview)


def test_the_store_runs_with_its_volume(up: Up):
    assert up.objects("/apis/apps/v1/statefulsets")["store"]["status"]["readyReplicas"] == 1
    claim = up.objects("/api/v1/persistentvolumeclaims")["data-store-0"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    assert claim["status"]["phase"] == "Bound"
    [setup] = up.objects("/apis/batch/v1/jobs").values()
    assert setup["status"]["succeeded"] == 1


def test_the_setup_knows_both_buckets_and_what_each_consumer_may_do(up: Up):
    told = up.objects("/api/v1/configmaps")["store-setup"]["data"]
    assert told["buckets"] == "raw plain\nresults versioned\n"
    assert told["consumers"] == "collector\nanalyst\n"
    assert "results" not in told["policy-collector.json"]
    assert "lifecycle-raw.json" in told


def test_only_those_who_need_the_store_reach_it(up: Up):
    policies = up.objects("/apis/networking.k8s.io/v1/networkpolicies")
    assert set(policies) == {"default-deny", "allow-dns", "store-is-called", "setup-calls-store", "clients-call-store"}
    [called] = policies["store-is-called"]["spec"]["ingress"]
    assert [peer["podSelector"]["matchLabels"] for peer in called["from"]] == [
        {"example.com/uses": "object-store"},
        {"app.kubernetes.io/component": "object-store-setup"},
    ]
    assert called["ports"] == [{"port": 9000, "protocol": "TCP"}]
    # Numbers and words arrive as the schema says them, and the labels meet the pods that the component made.
    store = up.objects("/apis/apps/v1/statefulsets")["store"]["spec"]["template"]["metadata"]["labels"]
    assert policies["store-is-called"]["spec"]["podSelector"]["matchLabels"].items() <= store.items()


def test_outputs_say_where_it_is_and_hide_the_keys(up: Up):
    shown, known = up.engine.outputs(), up.engine.outputs(show_secrets=True)
    assert shown["endpoint"] == f"http://store.{NAMESPACE}.svc:9000"
    assert shown["access_keys"] == {"collector": "collector", "analyst": "analyst"}
    assert shown["secret_keys"] == "[secret]"
    assert set(known["secret_keys"]) == {"collector", "analyst"}
    keys = set(known["secret_keys"].values())
    assert len(keys) == 2
    state = str(up.engine.export())
    assert not [key for key in keys if key in state or key in up.first_up.log]


def test_what_a_component_refuses_is_said_in_the_users_terms(up: Up):
    program = up.engine.project / "__main__.py"
    text = program.read_text()
    program.write_text(text.replace('{"bucket": "results", "read"', '{"bucket": "result", "read"'))
    try:
        with pytest.raises(EngineFailed) as caught:
            up.engine.preview()
    finally:
        program.write_text(text)
    assert "consumers: analyst has rights in result, which is no bucket" in str(caught.value)


def test_nothing_is_left_after_destroy(up: Up):
    """The last one: it takes away what the others look at."""
    up.engine.destroy()
    assert not [resource["type"] for resource in up.engine.export()["deployment"].get("resources", [])]
    deadline = time.monotonic() + 60
    while _exists(up.cluster, f"/api/v1/namespaces/{NAMESPACE}"):
        assert time.monotonic() < deadline, f"namespace {NAMESPACE} is still there"
        time.sleep(0.2)
    left = up.cluster.get("/api/v1/persistentvolumes")["items"]
    assert not [item for item in left if item["spec"].get("claimRef", {}).get("namespace") == NAMESPACE]


def _exists(cluster: ControlPlane, path: str) -> bool:
    try:
        cluster.get(path)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True
