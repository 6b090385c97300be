"""Nodes as GKE makes them, as far as scheduling sees them: labels, taints, and what can be allocated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GPU_TAINT = "nvidia.com/gpu=present:NoSchedule"
"""What GKE puts on every node with GPUs."""


@dataclass(frozen=True)
class Node:
    """One node; quantities are what pods can have of it, after what the system keeps for itself."""

    name: str
    cpu: str = "7910m"
    memory: str = "29Gi"
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    taints: Sequence[str] = ()
    """``key=value:Effect``, as kubectl writes them."""
    gpus: int = 0
    pods: int = 110

    def manifest(self) -> dict[str, Any]:
        """The Node object, with the annotation and label that the machine's kubelet would set."""
        resources = {"cpu": self.cpu, "memory": self.memory, "ephemeral-storage": "90Gi", "pods": str(self.pods)}
        if self.gpus:
            resources["nvidia.com/gpu"] = str(self.gpus)
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name,
                "labels": {
                    "kubernetes.io/hostname": self.name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64",
                    **self.labels,
                },
            },
            "spec": {"taints": [_taint(text) for text in self.taints]},
            "status": {"allocatable": resources, "capacity": resources},
        }


def gke_node(
    name: str,
    *,
    machine_type: str,
    cpu: str,
    memory: str,
    pool: str = "default",
    zone: str = "europe-west4-a",
    accelerator: str | None = None,
    gpus: int = 0,
    spot: bool = False,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[str] = (),
) -> Node:
    """A node of a GKE pool.

    Args:
        name: of the node.
        machine_type: such as ``g2-standard-12``.
        cpu: that pods can have.
        memory: that pods can have.
        pool: name of the node pool.
        zone: its region is the part before the last dash.
        accelerator: such as ``nvidia-l4``, for machines with GPUs.
        gpus: how many of them; the node then has GKE's own taint for GPUs.
        spot: whether it is a spot machine; GKE labels those and taints nothing by itself.
        labels: the pool's own labels, beside GKE's.
        taints: the pool's own taints, beside GKE's.
    """
    known = {
        "cloud.google.com/gke-nodepool": pool,
        "cloud.google.com/machine-family": machine_type.split("-")[0],
        "node.kubernetes.io/instance-type": machine_type,
        "topology.kubernetes.io/region": zone.rpartition("-")[0],
        "topology.kubernetes.io/zone": zone,
    }
    if accelerator:
        known |= {"cloud.google.com/gke-accelerator": accelerator, "cloud.google.com/gke-accelerator-count": str(gpus)}
    if spot:
        known |= {"cloud.google.com/gke-spot": "true", "cloud.google.com/gke-provisioning": "spot"}
    return Node(
        name,
        cpu=cpu,
        memory=memory,
        labels={**known, **(labels or {})},
        taints=(*((GPU_TAINT,) if gpus else ()), *taints),
        gpus=gpus,
    )


GKE_NODES: tuple[Node, ...] = (
    gke_node("general-1", machine_type="e2-standard-8", cpu="7910m", memory="28Gi", pool="general"),
    gke_node(
        "general-2", machine_type="e2-standard-8", cpu="7910m", memory="28Gi", pool="general", zone="europe-west4-b"
    ),
    gke_node(
        "serving-1",
        machine_type="g2-standard-12",
        cpu="11900m",
        memory="42Gi",
        pool="serving",
        accelerator="nvidia-l4",
        gpus=1,
    ),
    gke_node(
        "training-1",
        machine_type="g2-standard-12",
        cpu="11900m",
        memory="42Gi",
        pool="training",
        accelerator="nvidia-l4",
        gpus=1,
        spot=True,
    ),
)
"""Two machines without GPU in two zones, one L4 on demand, one L4 spot."""


def _taint(text: str) -> dict[str, str]:
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "value": value, "effect": effect}
