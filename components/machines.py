"""Machine types of Google Compute Engine: what they have, which GPU they take, what GKE leaves for pods.

Written down from general knowledge of September 2025; the formulas of what GKE reserves from a public calculator that
cites Google's page. To check by: Google's pages "General-purpose machine family", "Accelerator-optimized machine
family", "GPU machine types" (cloud.google.com/compute/docs) and "Plan GKE Standard node sizes", "Use image streaming"
(cloud.google.com/kubernetes-engine/docs). Pure: no Pulumi, no network.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from components.accelerators import GPUS, Accelerator

GIB = 1024**3
MIB = 1024**2

SYSTEM_CPU = 0.4
"""Cores that GKE's own DaemonSets request on every node: Dataplane V2, metadata server, logs, metrics, disks."""
SYSTEM_MEMORY = 700 * MIB
"""Memory that the same DaemonSets request."""
GPU_SYSTEM_CPU = 0.15
"""Cores that the device plugin and DCGM's exporter request besides, on nodes with GPUs."""
GPU_SYSTEM_MEMORY = 512 * MIB
"""Memory that these request."""
KERNEL_SHARE = 0.025
"""Part of a machine's memory that the kernel keeps: a node of 16 GiB reports 15.6 GiB."""

MAX_SHARED_CLIENTS = 48
"""Containers that may share one GPU by time-sharing or MPS."""


class MachineMismatch(ValueError):
    """A machine type that is not known, or does not have the GPUs that were asked for."""


class Purchase(StrEnum):
    """How the machine is paid for, where that decides whether it can be had."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"
    FLEX_START = "flex-start"
    RESERVATION = "reservation"


@dataclass(frozen=True)
class Machine:
    """One machine type."""

    name: str
    cpu: int
    """Virtual cores."""
    memory_bytes: int
    accelerator: Accelerator | None = None
    """GPU that comes with it; None for machines that have none or take one to be attached."""
    gpus: int = 0
    """GPUs that come with it."""


@dataclass(frozen=True)
class Allocatable:
    """What pods can request on one node."""

    cpu: float
    """Cores."""
    memory_bytes: int
    gpus: int = 0
    """``nvidia.com/gpu`` devices: GPUs, or their slices, or GPUs times clients where they are shared."""
    gpu_memory_bytes: int = 0
    """Memory of one such device. Time-sharing does not enforce a client's part of it; MPS and MIG do."""


# Series: variants by GiB of memory for each core, and the sizes in cores that exist.
_STANDARD_SIZES = (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)
_FAMILIES: dict[str, dict[str, tuple[float, tuple[int, ...]]]] = {
    "e2": {
        "standard": (4, (2, 4, 8, 16, 32)),
        "highmem": (8, (2, 4, 8, 16)),
        "highcpu": (1, (2, 4, 8, 16, 32)),
    },
    "n1": {
        "standard": (3.75, (1, 2, 4, 8, 16, 32, 64, 96)),
        "highmem": (6.5, (2, 4, 8, 16, 32, 64, 96)),
        "highcpu": (0.9, (2, 4, 8, 16, 32, 64, 96)),
    },
    "n2": {
        "standard": (4, _STANDARD_SIZES),
        "highmem": (8, _STANDARD_SIZES[:-1]),
        "highcpu": (1, _STANDARD_SIZES[:-1]),
    },
    "n2d": {
        "standard": (4, (*_STANDARD_SIZES, 224)),
        "highmem": (8, _STANDARD_SIZES[:-1]),
        "highcpu": (1, (*_STANDARD_SIZES, 224)),
    },
    "n4": {
        "standard": (4, _STANDARD_SIZES[:8]),
        "highmem": (8, _STANDARD_SIZES[:8]),
        "highcpu": (2, _STANDARD_SIZES[:8]),
    },
    "c2": {"standard": (4, (4, 8, 16, 30, 60))},
    "c3": {
        "standard": (4, (4, 8, 22, 44, 88, 176)),
        "highmem": (8, (4, 8, 22, 44, 88, 176)),
        "highcpu": (2, (4, 8, 22, 44, 88, 176)),
    },
}

# Machines with GPUs of their own: cores, GiB, GPUs; the smallest of each count first.
_ATTACHED: dict[Accelerator, dict[str, tuple[int, int, int]]] = {
    Accelerator.L4: {
        "g2-standard-4": (4, 16, 1),
        "g2-standard-8": (8, 32, 1),
        "g2-standard-12": (12, 48, 1),
        "g2-standard-16": (16, 64, 1),
        "g2-standard-32": (32, 128, 1),
        "g2-standard-24": (24, 96, 2),
        "g2-standard-48": (48, 192, 4),
        "g2-standard-96": (96, 384, 8),
    },
    Accelerator.A100_40GB: {
        "a2-highgpu-1g": (12, 85, 1),
        "a2-highgpu-2g": (24, 170, 2),
        "a2-highgpu-4g": (48, 340, 4),
        "a2-highgpu-8g": (96, 680, 8),
    },
    Accelerator.A100_80GB: {
        "a2-ultragpu-1g": (12, 170, 1),
        "a2-ultragpu-2g": (24, 340, 2),
        "a2-ultragpu-4g": (48, 680, 4),
        "a2-ultragpu-8g": (96, 1360, 8),
    },
    Accelerator.H100_80GB: {
        "a3-highgpu-1g": (26, 234, 1),
        "a3-highgpu-2g": (52, 468, 2),
        "a3-highgpu-4g": (104, 936, 4),
        "a3-highgpu-8g": (208, 1872, 8),
    },
}

