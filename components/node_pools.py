"""Node pools on GKE: with GPUs, and without. What cannot be is refused before anything is made.

Sources: Google's pages "Run GPUs in GKE Standard node pools", "About GPU sharing strategies", "Run multi-instance
GPUs", "About flex-start", "Consume reserved zonal resources" (cloud.google.com/kubernetes-engine/docs).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NotRequired, TypedDict, TypeVar

import pulumi
import pulumi_gcp as gcp  # its parts are loaded when they are used, which takes seconds: annotations name them as text

from components.accelerators import GPUS, Accelerator, is_zone, region_of, zones_with
from components.labels import POOL
from components.machines import (
    MAX_SHARED_CLIENTS,
    Allocatable,
    MachineMismatch,
    Purchase,
    allocatable,
    boot_disk_type,
    default_machine,
    fits,
    machine,
    purchasable,
)
from components.pods import NVIDIA_GPU, Placement

_Choice = TypeVar("_Choice", bound=StrEnum)

_FLEX_START_SECONDS = 7 * 24 * 3600
"""How long flex-start nodes live at most."""


class GpuDriver(StrEnum):
    """Which NVIDIA driver GKE installs."""

    DEFAULT = "default"
    LATEST = "latest"
    DISABLED = "disabled"
    """None: somebody else installs it."""


class SharingStrategy(StrEnum):
    """How containers share one GPU."""

    TIME_SHARING = "time-sharing"
    """They take turns; nothing keeps one from using the others' memory."""
    MPS = "mps"
    """They run at once, with memory limits. Their pods need ``hostIPC``, which the restricted standard forbids."""


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NO_SCHEDULE"
    PREFER_NO_SCHEDULE = "PREFER_NO_SCHEDULE"
    NO_EXECUTE = "NO_EXECUTE"


class PoolError(ValueError):
    """An argument of a node pool that cannot be; the message begins with its name."""


class GpuSharing(TypedDict):
    """Several containers on one GPU."""

    strategy: SharingStrategy
    """How they share it."""
    clients: int
    """How many share one, 2 to 48."""


class NodeTaint(TypedDict):
    """A taint of nodes."""

    key: str
    """Its key."""
    value: str
    """Its value."""
    effect: TaintEffect
    """What it does."""


class PodToleration(TypedDict):
    """An entry of a pod's ``tolerations``."""

    key: str
    """Key of the taint."""
    operator: str
    """``Equal``."""
    value: str
    """Value of the taint."""
    effect: str
    """Effect in Kubernetes' spelling, such as ``NoSchedule``."""


class CpuNodePoolArgs(TypedDict):
    """Arguments of `CpuNodePool`."""

    project: pulumi.Input[str]
    """Google Cloud project."""
    location: str
    """Region or zone of the cluster."""
    cluster: pulumi.Input[str]
    """Name of the cluster."""
    service_account: pulumi.Input[str]
    """Email of the nodes' service account."""
    machine_type: str
    """Compute Engine machine type without GPUs."""
    max_nodes: int
    """Nodes at most, over all zones."""
    min_nodes: NotRequired[int]
    """Nodes that are always there, over all zones [default: 0]."""
    pool: NotRequired[str]
    """Name on GKE and in the label ``modelport.dev/pool`` [default: the component's name]."""
    zones: NotRequired[list[str]]
    """Zones of the nodes [default: the cluster's]."""
    spot: NotRequired[bool]
    """Cheaper machines that may be taken away at any time [default: false]."""
    node_labels: NotRequired[dict[str, str]]
    """Labels of the nodes besides the pool's."""
    taints: NotRequired[list[NodeTaint]]
    """Taints of the nodes."""
    disk_size_gb: NotRequired[int]
    """Boot disk of each node in GB [default: 100]."""
    labels: NotRequired[dict[str, str]]
    """Extra labels of the machines on Google Cloud, for billing."""


