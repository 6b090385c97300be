"""GPUs that GKE has: their memory, their MIG partitions, the zones that have them.

Written down from general knowledge of September 2025, and not held against Google's pages. To check by: "GPU machine
types" (cloud.google.com/compute/docs/gpus), "GPU locations" (cloud.google.com/compute/docs/gpus/gpu-regions-zones)
and "Running multi-instance GPUs" (cloud.google.com/kubernetes-engine/docs/how-to/gpus-multi); memory as the driver
reports it. Google adds zones more often than this table follows: ``gcloud compute accelerator-types list`` has the
present ones, and every component that checks zones can be told to take them as given.
"""

from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1024**2


class Accelerator(StrEnum):
    """A GPU by the name that Google Cloud and the node label ``cloud.google.com/gke-accelerator`` use."""

    L4 = "nvidia-l4"
    T4 = "nvidia-tesla-t4"
    A100_40GB = "nvidia-tesla-a100"
    A100_80GB = "nvidia-a100-80gb"
    H100_80GB = "nvidia-h100-80gb"


@dataclass(frozen=True)
class Partition:
    """One size of MIG slices that a GPU can be cut into."""

    slices: int
    """Slices of this size that one GPU gives; each is a GPU of its own to Kubernetes."""
    memory_bytes: int
    """GPU memory of one slice."""


@dataclass(frozen=True)
class Gpu:
    """What one GPU of a kind is."""

    memory_bytes: int
    """Memory that programs can use."""
    zones: frozenset[str]
    """Zones that have it, such as ``us-central1-a``."""
    partitions: dict[str, Partition] = field(default_factory=dict[str, Partition])
    """MIG partition sizes by name; empty where the GPU cannot be cut."""


def _zones(table: str) -> frozenset[str]:
    """Zones from lines of ``region letters``."""
    lines = (line.split() for line in table.strip().splitlines())
    return frozenset(f"{region}-{letter}" for region, letters in lines for letter in letters)


def _partitions(**sizes: tuple[int, int]) -> dict[str, Partition]:
    """Partitions from slices and MiB by name (``g1_5gb`` for ``1g.5gb``)."""
    return {
        f"{name[1:].split('_')[0]}g.{name.split('_')[1]}": Partition(slices, mib * MIB)
        for name, (slices, mib) in sizes.items()
    }


GPUS: dict[Accelerator, Gpu] = {
    Accelerator.L4: Gpu(
        23034 * MIB,
        _zones("""
            asia-east1 abc
            asia-northeast1 abc
            asia-northeast3 ab
            asia-south1 abc
            asia-southeast1 abc
            europe-west1 bc
            europe-west2 ab
            europe-west3 ab
            europe-west4 abc
            europe-west6 bc
            me-central2 ac
            northamerica-northeast2 ab
            us-central1 abc
            us-east1 bcd
            us-east4 ac
            us-west1 abc
            us-west4 ac
        """),
    ),
    Accelerator.T4: Gpu(
        15360 * MIB,
        _zones("""
            asia-east1 ac
            asia-east2 ac
            asia-northeast1 ac
            asia-northeast3 bc
            asia-south1 ab
            asia-southeast1 abc
            asia-southeast2 ab
            australia-southeast1 ac
            europe-central2 bc
            europe-west1 bcd
            europe-west2 ab
            europe-west3 b
            europe-west4 abc
            me-west1 bc
            northamerica-northeast1 c
            southamerica-east1 ac
            us-central1 abcf
            us-east1 cd
            us-east4 abc
            us-west1 ab
            us-west2 bc
            us-west3 b
            us-west4 ab
        """),
    ),
    Accelerator.A100_40GB: Gpu(
        40960 * MIB,
        _zones("""
            asia-northeast1 ac
            asia-northeast3 b
            asia-southeast1 bc
            europe-west4 ab
            me-west1 bc
            us-central1 abcf
            us-east1 b
            us-west1 b
            us-west3 b
            us-west4 b
        """),
        _partitions(g1_5gb=(7, 4864), g2_10gb=(3, 9856), g3_20gb=(2, 19968), g7_40gb=(1, 40192)),
    ),
    Accelerator.A100_80GB: Gpu(
        81920 * MIB,
        _zones("""
            asia-southeast1 c
            europe-west4 a
            us-central1 ac
            us-east4 c
            us-east5 ab
        """),
        _partitions(g1_10gb=(7, 9728), g2_20gb=(3, 19968), g3_40gb=(2, 40192), g7_80gb=(1, 80640)),
    ),
    Accelerator.H100_80GB: Gpu(
        81559 * MIB,
        _zones("""
            asia-northeast1 b
            asia-southeast1 bc
            australia-southeast1 c
            europe-west1 bc
            europe-west2 ab
            europe-west3 ac
            europe-west4 bc
            europe-west9 c
            northamerica-northeast2 c
            us-central1 abc
            us-east4 abc
            us-east5 a
            us-west1 ab
            us-west4 a
        """),
        _partitions(g1_10gb=(7, 9856), g1_20gb=(4, 19968), g2_20gb=(3, 19968), g3_40gb=(2, 40320), g7_80gb=(1, 80896)),
    ),
}


def region_of(location: str) -> str:
    """Region of a location that is a region (``us-central1``) or a zone (``us-central1-a``)."""
    return location.rsplit("-", 1)[0] if is_zone(location) else location


def is_zone(location: str) -> bool:
    """Whether a location is a zone."""
    return location.count("-") == 2


def zones_with(accelerator: Accelerator, location: str) -> list[str]:
    """Zones within a region, or the one zone itself, that have the GPU; sorted, empty where none has."""
    zones = GPUS[accelerator].zones
    return sorted(zone for zone in zones if location in (zone, region_of(zone)))
