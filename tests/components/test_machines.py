"""Machine types, their GPUs, and what GKE leaves of them."""

import pytest

from components.accelerators import GPUS, Accelerator, region_of, zones_with
from components.machines import (
    GIB,
    MACHINES,
    MIB,
    MachineMismatch,
    Purchase,
    allocatable,
    allocatable_storage,
    boot_disk_type,
    counts_of,
    default_machine,
    fits,
    machine,
    machines_for,
    purchasable,
    reserved_cpu,
    reserved_memory,
    streaming_memory,
)


@pytest.mark.parametrize(
    ("name", "cpu", "gib"),
    [
        ("e2-standard-4", 4, 16),
        ("n1-standard-8", 8, 30),
        ("n1-highmem-4", 4, 26),
        ("n2-highmem-8", 8, 64),
        ("n4-highcpu-16", 16, 32),
        ("c3-standard-22", 22, 88),
        ("g2-standard-12", 12, 48),
        ("a2-highgpu-1g", 12, 85),
        ("a2-ultragpu-8g", 96, 1360),
        ("a3-highgpu-8g", 208, 1872),
    ],
)
def test_sizes_are_googles(name: str, cpu: int, gib: float) -> None:
    assert (machine(name).cpu, machine(name).memory_bytes) == (cpu, gib * GIB)


@pytest.mark.parametrize(
    ("machine_type", "accelerator", "count"),
    [
        *((f"g2-standard-{cores}", Accelerator.L4, 1) for cores in (4, 8, 12, 16, 32)),
        ("g2-standard-24", Accelerator.L4, 2),
        ("g2-standard-48", Accelerator.L4, 4),
        ("g2-standard-96", Accelerator.L4, 8),
        ("n1-standard-32", Accelerator.T4, 1),
        ("n1-highmem-16", Accelerator.T4, 2),
        ("n1-standard-96", Accelerator.T4, 4),
        ("a2-highgpu-4g", Accelerator.A100_40GB, 4),
        ("a2-ultragpu-2g", Accelerator.A100_80GB, 2),
        ("a3-highgpu-1g", Accelerator.H100_80GB, 1),
    ],
)
def test_pairs_that_fit(machine_type: str, accelerator: Accelerator, count: int) -> None:
    fits(machine_type, accelerator, count)
    assert machine_type in machines_for(accelerator, count)


@pytest.mark.parametrize(
    ("machine_type", "accelerator", "count", "message"),
    [
        ("g2-standard-4", Accelerator.L4, 2, "g2-standard-4 has 1 nvidia-l4, not 2; 2 need g2-standard-24"),
        ("g2-standard-4", Accelerator.L4, 3, "g2-standard-4 has 1 nvidia-l4, not 3; one machine has 1, 2, 4 or 8"),
        (
            "a2-highgpu-1g",
            Accelerator.A100_80GB,
            1,
            "has 1 nvidia-tesla-a100, not 1 nvidia-a100-80gb; 1 needs a2-ultra",
        ),
        (
            "e2-standard-4",
            Accelerator.T4,
            1,
            "e2-standard-4 takes no nvidia-tesla-t4; 1 needs an n1 machine of at most",
        ),
        ("n1-standard-64", Accelerator.T4, 1, "has 64 cores and takes 4 nvidia-tesla-t4, not 1; 1 needs an n1 machine"),
        ("n1-standard-4", Accelerator.H100_80GB, 8, "n1-standard-4 takes no nvidia-h100-80gb; 8 need a3-highgpu-8g"),
        ("g2-standard-5", Accelerator.L4, 1, "'g2-standard-5' is not known; known types of g2: g2-standard-4, "),
        ("m7i.large", Accelerator.L4, 1, "'m7i.large' is not known; known series: a2, a3, c2"),
    ],
)
def test_pairs_that_do_not_fit_say_what_does(
    machine_type: str, accelerator: Accelerator, count: int, message: str
) -> None:
    with pytest.raises(MachineMismatch) as error:
        fits(machine_type, accelerator, count)
    assert message in str(error.value)


def test_the_default_machine_fits_for_every_accelerator_and_count() -> None:
    for accelerator in Accelerator:
        for count in counts_of(accelerator):
            fits(default_machine(accelerator, count), accelerator, count)
    with pytest.raises(MachineMismatch, match="no machine type has 3 nvidia-l4; one has 1, 2, 4 or 8"):
        default_machine(Accelerator.L4, 3)