class GpuNodePoolArgs(TypedDict):
    """Arguments of `GpuNodePool`."""

    project: pulumi.Input[str]
    """Google Cloud project."""
    location: str
    """Region or zone of the cluster."""
    cluster: pulumi.Input[str]
    """Name of the cluster."""
    service_account: pulumi.Input[str]
    """Email of the nodes' service account."""
    accelerator: Accelerator
    """GPU of each node."""
    max_nodes: int
    """Nodes at most, over all zones."""
    min_nodes: NotRequired[int]
    """Nodes that are always there, over all zones [default: 0, so that an idle pool costs nothing]."""
    count: NotRequired[int]
    """GPUs of each node [default: 1]."""
    machine_type: NotRequired[str]
    """Compute Engine machine type [default: the smallest with these GPUs]."""
    pool: NotRequired[str]
    """Name on GKE and in the label ``modelport.dev/pool`` [default: the component's name]."""
    zones: NotRequired[list[str]]
    """Zones of the nodes [default: those of the location that have the GPU]."""
    unlisted_zones: NotRequired[bool]
    """Take `zones` as given, even those that are not known to have the GPU [default: false]."""
    driver: NotRequired[GpuDriver]
    """NVIDIA driver that GKE installs [default: default]."""
    sharing: NotRequired[GpuSharing]
    """Several containers on one GPU."""
    mig_partition: NotRequired[str]
    """MIG partition that every GPU is cut into, such as ``1g.5gb``."""
    spot: NotRequired[bool]
    """Cheaper machines that may be taken away at any time [default: false]."""
    flex_start: NotRequired[bool]
    """Machines that come when there are some and stay for 7 days at most [default: false]."""
    reservation: NotRequired[str]
    """Name of a reservation to consume."""
    node_labels: NotRequired[dict[str, str]]
    """Labels of the nodes besides the pool's."""
    taints: NotRequired[list[NodeTaint]]
    """Taints besides ``nvidia.com/gpu=present:NoSchedule``."""
    disk_size_gb: NotRequired[int]
    """Boot disk of each node in GB [default: 100]."""
    labels: NotRequired[dict[str, str]]
    """Extra labels of the machines on Google Cloud, for billing."""


