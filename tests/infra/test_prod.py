"""prod on the real engine: what it has that dev has not, and what it refuses."""

import json
from collections import Counter
from pathlib import Path

import pytest

from components.labels import COMPONENT
from tests.engine.engine import EngineFailed
from tests.infra.conftest import Up

ZONE = "topology.kubernetes.io/zone"


def test_state_is_highly_available(prod: Up):
    def replicas(kind: str, namespace: str, name: str) -> int:
        return prod.cluster.get(f"/apis/apps/v1/namespaces/{namespace}/{kind}/{name}")["spec"]["replicas"]

    assert replicas("statefulsets", "modelport-registry", "object-store") == 6
    pods = prod.cluster.get(f"/api/v1/namespaces/modelport-registry/pods?labelSelector={COMPONENT}=object-store")[
        "items"
    ]
    zones = {
        node["metadata"]["name"]: node["metadata"]["labels"][ZONE]
        for node in prod.cluster.get("/api/v1/nodes")["items"]
    }
    assert sorted(Counter(zones[pod["spec"]["nodeName"]] for pod in pods).values()) == [2, 2, 2], (
        "without one zone: four"
    )
    assert replicas("deployments", "modelport-registry", "mlflow") == 2
    assert replicas("statefulsets", "modelport-serving", "gateway") == 3
    instance = next(step for step in prod.first_up.created if step.type.endswith(":DatabaseInstance"))
    settings = instance.new_inputs["settings"]
    assert settings["availabilityType"] == "REGIONAL"
    assert settings["backupConfiguration"]["pointInTimeRecoveryEnabled"] is True
    assert settings["ipConfiguration"]["ipv4Enabled"] is False


def test_a_database_whose_disk_google_enlarged_is_left_alone(prod: Up):
    file = Path(prod.engine.env["MODELPORT_TEST_GCP"])
    cloud = json.loads(file.read_text())
    (kept,) = [key for key in cloud["resources"] if "databaseInstance" in key]
    for side in ("inputs", "outputs"):
        cloud["resources"][kept][side]["settings"]["diskSize"] = 37
    file.write_text(json.dumps(cloud))
    instance = next(step for step in prod.first_up.created if step.type.endswith(":DatabaseInstance"))
    changes = prod.engine.preview("--refresh", "--target", instance.urn)
    assert {step.op for step in changes.steps if step.urn == instance.urn} == {"refresh", "same"}


def test_the_control_plane_is_regional_and_private(prod: Up):
    cluster = next(step for step in prod.first_up.created if step.type == "gcp:container/cluster:Cluster")
    assert cluster.new_inputs["location"] == "europe-west4"
    assert cluster.new_inputs["deletionProtection"] is True
    assert cluster.new_inputs["privateClusterConfig"]["enablePrivateNodes"] is True
    endpoints = cluster.new_inputs["controlPlaneEndpointsConfig"]
    assert endpoints["ipEndpointsConfig"]["enabled"] is False
    assert endpoints["dnsEndpointConfig"]["allowExternalTraffic"] is True


def test_models_that_train_and_models_that_serve_have_pools_of_their_own(prod: Up):
    pods = prod.cluster.get("/api/v1/pods")["items"]
    nodes = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in pods}
    assert all(node.startswith("serving-cpu") for name, node in nodes.items() if name.startswith("triton-"))
    assert all(node.startswith("system") for name, node in nodes.items() if "trigger" in name), (
        "no node is woken for it"
    )
    assert all(node.startswith("system") for name, node in nodes.items() if name.startswith(("mlflow", "object-store")))


def test_rotating_a_key_changes_the_server_and_who_uses_it_and_nothing_else(prod: Up):
    prod.engine.config_set("modelport:rotation.trainer", "2", path=True)
    changes = prod.engine.up()
    changed = {step.name for step in changes.steps if step.op not in ("same", "read") and "modelport:" not in step.type}
    assert any("trainer" in name for name in changed)
    assert any("object-store-setup" in name for name in changed), "the store learns the new key"
    assert not any(name.startswith(("gateway", "triton", "postgres", "connection-agent")) for name in changed), changed
    secrets = prod.cluster.get("/api/v1/namespaces/modelport-training/secrets")["items"]
    assert [item["metadata"]["name"] for item in secrets if item["metadata"]["name"].startswith("connection-")] == [
        "connection-trainer-2-1"
    ]
    assert prod.engine.preview().empty


def test_destroying_it_is_refused_and_nothing_that_holds_data_goes(prod: Up):
    """The last of this stack's tests: what is not protected may be gone afterwards."""

    def kept() -> list[str]:
        claims = prod.cluster.get("/api/v1/persistentvolumeclaims")["items"]
        return sorted(f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in claims)

    before = kept()
    assert before
    with pytest.raises(EngineFailed) as caught:
        prod.engine.destroy()
    assert "protect" in str(caught.value)
    assert kept() == before
    left = {resource["type"] for resource in prod.engine.export()["deployment"]["resources"]}
    assert {"gcp:container/cluster:Cluster", "gcp:sql/databaseInstance:DatabaseInstance"} <= left