# N1 machines take T4 GPUs: the most cores for each count of GPUs.
_T4_CORES = {1: 48, 2: 48, 4: 96}
_T4_DEFAULTS = {1: "n1-standard-4", 2: "n1-standard-8", 4: "n1-standard-16"}

# Less than a whole A3 machine of eight is not sold on demand.
_PART_A3 = ("a3-highgpu-1g", "a3-highgpu-2g", "a3-highgpu-4g")


def _catalogue() -> dict[str, Machine]:
    machines = [
        Machine(f"{series}-{variant}-{cores}", cores, round(cores * per_core * GIB))
        for series, variants in _FAMILIES.items()
        for variant, (per_core, sizes) in variants.items()
        for cores in sizes
    ]
    machines += [
        Machine(name, cpu, memory * GIB, accelerator, gpus)
        for accelerator, types in _ATTACHED.items()
        for name, (cpu, memory, gpus) in types.items()
    ]
    return {machine.name: machine for machine in machines}


MACHINES = _catalogue()
"""Every machine type that is known, by name."""


def machine(name: str) -> Machine:
    """A machine type by name.

    Raises:
        MachineMismatch: No such type is known; the message has types of the same series.
    """
    if name in MACHINES:
        return MACHINES[name]
    series = re.split(r"[-_]", name)[0]
    similar = [known for known in MACHINES if known.startswith(f"{series}-")]
    known = f"known types of {series}: {', '.join(similar)}" if similar else f"known series: {', '.join(_series())}"
    raise MachineMismatch(f"machine type {name!r} is not known; {known}")


def _series() -> list[str]:
    return sorted({name.split("-")[0] for name in MACHINES})


def machines_for(accelerator: Accelerator, count: int) -> list[str]:
    """Machine types that have, or take, so many of a GPU; the one to begin with comes first; empty where none has."""
    if accelerator in _ATTACHED:
        return [name for name, (_, _, gpus) in _ATTACHED[accelerator].items() if gpus == count]
    cores = _T4_CORES.get(count, 0)
    fitting = [name for name, known in MACHINES.items() if name.startswith("n1-") and known.cpu <= cores]
    first = _T4_DEFAULTS.get(count)
    return [first, *(name for name in fitting if name != first)] if first else []


def counts_of(accelerator: Accelerator) -> list[int]:
    """How many of a GPU one machine can have."""
    if accelerator in _ATTACHED:
        return sorted({gpus for _, _, gpus in _ATTACHED[accelerator].values()})
    return sorted(_T4_CORES)


def default_machine(accelerator: Accelerator, count: int) -> str:
    """The smallest sensible machine type with so many of a GPU.

    Raises:
        MachineMismatch: No machine has that many.
    """
    types = machines_for(accelerator, count)
    if not types:
        raise MachineMismatch(f"no machine type has {count} {accelerator}; one has {_either(counts_of(accelerator))}")
    return types[0]


def fits(machine_type: str, accelerator: Accelerator, count: int) -> None:
    """Check that a machine type has, or takes, so many of a GPU.

    Raises:
        MachineMismatch: It does not; the message says what it has and which types have it.
    """
    known = machine(machine_type)
    types = machines_for(accelerator, count)
    if machine_type in types:
        return
    if known.accelerator is accelerator:
        wrong = f"has {known.gpus} {accelerator}, not {count}"
    elif known.accelerator is not None:
        wrong = f"has {known.gpus} {known.accelerator}, not {count} {accelerator}"
    elif accelerator is Accelerator.T4 and machine_type.startswith("n1-"):
        wrong = f"has {known.cpu} cores and takes {_either(_t4_counts(known.cpu))} {accelerator}, not {count}"
    else:
        wrong = f"takes no {accelerator}"
    raise MachineMismatch(f"{machine_type} {wrong}; {_remedy(accelerator, count, types)}")


def _t4_counts(cpu: int) -> list[int]:
    return [count for count, cores in _T4_CORES.items() if cpu <= cores]