class CpuNodePool(pulumi.ComponentResource):
    """A pool of like nodes without GPUs, scaled by what pods ask for."""

    pool_name: pulumi.Output[str]
    """Name on GKE."""
    node_selector: pulumi.Output[dict[str, str]]
    """What pods select its nodes by."""
    tolerations: pulumi.Output[list[PodToleration]]
    """What pods need to tolerate."""

    def __init__(self, name: str, args: CpuNodePoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        shape = cpu_shape(name, args)
        super().__init__("modelport:index:CpuNodePool", name, {**args}, opts)
        made = _cpu_pool(f"{name}-pool", args, shape, _options(self))
        # A plain value, for programs in Python that render pods.
        self.placement = cpu_placement(name, args)
        self.pool_name = made.name
        self.node_selector = pulumi.Output.from_input(dict(self.placement.node_selector))
        self.tolerations = pulumi.Output.from_input(_tolerations(args.get("taints", [])))
        self.register_outputs(
            {"poolName": self.pool_name, "nodeSelector": self.node_selector, "tolerations": self.tolerations}
        )


class GpuNodePool(pulumi.ComponentResource):
    """A pool of like nodes with GPUs, scaled by what pods ask for, to zero when nobody asks."""

    pool_name: pulumi.Output[str]
    """Name on GKE."""
    node_selector: pulumi.Output[dict[str, str]]
    """What pods select its nodes by."""
    tolerations: pulumi.Output[list[PodToleration]]
    """What pods need to tolerate."""

    def __init__(self, name: str, args: GpuNodePoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        shape = gpu_shape(name, args)
        super().__init__("modelport:index:GpuNodePool", name, {**args}, opts)
        made = _gpu_pool(f"{name}-pool", args, shape, _options(self))
        # A plain value, for programs in Python that render pods.
        self.placement = gpu_placement(name, args)
        self.pool_name = made.name
        self.node_selector = pulumi.Output.from_input(dict(self.placement.node_selector))
        self.tolerations = pulumi.Output.from_input(_tolerations(_gpu_taints(args)))
        self.register_outputs(
            {"poolName": self.pool_name, "nodeSelector": self.node_selector, "tolerations": self.tolerations}
        )


def _options(parent: pulumi.Resource) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(
        parent=parent,
        # Afterwards the autoscaler decides; a change here would make a new pool.
        ignore_changes=["initialNodeCount"],
        # Its name is explicit: two of them cannot be at once.
        delete_before_replace=True,
    )


@dataclass(frozen=True)
class CpuShape:
    """What a CPU pool's arguments come to, checked and with the defaults filled in."""

    pool: str
    """Name on GKE."""
    machine_type: str
    zones: list[str] | None
    min_nodes: int
    max_nodes: int
    disk_size_gb: int


@dataclass(frozen=True)
class GpuShape:
    """What a GPU pool's arguments come to, checked and with the defaults filled in."""

    pool: str
    """Name on GKE."""
    accelerator: Accelerator
    count: int
    machine_type: str
    zones: list[str]
    min_nodes: int
    max_nodes: int
    disk_size_gb: int
    driver: GpuDriver
    strategy: SharingStrategy | None
    clients: int
    """Containers on one GPU; 1 where it is not shared."""
    partition: str | None
    purchase: Purchase
    reservation: str | None


def cpu_shape(name: str, args: CpuNodePoolArgs) -> CpuShape:
    """Check a CPU pool's arguments and fill in the defaults; `name` is the component's.

    Raises:
        PoolError: An argument cannot be; the message begins with its name.
    """
    least, most = node_counts(args.get("min_nodes", 0), args["max_nodes"])
    try:
        known = machine(args["machine_type"])
    except MachineMismatch as error:
        raise PoolError(f"machine_type: {error}") from error
    if known.accelerator is not None:
        raise PoolError(
            f"machine_type: {known.name} has {known.gpus} {known.accelerator}; a pool of it is a GpuNodePool"
        )
    zones = list(args.get("zones", []))
    _check_zones(zones, args["location"])
    _tolerations(args.get("taints", []))
    return CpuShape(
        pool=_pool_name(args.get("pool", name)),
        machine_type=known.name,
        zones=zones or None,
        min_nodes=least,
        max_nodes=most,
        disk_size_gb=_disk(args.get("disk_size_gb", 100)),
    )


def gpu_shape(name: str, args: GpuNodePoolArgs) -> GpuShape:
    """Check a GPU pool's arguments and fill in the defaults; `name` is the component's.

    Raises:
        PoolError: An argument cannot be, or two exclude each other; the message begins with a name of them.
    """
    accelerator = _one_of(Accelerator, "accelerator", args["accelerator"])
    count = int(args.get("count", 1))
    purchase = _purchase(args)
    strategy, clients = _sharing(args)
    try:
        machine_type = args.get("machine_type") or default_machine(accelerator, count)
        fits(machine_type, accelerator, count)
        purchasable(machine_type, purchase)
    except MachineMismatch as error:
        raise PoolError(f"{'machine_type' if args.get('machine_type') else 'count'}: {error}") from error
    least, most = node_counts(args.get("min_nodes", 0), args["max_nodes"])
    _tolerations(args.get("taints", []))
    return GpuShape(
        pool=_pool_name(args.get("pool", name)),
        accelerator=accelerator,
        count=count,
        machine_type=machine_type,
        zones=_gpu_zones(args, accelerator),
        min_nodes=least,
        max_nodes=most,
        disk_size_gb=_disk(args.get("disk_size_gb", 100)),
        driver=_one_of(GpuDriver, "driver", args.get("driver", GpuDriver.DEFAULT)),
        strategy=strategy,
        clients=clients,
        partition=_partition(args, accelerator),
        purchase=purchase,
        reservation=args.get("reservation"),
    )


def gpu_allocatable(name: str, args: GpuNodePoolArgs) -> Allocatable:
    """What pods can request on one node of the pool.

    Raises:
        PoolError: An argument cannot be.
    """
    shape = gpu_shape(name, args)
    return allocatable(
        shape.machine_type, shape.accelerator, shape.count, clients=shape.clients, partition=shape.partition
    )


def gpu_placement(name: str, args: GpuNodePoolArgs) -> Placement:
    """What a pod needs to run on the pool: the pool's label, GKE's labels of the GPU, tolerations.

    Raises:
        PoolError: An argument cannot be.
    """
    shape = gpu_shape(name, args)
    selector = {POOL: shape.pool, "cloud.google.com/gke-accelerator": shape.accelerator.value}
    if shape.strategy is not None:
        selector["cloud.google.com/gke-gpu-sharing-strategy"] = shape.strategy.value
        selector["cloud.google.com/gke-max-shared-clients-per-gpu"] = str(shape.clients)
    if shape.partition is not None:
        selector["cloud.google.com/gke-gpu-partition-size"] = shape.partition
    return Placement(selector, [{**toleration} for toleration in _tolerations(_gpu_taints(args))])


def cpu_placement(name: str, args: CpuNodePoolArgs) -> Placement:
    """What a pod needs to run on the pool: the pool's label and tolerations."""
    tolerations = _tolerations(args.get("taints", []))
    return Placement({POOL: args.get("pool", name)}, [{**toleration} for toleration in tolerations])


def _gpu_pool(
    name: str, args: GpuNodePoolArgs, shape: GpuShape, opts: pulumi.ResourceOptions
) -> "gcp.container.NodePool":
    # A surge needs a GPU more than the quota may have; flex-start has its own way of upgrading.
    upgrades: gcp.container.NodePoolUpgradeSettingsArgsDict = {
        "strategy": "SURGE",
        "max_surge": 0,
        "max_unavailable": 1,
    }
    flexible = shape.purchase is Purchase.FLEX_START
    return gcp.container.NodePool(
        name,
        project=args["project"],
        location=args["location"],
        cluster=args["cluster"],
        name=shape.pool,
        node_locations=shape.zones,
        initial_node_count=-(-shape.min_nodes // len(shape.zones)),
        autoscaling={
            "total_min_node_count": shape.min_nodes,
            "total_max_node_count": shape.max_nodes,
            # GPUs are taken where there are some.
            "location_policy": "ANY",
        },
        # A node that is repaired is gone, and flex-start does not get another.
        management={"auto_repair": not flexible, "auto_upgrade": True},
        upgrade_settings=None if flexible else upgrades,
        network_config={"enable_private_nodes": True},
        node_config=gpu_node_config(args, shape),
        opts=opts,
    )


def _cpu_pool(
    name: str, args: CpuNodePoolArgs, shape: CpuShape, opts: pulumi.ResourceOptions
) -> "gcp.container.NodePool":
    spot = args.get("spot", False)
    return gcp.container.NodePool(
        name,
        project=args["project"],
        location=args["location"],
        cluster=args["cluster"],
        name=shape.pool,
        node_locations=shape.zones,
        initial_node_count=0 if shape.min_nodes == 0 else 1,
        autoscaling={
            "total_min_node_count": shape.min_nodes,
            "total_max_node_count": shape.max_nodes,
            "location_policy": "ANY" if spot else "BALANCED",
        },
        management={"auto_repair": True, "auto_upgrade": True},
        upgrade_settings={"strategy": "SURGE", "max_surge": 1, "max_unavailable": 0},
        network_config={"enable_private_nodes": True},
        node_config=node_config(
            shape.pool,
            machine_type=shape.machine_type,
            service_account=args["service_account"],
            disk_size_gb=shape.disk_size_gb,
            node_labels=args.get("node_labels", {}),
            labels=args.get("labels", {}),
            taints=args.get("taints", []),
            spot=spot,
        ),
        opts=opts,
    )


def gpu_node_config(args: GpuNodePoolArgs, shape: GpuShape) -> "gcp.container.NodePoolNodeConfigArgsDict":
    """Nodes of a GPU pool: those of all pools, with the GPU, how it is shared and how it is paid for."""
    config = node_config(
        shape.pool,
        machine_type=shape.machine_type,
        service_account=args["service_account"],
        disk_size_gb=shape.disk_size_gb,
        node_labels=args.get("node_labels", {}),
        labels=args.get("labels", {}),
        taints=_gpu_taints(args),
        spot=shape.purchase is Purchase.SPOT,
    )
    config["guest_accelerators"] = [_guest_accelerator(shape)]
    config["gvnic"] = {"enabled": True}
    if shape.purchase is Purchase.FLEX_START:
        config["flex_start"] = True
        config["max_run_duration"] = f"{_FLEX_START_SECONDS}s"
        config["reservation_affinity"] = {"consume_reservation_type": "NO_RESERVATION"}
    if shape.reservation is not None:
        config["reservation_affinity"] = {
            "consume_reservation_type": "SPECIFIC_RESERVATION",
            "key": "compute.googleapis.com/reservation-name",
            "values": [shape.reservation],
        }
    return config


def node_config(
    pool: str,
    *,
    machine_type: str,
    service_account: pulumi.Input[str],
    disk_size_gb: int,
    node_labels: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[NodeTaint] = (),
    spot: bool = False,
) -> "gcp.container.NodePoolNodeConfigArgsDict":
    """Nodes as all pools have them: shielded, with Workload Identity and image streaming.

    Args:
        pool: The pool's name, which its nodes carry as a label.
        machine_type: Compute Engine machine type.
        service_account: Email of the nodes' service account.
        disk_size_gb: Size of the boot disk.
        node_labels: Labels of the nodes besides the pool's.
        labels: Labels of the machines on Google Cloud.
        taints: Taints of the nodes.
        spot: Whether they are spot machines.
    """
    return {
        "machine_type": machine_type,
        "image_type": "COS_CONTAINERD",
        "disk_type": boot_disk_type(machine_type),
        "disk_size_gb": disk_size_gb,
        "service_account": service_account,
        # What the nodes may do is up to the account's roles.
        "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        "spot": spot,
        "labels": {**(node_labels or {}), POOL: pool},
        "resource_labels": gcp_labels(labels or {}),
        "taints": [{"key": taint["key"], "value": taint["value"], "effect": _effect(taint).value} for taint in taints],
        "metadata": {"disable-legacy-endpoints": "true"},
        "workload_metadata_config": {"mode": "GKE_METADATA"},
        "shielded_instance_config": {"enable_secure_boot": True, "enable_integrity_monitoring": True},
        "gcfs_config": {"enabled": True},
        "kubelet_config": {"insecure_kubelet_readonly_port_enabled": "FALSE"},
    }


def node_counts(least: int, most: int, *, prefix: str = "", at_least: int = 0) -> tuple[int, int]:
    """Check the fewest and the most nodes of a pool.

    Args:
        least: Nodes that are always there.
        most: Nodes at most.
        prefix: What the arguments' names begin with, for the message.
        at_least: The fewest that may be asked for.

    Raises:
        PoolError: They are out of range, or the wrong way round.
    """
    least, most = int(least), int(most)
    if least < at_least:
        raise PoolError(f"{prefix}min_nodes: {least} is less than {at_least}")
    if not 1 <= most <= 1000:
        raise PoolError(f"{prefix}max_nodes: {most} is not between 1 and 1000")
    if least > most:
        raise PoolError(f"{prefix}min_nodes: {least} is more than {prefix}max_nodes, {most}")
    return least, most


def gcp_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels in Google Cloud's spelling: lower-case letters, digits, ``-`` and ``_``, at most 63.

    ``modelport.dev/stack`` is ``modelport-dev_stack``.
    """
    return {_gcp_word(key): _gcp_word(value) for key, value in labels.items()}


def _gcp_word(word: str) -> str:
    spelled = word.lower().replace("/", "_").replace(".", "-")
    return re.sub(r"[^a-z0-9_-]", "-", spelled)[:63]


def _one_of(kind: type[_Choice], argument: str, value: str) -> _Choice:
    try:
        return kind(value)
    except ValueError as error:
        raise PoolError(f"{argument}: {value!r} is not one of {', '.join(kind)}") from error


def _purchase(args: GpuNodePoolArgs) -> Purchase:
    asked = {
        "spot": args.get("spot", False),
        "flex_start": args.get("flex_start", False),
        "reservation": bool(args.get("reservation")),
    }
    chosen = [argument for argument, wanted in asked.items() if wanted]
    if len(chosen) > 1:
        raise PoolError(
            f"{chosen[0]}: a pool cannot have {' and '.join(chosen)} at once; they are different ways to pay"
        )
    ways = {"spot": Purchase.SPOT, "flex_start": Purchase.FLEX_START, "reservation": Purchase.RESERVATION}
    return ways[chosen[0]] if chosen else Purchase.ON_DEMAND


def _sharing(args: GpuNodePoolArgs) -> tuple[SharingStrategy | None, int]:
    if "sharing" not in args:
        return None, 1
    if args.get("mig_partition"):
        raise PoolError("sharing: a GPU is either shared or cut by mig_partition, not both")
    strategy = _one_of(SharingStrategy, "sharing.strategy", args["sharing"]["strategy"])
    clients = int(args["sharing"]["clients"])
    if not 2 <= clients <= MAX_SHARED_CLIENTS:
        raise PoolError(f"sharing.clients: {clients} is not between 2 and {MAX_SHARED_CLIENTS}")
    return strategy, clients


def _partition(args: GpuNodePoolArgs, accelerator: Accelerator) -> str | None:
    partition = args.get("mig_partition")
    if not partition:
        return None
    sizes = GPUS[accelerator].partitions
    if not sizes:
        cut = ", ".join(kind for kind, gpu in GPUS.items() if gpu.partitions)
        raise PoolError(f"mig_partition: {accelerator} cannot be cut; {cut} can")
    if partition not in sizes:
        raise PoolError(f"mig_partition: {accelerator} has no partition {partition!r}; it has {', '.join(sizes)}")
    return partition


def _gpu_zones(args: GpuNodePoolArgs, accelerator: Accelerator) -> list[str]:
    location, zones = args["location"], list(args.get("zones", []))
    _check_zones(zones, location)
    having = zones_with(accelerator, location)
    near = zones_with(accelerator, region_of(location))
    if args.get("unlisted_zones", False) and zones:
        return zones
    if not zones and having:
        return having
    if not zones:
        elsewhere = ", ".join(near) + " is" if near else f"regions: {', '.join(_regions(accelerator))}"
        raise PoolError(
            f"zones: no zone of {location} is known to have {accelerator}; {elsewhere}. "
            "Where Google added some since, name them in zones and set unlisted_zones"
        )
    without = [zone for zone in zones if zone not in near]
    if without:
        have = f"{', '.join(near)} has" if near else f"no zone of {region_of(location)} has"
        raise PoolError(
            f"zones: {', '.join(without)} has no {accelerator}; {have}. "
            "Where Google added some since, set unlisted_zones"
        )
    return zones


def _regions(accelerator: Accelerator) -> list[str]:
    return sorted({region_of(zone) for zone in GPUS[accelerator].zones})


def _check_zones(zones: Sequence[str], location: str) -> None:
    for zone in zones:
        if not is_zone(zone) or region_of(zone) != region_of(location):
            raise PoolError(f"zones: {zone!r} is not a zone of {region_of(location)}, where the cluster is")


def _pool_name(pool: str) -> str:
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", pool):
        raise PoolError(f"pool: {pool!r} is not at most 40 lower-case letters, digits and hyphens after a letter")
    return pool


def _disk(size: int) -> int:
    if int(size) < 30:
        raise PoolError(f"disk_size_gb: {size} is too small for nodes; 30 at least, 100 for images with GPU libraries")
    return int(size)


def _gpu_taints(args: GpuNodePoolArgs) -> list[NodeTaint]:
    # GKE would add it by itself; said here, it is in the state and in what pods tolerate.
    own = NodeTaint(key=NVIDIA_GPU, value="present", effect=TaintEffect.NO_SCHEDULE)
    return [own, *args.get("taints", [])]


def _effect(taint: NodeTaint) -> TaintEffect:
    return _one_of(TaintEffect, "taints.effect", taint["effect"])


def _tolerations(taints: Sequence[NodeTaint]) -> list[PodToleration]:
    return [
        {
            "key": taint["key"],
            "operator": "Equal",
            "value": taint["value"],
            "effect": _effect(taint).value.replace("_", " ").title().replace(" ", ""),
        }
        for taint in taints
    ]


def _guest_accelerator(shape: GpuShape) -> "gcp.container.NodePoolNodeConfigGuestAcceleratorArgsDict":
    versions = {
        GpuDriver.DEFAULT: "DEFAULT",
        GpuDriver.LATEST: "LATEST",
        GpuDriver.DISABLED: "INSTALLATION_DISABLED",
    }
    gpu: gcp.container.NodePoolNodeConfigGuestAcceleratorArgsDict = {
        "type": shape.accelerator.value,
        "count": shape.count,
        "gpu_driver_installation_config": {"gpu_driver_version": versions[shape.driver]},
    }
    if shape.partition is not None:
        gpu["gpu_partition_size"] = shape.partition
    if shape.strategy is not None:
        gpu["gpu_sharing_config"] = {
            "gpu_sharing_strategy": shape.strategy.value.upper().replace("-", "_"),
            "max_shared_clients_per_gpu": shape.clients,
        }
    return gpu
