"""The cluster: made on GKE, or one that is there already. Either way, a provider and the shapes of its nodes."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes

from components.accelerators import Accelerator
from components.gke import (
    CpuNodePool,
    CpuNodePoolArgs,
    GkeCluster,
    GkeClusterArgs,
    GpuNodePool,
    GpuNodePoolArgs,
    PoolError,
    TaintEffect,
    cpu_placement,
    gpu_allocatable,
    gpu_placement,
)
from components.labels import POOL
from components.machines import MachineMismatch, allocatable
from components.postgres import PostgresEngine
from infra import kubeconfig
from infra.capacity import Shape, bytes_of
from infra.settings import ExistingSettings, GcpSettings, GkeSettings, NodePool, Settings
from modelport.errors import BadInput


@dataclass(frozen=True)
class Cluster:
    """What the platform is built on."""

    provider: kubernetes.Provider
    credentials: pulumi.Output[str]
    """Command that lets a person use it."""
    context: pulumi.Output[dict[str, str]]
    """``name`` of its context in a kubeconfig, and that ``kubeconfig`` where it is not kubectl's own."""
    network: pulumi.Output[str] | None = None
    """Its network on Google Cloud, for what is reached by private address; known when the project's APIs are on."""


def shapes(settings: Settings, gcp: GcpSettings | None) -> list[Shape]:
    """What pods can have of each pool's nodes. Pure; known before anything is made.

    Raises:
        BadInput: a pool's machine, accelerator, zones or sharing make no sense.
    """
    if isinstance(settings.cluster, ExistingSettings):
        return [
            Shape(
                name=name,
                cpus=nodes.cpus,
                memory=bytes_of(nodes.memory),
                count=nodes.count,
                gpus=nodes.gpus,
                gpu_memory=bytes_of(nodes.gpu_memory) if nodes.gpu_memory else 0,
                accelerator=nodes.accelerator,
                uses=frozenset(nodes.use),
                node_selector=nodes.node_selector,
                tolerations=[toleration.manifest() for toleration in nodes.tolerations],
            )
            for name, nodes in settings.cluster.nodes.items()
        ]
    assert gcp is not None
    return [_shape(name, pool, settings.cluster, gcp) for name, pool in settings.cluster.node_pools.items()]


def build(settings: Settings, gcp: GcpSettings | None, labels: Mapping[str, str]) -> Cluster:
    """The cluster of a stack.

    Raises:
        BadInput: the kubeconfig, a pool or a pair of machine and accelerator makes no sense; an existing cluster is too
            old, or has another stack.
        Refused: an existing cluster does not take the kubeconfig's credentials.
        Unavailable: an existing cluster does not answer.
    """
    if isinstance(settings.cluster, ExistingSettings):
        return _existing(settings.cluster)
    assert gcp is not None
    return _gke(settings, settings.cluster, gcp, labels)


def _existing(settings: ExistingSettings) -> Cluster:
    config = kubeconfig.find(settings.kubeconfig, settings.context)
    kubeconfig.look(config, pulumi.get_stack())
    provider = kubernetes.Provider(
        "cluster",
        # As the stack says it, and never where this person's is: that would be in the state, where others find nothing.
        # Empty means the usual places; None would be this machine's $KUBECONFIG.
        kubeconfig=settings.kubeconfig or "",
        context=config.context,
        enable_server_side_apply=True,
        # Another desired version changes its ConfigMap in place, and the pods that mount it go on.
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
    )
    named = {"kubeconfig": settings.kubeconfig} if settings.kubeconfig else {}
    words = [
        "kubectl",
        *(f"--{key}={value}" for key, value in named.items()),
        f"--context={config.context}",
        "get nodes",
    ]
    context = {"name": config.context, **named}
    return Cluster(provider, pulumi.Output.from_input(" ".join(words)), pulumi.Output.from_input(context))


def _gke(settings: Settings, gke: GkeSettings, gcp: GcpSettings, labels: Mapping[str, str]) -> Cluster:
    name = pulumi.get_stack()
    cloud_sql = settings.database.engine is PostgresEngine.CLOUD_SQL
    args: GkeClusterArgs = {
        "project": gcp.project,
        "location": _location(gke, gcp),
        "node_locations": [_zone(zone, gcp, "node_zones") for zone in gke.node_zones],
        "release_channel": gke.release_channel,
        "maintenance_start": gke.maintenance_start,
        "maintenance_end": gke.maintenance_end,
        "maintenance_recurrence": gke.maintenance_recurrence,
        "apis": ["sqladmin", "servicenetworking"] if cloud_sql else [],
        # Where the platform image is.
        "artifact_registry": True,
        "deletion_protection": settings.protect,
        "system_machine_type": gke.system_machine_type,
        "system_min_nodes": gke.system_minimum,
        "system_max_nodes": gke.system_maximum,
        "labels": dict(labels),
    }
    if gke.security_group:
        args["security_group"] = gke.security_group
    cluster = GkeCluster(name, args)
    pools: list[pulumi.Resource] = []
    for pool_name, pool in gke.node_pools.items():
        child = f"{name}-{pool_name}"
        common = PoolPlace(cluster.project, _location(gke, gcp), cluster.cluster_name, cluster.node_service_account)
        if pool.accelerator is None:
            pools.append(CpuNodePool(child, _cpu_args(pool_name, pool, common, labels)))
        else:
            pools.append(GpuNodePool(child, _gpu_args(pool_name, pool, pool.accelerator, common, labels)))
    provider = kubernetes.Provider(
        "cluster",
        kubeconfig=pulumi.Output.secret(cluster.kubeconfig),
        enable_server_side_apply=True,
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        # What runs on the nodes goes before they do.
        opts=pulumi.ResourceOptions(depends_on=[cluster, *pools]),
    )
    command = cluster.cluster_name.apply(
        lambda made: (
            f"gcloud container clusters get-credentials {made} --location {_location(gke, gcp)} "
            f"--project {gcp.project} --dns-endpoint"
        )
    )
    # The cluster comes after the project's APIs, which a database needs too.
    network = pulumi.Output.all(cluster.network, cluster.cluster_name).apply(lambda values: str(values[0]))
    # As the command names it.
    context = cluster.cluster_name.apply(lambda made: {"name": f"gke_{gcp.project}_{_location(gke, gcp)}_{made}"})
    return Cluster(provider, command, context, network)