def test_part_of_an_a3_machine_is_not_sold_on_demand() -> None:
    purchasable("a3-highgpu-1g", Purchase.SPOT)
    purchasable("a3-highgpu-8g", Purchase.ON_DEMAND)
    with pytest.raises(MachineMismatch, match="a3-highgpu-2g is sold as spot or flex-start only, not on-demand"):
        purchasable("a3-highgpu-2g", Purchase.ON_DEMAND)


@pytest.mark.parametrize(("cpu", "cores"), [(1, 0.06), (2, 0.07), (4, 0.08), (8, 0.09), (96, 0.31)])
def test_reserved_cores_are_as_documented(cpu: int, cores: float) -> None:
    assert reserved_cpu(cpu) == pytest.approx(cores)


@pytest.mark.parametrize(("gib", "reserved"), [(4, 1.0), (8, 1.8), (16, 2.6), (32, 3.56), (128, 9.32), (160, 9.96)])
def test_reserved_memory_is_as_documented(gib: int, reserved: float) -> None:
    assert reserved_memory(gib * GIB) == pytest.approx(reserved * GIB + 100 * MIB, abs=1)


@pytest.mark.parametrize(("gib", "reserved"), [(4, 0.4), (16, 1.04), (32, 1.424), (160, 3.984)])
def test_image_streaming_takes_its_part(gib: int, reserved: float) -> None:
    assert streaming_memory(gib * GIB) == pytest.approx(reserved * GIB, abs=1)


def test_less_is_allocatable_than_a_node_reports() -> None:
    # Google's page on node sizes shows 4 cores and 16 GiB: 3920m and 13498416Ki allocatable, before DaemonSets.
    node = allocatable("e2-standard-4", image_streaming=False)
    assert 3.4 < node.cpu < 3.92
    assert 11.5 * GIB < node.memory_bytes < 13498416 * 1024
    assert (node.gpus, node.gpu_memory_bytes) == (0, 0)


def test_no_machine_has_more_allocatable_than_it_has_or_less_than_nothing() -> None:
    for name, known in MACHINES.items():
        node = allocatable(name)
        assert 0 < node.cpu < known.cpu
        assert 0 <= node.memory_bytes < known.memory_bytes


def test_gpus_are_shared_and_cut() -> None:
    whole = allocatable("g2-standard-24")
    assert (whole.gpus, whole.gpu_memory_bytes) == (2, 23034 * MIB)
    shared = allocatable("g2-standard-24", clients=4)
    assert (shared.gpus, shared.gpu_memory_bytes) == (8, 23034 * MIB // 4)
    cut = allocatable("a2-highgpu-2g", partition="1g.5gb")
    assert cut.gpus == 14
    assert 4.5 * GIB < cut.gpu_memory_bytes < 5 * GIB
    attached = allocatable("n1-standard-8", Accelerator.T4, 2)
    assert (attached.gpus, attached.gpu_memory_bytes) == (2, 15360 * MIB)
    assert allocatable("n1-standard-8", Accelerator.T4).gpus == 1


@pytest.mark.parametrize(
    ("machine_type", "partition", "message"),
    [
        ("a2-highgpu-1g", "1g.10gb", "nvidia-tesla-a100 has no MIG partition '1g.10gb'; it has 1g.5gb, 2g.10gb"),
        ("g2-standard-4", "1g.5gb", "nvidia-l4 has no MIG partition '1g.5gb'; it has none"),
    ],
)
def test_partitions_that_a_gpu_does_not_have(machine_type: str, partition: str, message: str) -> None:
    with pytest.raises(MachineMismatch) as error:
        allocatable(machine_type, partition=partition)
    assert message in str(error.value)


def test_partitions_are_no_larger_than_their_gpu() -> None:
    for gpu in GPUS.values():
        for cut in gpu.partitions.values():
            assert cut.slices * cut.memory_bytes <= gpu.memory_bytes


def test_zones_are_found_by_region_and_by_themselves() -> None:
    assert zones_with(Accelerator.L4, "europe-west4") == ["europe-west4-a", "europe-west4-b", "europe-west4-c"]
    assert zones_with(Accelerator.A100_80GB, "europe-west4") == ["europe-west4-a"]
    assert zones_with(Accelerator.A100_80GB, "europe-west4-a") == ["europe-west4-a"]
    assert zones_with(Accelerator.A100_80GB, "europe-west4-b") == []
    assert region_of("europe-west4-b") == region_of("europe-west4") == "europe-west4"


def test_disks() -> None:
    assert boot_disk_type("n4-standard-4") == "hyperdisk-balanced"
    assert boot_disk_type("g2-standard-4") == "pd-balanced"
    # 100 GiB: 41 reserved, 10 until eviction.
    assert allocatable_storage(100) == 49 * GIB