def _remedy(accelerator: Accelerator, count: int, types: list[str]) -> str:
    if not types:
        return f"one machine has {_either(counts_of(accelerator))} {accelerator}"
    verb = "needs" if count == 1 else "need"
    if accelerator is Accelerator.T4:
        return f"{count} {verb} an n1 machine of at most {_T4_CORES[count]} cores, such as {types[0]}"
    return f"{count} {verb} {_either(types)}"


def purchasable(machine_type: str, purchase: Purchase) -> None:
    """Check that a machine type is sold in that way.

    Raises:
        MachineMismatch: It is not.
    """
    if machine_type in _PART_A3 and purchase not in (Purchase.SPOT, Purchase.FLEX_START):
        raise MachineMismatch(
            f"{machine_type} is sold as spot or flex-start only, not {purchase}; a3-highgpu-8g is sold in every way"
        )


def boot_disk_type(machine_type: str) -> str:
    """The disk type that nodes of this machine type boot from."""
    return "hyperdisk-balanced" if machine_type.startswith("n4-") else "pd-balanced"


def allocatable(
    machine_type: str,
    accelerator: Accelerator | None = None,
    count: int = 0,
    *,
    clients: int = 1,
    partition: str | None = None,
    image_streaming: bool = True,
) -> Allocatable:
    """What pods can request on one node, after GKE's reservations and its own DaemonSets.

    Args:
        machine_type: The node's machine type.
        accelerator: Its GPU [default: the one that comes with the machine].
        count: GPUs [default: as many as come with the machine, else 1].
        clients: Containers that share one GPU by time-sharing or MPS.
        partition: MIG partition that every GPU is cut into, such as ``1g.5gb``.
        image_streaming: Whether image streaming is on; it takes some memory.

    Raises:
        MachineMismatch: The machine is not known, or does not have these GPUs or partitions.
    """
    known = machine(machine_type)
    kind = accelerator or known.accelerator
    gpus = count or known.gpus or (1 if kind else 0)
    if kind is not None:
        fits(machine_type, kind, gpus)
    memory = known.memory_bytes * (1 - KERNEL_SHARE)
    reserved = reserved_memory(known.memory_bytes) + (streaming_memory(known.memory_bytes) if image_streaming else 0)
    devices, device_memory = _devices(kind, gpus, clients, partition)
    return Allocatable(
        cpu=round(known.cpu - reserved_cpu(known.cpu) - SYSTEM_CPU - (GPU_SYSTEM_CPU if devices else 0), 3),
        memory_bytes=max(0, int(memory - reserved - SYSTEM_MEMORY - (GPU_SYSTEM_MEMORY if devices else 0))),
        gpus=devices,
        gpu_memory_bytes=device_memory,
    )


def _devices(accelerator: Accelerator | None, count: int, clients: int, partition: str | None) -> tuple[int, int]:
    if accelerator is None:
        return 0, 0
    gpu = GPUS[accelerator]
    if partition is None:
        return count * clients, gpu.memory_bytes // clients
    if partition not in gpu.partitions:
        sizes = f"it has {_either(list(gpu.partitions))}" if gpu.partitions else "it has none"
        raise MachineMismatch(f"{accelerator} has no MIG partition {partition!r}; {sizes}")
    cut = gpu.partitions[partition]
    return count * cut.slices * clients, cut.memory_bytes // clients


def reserved_cpu(cpu: int) -> float:
    """Cores that GKE reserves: 6% of the first, 1% of the second, 0.5% of the next two, 0.25% of the rest."""
    return _by_steps(cpu, [(1, 0.06), (1, 0.01), (2, 0.005), (float("inf"), 0.0025)])


def reserved_memory(memory_bytes: int) -> int:
    """Bytes that GKE reserves: 25% of 4 GiB, 20% of the next 4, 10% of 8, 6% of 112, 2% above, and 100 MiB."""
    steps = [(4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06), (float("inf"), 0.02)]
    return round(_by_steps(memory_bytes / GIB, steps) * GIB) + 100 * MIB


def streaming_memory(memory_bytes: int) -> int:
    """Bytes that image streaming reserves: 10% of 4 GiB, 8% of the next 4, 4% of 8, 2.4% of 112, 0.8% above."""
    steps = [(4, 0.10), (4, 0.08), (8, 0.04), (112, 0.024), (float("inf"), 0.008)]
    return round(_by_steps(memory_bytes / GIB, steps) * GIB)


def allocatable_storage(disk_gib: int) -> int:
    """Bytes of ephemeral storage for pods on a boot disk: less 10%, less GKE's own part (at most 100 GiB)."""
    reserved = min(0.5 * disk_gib, 6 + 0.35 * disk_gib, 100)
    return max(0, int((disk_gib * 0.9 - reserved) * GIB))


def _by_steps(amount: float, steps: list[tuple[float, float]]) -> float:
    """Sum of a share of each step's width, as far as `amount` reaches."""
    total = 0.0
    for width, share in steps:
        part = min(amount, width)
        total += part * share
        amount -= part
    return total


def _either(values: list[int] | list[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
