"""GKE: the cluster and its node pools, one door to both."""

from components.gke_cluster import (
    AutoProvisioning,
    ClusterError,
    GkeCluster,
    GkeClusterArgs,
    NetworkRanges,
    ReleaseChannel,
)
from components.node_pools import (
    CpuNodePool,
    CpuNodePoolArgs,
    GpuDriver,
    GpuNodePool,
    GpuNodePoolArgs,
    GpuSharing,
    NodeTaint,
    PodToleration,
    PoolError,
    SharingStrategy,
    TaintEffect,
    cpu_placement,
    gpu_allocatable,
    gpu_placement,
)

__all__ = [
    "AutoProvisioning",
    "ClusterError",
    "CpuNodePool",
    "CpuNodePoolArgs",
    "GkeCluster",
    "GkeClusterArgs",
    "GpuDriver",
    "GpuNodePool",
    "GpuNodePoolArgs",
    "GpuSharing",
    "NetworkRanges",
    "NodeTaint",
    "PodToleration",
    "PoolError",
    "ReleaseChannel",
    "SharingStrategy",
    "TaintEffect",
    "cpu_placement",
    "gpu_allocatable",
    "gpu_placement",
]