@dataclass(frozen=True)
class PoolPlace:
    """The cluster that a node pool belongs to."""

    project: pulumi.Input[str]
    location: str
    cluster: pulumi.Input[str]
    service_account: pulumi.Input[str]


def _location(gke: GkeSettings, gcp: GcpSettings) -> str:
    return _zone(gke.zone, gcp, "zone") if gke.zone else gcp.region


def _zone(zone: str, gcp: GcpSettings, key: str) -> str:
    """A zone of the region, from its whole name or its last letter.

    Raises:
        BadInput: it is in another region.
    """
    whole = f"{gcp.region}-{zone}" if len(zone) == 1 else zone
    if whole.rpartition("-")[0] != gcp.region:
        raise BadInput(
            f"{zone!r} is no zone of gcp:region, {gcp.region}",
            key=f"modelport:cluster.{key}",
            remedy=f"write its letter, such as a, or a zone of {gcp.region}",
        )
    return whole


def _cpu_args(name: str, pool: NodePool, place: PoolPlace, labels: Mapping[str, str]) -> CpuNodePoolArgs:
    if pool.machine_type is None:
        key = f"modelport:cluster.node_pools.{name}.machine_type"
        raise BadInput("is not set", key=key, remedy="a pool without an accelerator needs one, such as e2-standard-4")
    return {
        "project": place.project,
        "location": place.location,
        "cluster": place.cluster,
        "service_account": place.service_account,
        "pool": name,
        "machine_type": pool.machine_type,
        "min_nodes": pool.minimum,
        "max_nodes": pool.maximum,
        "zones": list(pool.zones),
        "spot": pool.spot,
        # Only models go there: what holds state must not land on a machine that may be taken away.
        "taints": [{"key": POOL, "value": name, "effect": TaintEffect.NO_SCHEDULE}],
        "disk_size_gb": pool.disk_gb,
        "labels": dict(labels),
    }


def _gpu_args(
    name: str, pool: NodePool, accelerator: Accelerator, place: PoolPlace, labels: Mapping[str, str]
) -> GpuNodePoolArgs:
    args: GpuNodePoolArgs = {
        "project": place.project,
        "location": place.location,
        "cluster": place.cluster,
        "service_account": place.service_account,
        "pool": name,
        "accelerator": accelerator,
        "count": pool.accelerators,
        "min_nodes": pool.minimum,
        "max_nodes": pool.maximum,
        "driver": pool.driver,
        "spot": pool.spot,
        "flex_start": pool.flex_start,
        "disk_size_gb": pool.disk_gb,
        "labels": dict(labels),
    }
    if pool.machine_type:
        args["machine_type"] = pool.machine_type
    if pool.zones:
        args["zones"] = list(pool.zones)
    if pool.sharing:
        args["sharing"] = {"strategy": pool.sharing, "clients": pool.clients}
    if pool.mig_partition:
        args["mig_partition"] = pool.mig_partition
    if pool.reservation:
        args["reservation"] = pool.reservation
    return args


def _shape(name: str, pool: NodePool, gke: GkeSettings, gcp: GcpSettings) -> Shape:
    """What pods can have of a node that GKE makes."""
    nowhere = PoolPlace(gcp.project, _location(gke, gcp), "", "")
    try:
        if pool.accelerator is None:
            cpu = _cpu_args(name, pool, nowhere, {})
            placement, room = cpu_placement(name, cpu), allocatable(cpu["machine_type"])
        else:
            gpu = _gpu_args(name, pool, pool.accelerator, nowhere, {})
            placement, room = gpu_placement(name, gpu), gpu_allocatable(name, gpu)
    except (PoolError, MachineMismatch) as error:
        raise BadInput(
            str(error),
            key=f"modelport:cluster.node_pools.{name}",
            remedy="correct the pool; docs/gpu-pools.md tells what goes together",
        ) from None
    return Shape(
        name=name,
        cpus=room.cpu,
        memory=room.memory_bytes,
        count=pool.maximum,
        gpus=room.gpus,
        gpu_memory=room.gpu_memory_bytes,
        accelerator=pool.accelerator.value if pool.accelerator else None,
        uses=frozenset(pool.use),
        node_selector=placement.node_selector,
        tolerations=placement.tolerations,
        spot=pool.spot,
        shared=pool.sharing is not None,
    )
