"""Which node objects are made, and which claims get a volume."""

from pathlib import Path
from typing import Any

import pytest

from tests.cluster import volumes
from tests.cluster.nodes import Node, gke_node
from tests.cluster.storage import volume_for


def test_a_gpu_node_of_gke_has_its_labels_its_taint_and_its_gpus() -> None:
    node = gke_node(
        "n",
        machine_type="g2-standard-12",
        cpu="11",
        memory="42Gi",
        pool="p",
        accelerator="nvidia-l4",
        gpus=2,
        spot=True,
    ).manifest()

    labels = node["metadata"]["labels"]
    assert labels["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    assert labels["cloud.google.com/gke-spot"] == "true"
    assert labels["node.kubernetes.io/instance-type"] == "g2-standard-12"
    assert labels["topology.kubernetes.io/region"] == "europe-west4"
    assert node["spec"]["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "2"


def test_a_node_without_gpus_says_nothing_of_them() -> None:
    node = gke_node("n", machine_type="e2-standard-8", cpu="7", memory="28Gi").manifest()

    assert node["spec"]["taints"] == []
    assert "nvidia.com/gpu" not in node["status"]["capacity"]
    assert "cloud.google.com/gke-accelerator" not in node["metadata"]["labels"]


@pytest.mark.parametrize(
    ("text", "taint"),
    [
        ("team=vision:NoExecute", {"key": "team", "value": "vision", "effect": "NoExecute"}),
        ("dedicated:NoSchedule", {"key": "dedicated", "value": "", "effect": "NoSchedule"}),
    ],
)
def test_taints_are_written_as_for_kubectl(text: str, taint: dict[str, str]) -> None:
    assert Node("n", taints=[text]).manifest()["spec"]["taints"] == [taint]


def claim(**changes: Any) -> dict[str, Any]:
    chosen = {"volume.kubernetes.io/selected-node": "general-1"}
    return {
        "metadata": {"namespace": "n", "name": "c", "uid": "1", "annotations": chosen, **changes.pop("metadata", {})},
        "spec": {
            "storageClassName": "standard-rwo",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            **changes,
        },
    }


@pytest.mark.parametrize(
    "unfit",
    [
        pytest.param(claim(storageClassName="somebody-elses"), id="another class"),
        pytest.param(claim(volumeName="pvc-1"), id="has a volume"),
        pytest.param(claim(metadata={"annotations": {}}), id="no pod was scheduled"),
        pytest.param(claim(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), id="going"),
    ],
)
def test_no_volume_for_a_claim_that_asks_for_none(unfit: dict[str, Any]) -> None:
    assert volume_for(unfit) is None


def test_a_volume_is_as_large_as_asked_for_and_reserved_for_its_claim() -> None:
    volume = volume_for(claim())

    assert volume is not None
    assert volume["spec"]["capacity"] == {"storage": "1Gi"}
    assert volume["spec"]["claimRef"]["uid"] == "1"


def test_a_folder_is_where_its_pod_is() -> None:
    made = volumes.volume_for(claim(storageClassName=volumes.FOLDER), Path("/volumes"))

    assert made is not None
    assert made["spec"]["local"] == {"path": "/volumes/pvc-1"}
    (term,) = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["general-1"]
    assert volumes.volume_for(claim(), Path("/volumes")) is None, "a disk of GKE's"


@pytest.mark.parametrize(
    ("quantity", "size"),
    [("1024", 1024), ("2k", 2000), ("16Mi", 16 << 20), ("1Gi", 1 << 30), ("1.5Gi", 3 << 29), ("1T", None)],
)
def test_the_size_of_a_disk(quantity: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="'1T'"):
            volumes.size_of(quantity)
    else:
        assert volumes.size_of(quantity) == size
