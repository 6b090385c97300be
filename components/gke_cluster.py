"""A GKE cluster with its own network: private nodes, no public address, IAM at the door.

Sources: Google's pages "Harden your cluster's security", "Customize your network isolation" (DNS-based endpoint),
"Use least privilege IAM service accounts", "Image streaming", "Maintenance windows and exclusions", "Collect and view
DCGM metrics" (cloud.google.com/kubernetes-engine/docs). Never run against real GKE by this project's tests: those check
the inputs against the SDK's types and run on a stand-in for Google's API.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_gcp as gcp  # its parts are loaded when they are used, which takes seconds: annotations name them as text

from components.accelerators import is_zone, region_of
from components.machines import MachineMismatch, machine
from components.node_pools import PoolError, gcp_labels, node_config, node_counts

_PODS = "pods"
_SERVICES = "services"


class ReleaseChannel(StrEnum):
    """How soon new versions of Kubernetes arrive."""

    RAPID = "rapid"
    REGULAR = "regular"
    STABLE = "stable"
    EXTENDED = "extended"


class ClusterError(ValueError):
    """An argument of a cluster that cannot be; the message begins with its name."""


class NetworkRanges(TypedDict):
    """Private address ranges in CIDR notation, which may not overlap."""

    nodes: NotRequired[str]
    """Nodes and internal load balancers [default: ``10.0.0.0/20``]."""
    pods: NotRequired[str]
    """Pods; each node takes a /24 of it [default: ``10.4.0.0/14``]."""
    services: NotRequired[str]
    """Services [default: ``10.8.0.0/20``]."""


class AutoProvisioning(TypedDict):
    """Limits within which GKE may make node pools of its own."""

    max_cpu: int
    """Cores of all nodes together, those of the declared pools included."""
    max_memory_gib: int
    """Memory of all nodes together."""


class GkeClusterArgs(TypedDict):
    """Arguments of `GkeCluster`."""

    project: str
    """Google Cloud project."""
    location: str
    """A region (``europe-west4``) makes a highly available control plane, a zone (``europe-west4-a``) a cheaper one."""
    deletion_protection: bool
    """Refuse to delete the cluster until this is false."""
    cluster_name: NotRequired[str]
    """Name on GKE [default: the component's name]."""
    node_locations: NotRequired[list[str]]
    """Zones of the nodes [default: the location's own choice]."""
    ranges: NotRequired[NetworkRanges]
    """Address ranges of the network."""
    flow_logs: NotRequired[bool]
    """Log a sample of the network's flows [default: true]."""
    release_channel: NotRequired[ReleaseChannel]
    """How soon new versions of Kubernetes arrive [default: regular]."""
    maintenance_start: NotRequired[str]
    """Start of the first maintenance window, RFC 3339 [default: ``2026-01-03T02:00:00Z``, a Saturday]."""
    maintenance_end: NotRequired[str]
    """End of the first maintenance window [default: ``2026-01-03T08:00:00Z``]."""
    maintenance_recurrence: NotRequired[str]
    """When windows recur, RFC 5545 [default: ``FREQ=WEEKLY;BYDAY=SA,SU``]."""
    system_machine_type: NotRequired[str]
    """Machines of the system pool, which runs everything but models [default: ``e2-standard-4``]."""
    system_min_nodes: NotRequired[int]
    """Nodes of the system pool in each zone at least [default: 1]."""
    system_max_nodes: NotRequired[int]
    """Nodes of the system pool in each zone at most [default: 4]."""
    auto_provisioning: NotRequired[AutoProvisioning]
    """Let GKE make node pools of its own within these limits [default: only the declared pools]."""
    external_access: NotRequired[bool]
    """Whether the DNS endpoint answers callers outside Google Cloud, who need IAM all the same [default: true]."""
    secrets_key: NotRequired[pulumi.Input[str]]
    """Cloud KMS key that encrypts Secrets in the cluster's database; GKE's service agent must be allowed to use it."""
    binary_authorization: NotRequired[bool]
    """Enforce the project's Binary Authorization policy [default: false]."""
    security_group: NotRequired[str]
    """Google group ``gke-security-groups@...`` whose members' groups RBAC may name."""
    artifact_registry: NotRequired[bool]
    """Let nodes pull images from the project's Artifact Registry [default: false]."""
    apis: NotRequired[list[str]]
    """More Google Cloud APIs to enable, without their domain, such as ``sqladmin``."""
    labels: NotRequired[dict[str, str]]
    """Extra labels; on Google Cloud in its spelling (``modelport.dev/stack`` is ``modelport-dev_stack``)."""


class GkeCluster(pulumi.ComponentResource):
    """A VPC-native GKE cluster that is reached by its DNS name and IAM only.

    The kubeconfig names the DNS endpoint, whose certificate is publicly trusted, and asks ``gke-gcloud-auth-plugin``
    for tokens of the Application Default Credentials: the ones that Pulumi's gcp provider uses too. So the same text
    works on a laptop (after ``gcloud auth application-default login``) and in CI (workload identity federation, or a
    key file); either identity needs ``container.clusters.connect`` and no network path. roles/container.admin has it;
    roles/container.developer has it too, with every object of every cluster. It holds no secret, and is secret all the
    same.
    """

    cluster_name: pulumi.Output[str]
    """Name on GKE."""
    location: pulumi.Output[str]
    """Region or zone of the control plane."""
    project: pulumi.Output[str]
    """Google Cloud project."""
    endpoint: pulumi.Output[str]
    """DNS name of the control plane."""
    kubeconfig: pulumi.Output[str]
    """Kubeconfig as JSON; secret."""
    workload_pool: pulumi.Output[str]
    """Workload Identity pool, ``PROJECT.svc.id.goog``."""
    network: pulumi.Output[str]
    """Id of the network."""
    subnetwork: pulumi.Output[str]
    """Id of the subnetwork."""
    node_service_account: pulumi.Output[str]
    """Email of the nodes' service account; known when it has its roles."""

    def __init__(self, name: str, args: GkeClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_cluster(name, args)
        super().__init__("modelport:index:GkeCluster", name, {**args}, opts)
        services = self._services(name, args)
        network, subnetwork, nat = self._network(name, args, services)
        account, roles = self._node_identity(name, args, services)
        cluster = _cluster(
            name,
            args,
            network=network.id,
            subnetwork=subnetwork.id,
            service_account=account.email,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[*services, *roles, nat],
                # The pool that it describes is removed at once, and the API then reports none.
                ignore_changes=["nodeConfig", "initialNodeCount"],
            ),
        )
        _system_pool(
            name,
            args,
            cluster=cluster.name,
            service_account=account.email,
            opts=pulumi.ResourceOptions(parent=self, depends_on=roles, ignore_changes=["initialNodeCount"]),
        )
        self.cluster_name = cluster.name
        self.location = cluster.location
        self.project = cluster.project
        self.endpoint = cluster.control_plane_endpoints_config.apply(_dns_name)
        self.kubeconfig = pulumi.Output.secret(
            pulumi.Output.all(self.cluster_name, self.endpoint).apply(lambda made: kubeconfig(made[0], made[1]))
        )
        self.workload_pool = cluster.project.apply(lambda project: f"{project}.svc.id.goog")
        self.network = network.id
        self.subnetwork = subnetwork.id
        self.node_service_account = pulumi.Output.all(account.email, *(role.id for role in roles)).apply(
            lambda made: str(made[0])
        )
        self.register_outputs(
            {
                "clusterName": self.cluster_name,
                "location": self.location,
                "project": self.project,
                "endpoint": self.endpoint,
                "kubeconfig": self.kubeconfig,
                "workloadPool": self.workload_pool,
                "network": self.network,
                "subnetwork": self.subnetwork,
                "nodeServiceAccount": self.node_service_account,
            }
        )

    def _services(self, name: str, args: GkeClusterArgs) -> list[pulumi.Resource]:
        return [
            gcp.projects.Service(
                f"{name}-api-{service}",
                project=args["project"],
                service=f"{service}.googleapis.com",
                # Somebody else in the project may use it.
                disable_on_destroy=False,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for service in apis(args)
        ]

    def _network(
        self, name: str, args: GkeClusterArgs, services: list[pulumi.Resource]
    ) -> "tuple[gcp.compute.Network, gcp.compute.Subnetwork, gcp.compute.RouterNat]":
        project, region = args["project"], region_of(args["location"])
        network = gcp.compute.Network(
            f"{name}-network",
            project=project,
            name=name,
            auto_create_subnetworks=False,
            routing_mode="REGIONAL",
            opts=pulumi.ResourceOptions(parent=self, depends_on=services),
        )
        subnetwork = _subnetwork(name, args, network=network.id, opts=pulumi.ResourceOptions(parent=self))
        router = gcp.compute.Router(
            f"{name}-router",
            project=project,
            name=name,
            region=region,
            network=network.id,
            opts=pulumi.ResourceOptions(parent=self),
        )
        nat = gcp.compute.RouterNat(
            f"{name}-nat",
            project=project,
            name=name,
            region=region,
            router=router.name,
            nat_ip_allocate_option="AUTO_ONLY",
            source_subnetwork_ip_ranges_to_nat="LIST_OF_SUBNETWORKS",
            subnetworks=[{"name": subnetwork.id, "source_ip_ranges_to_nats": ["ALL_IP_RANGES"]}],
            enable_dynamic_port_allocation=True,
            enable_endpoint_independent_mapping=False,
            min_ports_per_vm=64,
            log_config={"enable": True, "filter": "ERRORS_ONLY"},
            opts=pulumi.ResourceOptions(parent=self),
        )
        return network, subnetwork, nat

    def _node_identity(
        self, name: str, args: GkeClusterArgs, services: list[pulumi.Resource]
    ) -> "tuple[gcp.serviceaccount.Account, list[gcp.projects.IAMMember]]":
        account = gcp.serviceaccount.Account(
            f"{name}-nodes",
            project=args["project"],
            account_id=account_id(name),
            display_name=f"Nodes of the GKE cluster {name}",
            opts=pulumi.ResourceOptions(parent=self, depends_on=services),
        )
        roles = [
            gcp.projects.IAMMember(
                f"{name}-nodes-{role.rsplit('.', 1)[-1].rsplit('/', 1)[-1]}",
                project=args["project"],
                role=role,
                member=account.email.apply(lambda email: f"serviceAccount:{email}"),
                opts=pulumi.ResourceOptions(parent=self),
            )
            for role in node_roles(args)
        ]
        return account, roles


def check_cluster(name: str, args: GkeClusterArgs) -> None:
    """Check everything that can be known before anything is made.

    Raises:
        ClusterError: An argument cannot be; the message begins with its name.
    """
    cluster_name = args.get("cluster_name", name)
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", cluster_name):
        raise ClusterError(
            f"cluster_name: {cluster_name!r} is not at most 40 lower-case letters, digits and hyphens after a letter"
        )
    location = args["location"]
    if not re.fullmatch(r"[a-z]+-[a-z]+[0-9]+(-[a-z])?", location):
        raise ClusterError(f"location: {location!r} is neither a region (europe-west4) nor a zone (europe-west4-a)")
    for zone in args.get("node_locations", []):
        if not is_zone(zone) or region_of(zone) != region_of(location):
            raise ClusterError(f"node_locations: {zone!r} is not a zone of {region_of(location)}")
    try:
        machine(args.get("system_machine_type", _SYSTEM_MACHINE))
    except MachineMismatch as error:
        raise ClusterError(f"system_machine_type: {error}") from error
    try:
        node_counts(args.get("system_min_nodes", 1), args.get("system_max_nodes", 4), prefix="system_", at_least=1)
    except PoolError as error:
        raise ClusterError(str(error)) from error
    _channel(args)
    _check_ranges(args.get("ranges", NetworkRanges()))
    start, end, recurrence = _maintenance(args)
    _check_maintenance(start, end, recurrence)


_SYSTEM_MACHINE = "e2-standard-4"
_PRIVATE = [
    ipaddress.IPv4Network(block) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
]


def ranges_of(ranges: NetworkRanges) -> dict[str, str]:
    """Address ranges of nodes, pods and services, with the defaults filled in."""
    return {
        "nodes": ranges.get("nodes", "10.0.0.0/20"),
        "pods": ranges.get("pods", "10.4.0.0/14"),
        "services": ranges.get("services", "10.8.0.0/20"),
    }


def _check_ranges(ranges: NetworkRanges) -> None:
    seen: dict[str, ipaddress.IPv4Network] = {}
    for use, text in ranges_of(ranges).items():
        try:
            block = ipaddress.IPv4Network(text)
        except ValueError as error:
            raise ClusterError(
                f"ranges.{use}: {text!r} is not an address range such as 10.0.0.0/20: {error}"
            ) from error
        if not any(block.subnet_of(private) for private in _PRIVATE):
            raise ClusterError(f"ranges.{use}: {text} is not within a private range (10/8, 172.16/12, 192.168/16)")
        for other, taken in seen.items():
            if block.overlaps(taken):
                raise ClusterError(f"ranges.{use}: {text} overlaps ranges.{other} {taken}")
        seen[use] = block


def _maintenance(args: GkeClusterArgs) -> tuple[str, str, str]:
    return (
        args.get("maintenance_start", "2026-01-03T02:00:00Z"),
        args.get("maintenance_end", "2026-01-03T08:00:00Z"),
        args.get("maintenance_recurrence", "FREQ=WEEKLY;BYDAY=SA,SU"),
    )


def _check_maintenance(start: str, end: str, recurrence: str) -> None:
    """GKE wants 48 hours within 32 days, in windows of 4 hours at least."""
    try:
        length = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    except (ValueError, TypeError) as error:
        raise ClusterError(f"maintenance_start, maintenance_end: {start} to {end} is not RFC 3339: {error}") from error
    if not timedelta(hours=4) <= length <= timedelta(hours=24):
        raise ClusterError(f"maintenance_end: the window {start} to {end} lasts {length}, not 4 to 24 hours")
    rule = dict(part.split("=", 1) for part in recurrence.split(";") if "=" in part)
    days = {"DAILY": 32, "WEEKLY": len(rule.get("BYDAY", "MO").split(",")) * 32 // 7}.get(rule.get("FREQ", ""))
    if days is None:
        raise ClusterError(f"maintenance_recurrence: {recurrence!r} is not FREQ=DAILY or FREQ=WEEKLY;BYDAY=SA,SU")
    hours = days * length.total_seconds() / 3600
    if hours < 48:
        raise ClusterError(
            f"maintenance_recurrence: {recurrence} with windows of {length} gives {hours:g} hours in 32 days; "
            "GKE wants 48"
        )


def _channel(args: GkeClusterArgs) -> ReleaseChannel:
    value = args.get("release_channel", ReleaseChannel.REGULAR)
    try:
        return ReleaseChannel(value)
    except ValueError as error:
        raise ClusterError(f"release_channel: {value!r} is not one of {', '.join(ReleaseChannel)}") from error


def apis(args: GkeClusterArgs) -> list[str]:
    """Google Cloud APIs that the cluster needs, without their domain."""
    wanted = ["cloudresourcemanager", "compute", "container", "containerfilesystem", "iam", "logging", "monitoring"]
    optional = {
        "artifactregistry": args.get("artifact_registry", False),
        "binaryauthorization": args.get("binary_authorization", False),
        "cloudkms": "secrets_key" in args,
    }
    chosen = (service for service, needed in optional.items() if needed)
    return sorted({*wanted, *chosen, *args.get("apis", [])})


def node_roles(args: GkeClusterArgs) -> list[str]:
    """Roles of the nodes' service account: logs, metrics, and images where that was asked for."""
    images = ["roles/artifactregistry.reader"] if args.get("artifact_registry", False) else []
    return ["roles/container.defaultNodeServiceAccount", *images]


def account_id(name: str) -> str:
    """Id of the nodes' service account: 6 to 30 characters."""
    return f"{name[:24].rstrip('-')}-nodes"


def _subnetwork(
    name: str, args: GkeClusterArgs, *, network: pulumi.Input[str], opts: pulumi.ResourceOptions
) -> "gcp.compute.Subnetwork":
    """Nodes in the primary range, pods and services in secondary ones."""
    ranges = ranges_of(args.get("ranges", NetworkRanges()))
    logs: gcp.compute.SubnetworkLogConfigArgsDict = {
        "aggregation_interval": "INTERVAL_10_MIN",
        "flow_sampling": 0.1,
        "metadata": "INCLUDE_ALL_METADATA",
    }
    return gcp.compute.Subnetwork(
        f"{name}-subnetwork",
        project=args["project"],
        name=name,
        region=region_of(args["location"]),
        network=network,
        ip_cidr_range=ranges["nodes"],
        secondary_ip_ranges=[
            {"range_name": _PODS, "ip_cidr_range": ranges["pods"]},
            {"range_name": _SERVICES, "ip_cidr_range": ranges["services"]},
        ],
        private_ip_google_access=True,
        log_config=logs if args.get("flow_logs", True) else None,
        opts=opts,
    )


def _cluster(
    name: str,
    args: GkeClusterArgs,
    *,
    network: pulumi.Input[str],
    subnetwork: pulumi.Input[str],
    service_account: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> "gcp.container.Cluster":
    start, end, recurrence = _maintenance(args)
    zones = args.get("node_locations") or None
    return gcp.container.Cluster(
        f"{name}-cluster",
        project=args["project"],
        name=args.get("cluster_name", name),
        location=args["location"],
        node_locations=zones,
        deletion_protection=args["deletion_protection"],
        resource_labels=gcp_labels(args.get("labels", {})),
        # Network: VPC-native, private, policies enforced by Dataplane V2.
        network=network,
        subnetwork=subnetwork,
        networking_mode="VPC_NATIVE",
        ip_allocation_policy={
            "cluster_secondary_range_name": _PODS,
            "services_secondary_range_name": _SERVICES,
        },
        datapath_provider="ADVANCED_DATAPATH",
        enable_intranode_visibility=True,
        private_cluster_config={"enable_private_nodes": True},
        # Door: a DNS name behind IAM; no address, no client certificate, no legacy rights.
        control_plane_endpoints_config={
            "dns_endpoint_config": {
                "allow_external_traffic": args.get("external_access", True),
                "enable_k8s_certs_via_dns": False,
                "enable_k8s_tokens_via_dns": False,
            },
            "ip_endpoints_config": {"enabled": False},
        },
        master_auth={"client_certificate_config": {"issue_client_certificate": False}},
        enable_legacy_abac=False,
        authenticator_groups_config=_groups(args),
        rbac_binding_config={
            "enable_insecure_binding_system_authenticated": False,
            "enable_insecure_binding_system_unauthenticated": False,
        },
        workload_identity_config={"workload_pool": f"{args['project']}.svc.id.goog"},
        database_encryption=_encryption(args),
        binary_authorization=_binary_authorization(args),
        security_posture_config={"mode": "BASIC", "vulnerability_mode": "VULNERABILITY_DISABLED"},
        # Upgrades.
        release_channel={"channel": _channel(args).upper()},
        maintenance_policy={
            "recurring_window": {"start_time": start, "end_time": end, "recurrence": recurrence},
        },
        # Nodes: the default pool is removed at once; it must not run as the project's default account even so.
        remove_default_node_pool=True,
        initial_node_count=1,
        node_config={
            "machine_type": _SYSTEM_MACHINE,
            "service_account": service_account,
            "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            "shielded_instance_config": {"enable_secure_boot": True, "enable_integrity_monitoring": True},
            "workload_metadata_config": {"mode": "GKE_METADATA"},
        },
        enable_shielded_nodes=True,
        node_pool_defaults={
            "node_config_defaults": {
                "gcfs_config": {"enabled": True},
                "insecure_kubelet_readonly_port_enabled": "FALSE",
            }
        },
        cluster_autoscaling=_autoscaling(args, service_account),
        # Watching.
        logging_config={"enable_components": ["SYSTEM_COMPONENTS", "WORKLOADS"]},
        monitoring_config={
            "enable_components": [
                "SYSTEM_COMPONENTS",
                "STORAGE",
                "POD",
                "DEPLOYMENT",
                "STATEFULSET",
                "DAEMONSET",
                "HPA",
                "CADVISOR",
                "KUBELET",
                "DCGM",
            ],
            "managed_prometheus": {"enabled": True},
            "advanced_datapath_observability_config": {"enable_metrics": True, "enable_relay": False},
        },
        cost_management_config={"enabled": True},
        # What workloads stand on.
        gateway_api_config={"channel": "CHANNEL_STANDARD"},
        vertical_pod_autoscaling={"enabled": True},
        addons_config={
            "gce_persistent_disk_csi_driver_config": {"enabled": True},
            "horizontal_pod_autoscaling": {"disabled": False},
            "http_load_balancing": {"disabled": False},
            # With it queries leave the pod for an address that default-deny policies by label cannot name.
            "dns_cache_config": {"enabled": False},
        },
        opts=opts,
    )


def _groups(args: GkeClusterArgs) -> "gcp.container.ClusterAuthenticatorGroupsConfigArgsDict | None":
    return {"security_group": args["security_group"]} if "security_group" in args else None


def _encryption(args: GkeClusterArgs) -> "gcp.container.ClusterDatabaseEncryptionArgsDict | None":
    return {"state": "ENCRYPTED", "key_name": args["secrets_key"]} if "secrets_key" in args else None


def _binary_authorization(args: GkeClusterArgs) -> "gcp.container.ClusterBinaryAuthorizationArgsDict | None":
    enforce = args.get("binary_authorization", False)
    return {"evaluation_mode": "PROJECT_SINGLETON_POLICY_ENFORCE"} if enforce else None


def _autoscaling(
    args: GkeClusterArgs, service_account: pulumi.Input[str]
) -> "gcp.container.ClusterClusterAutoscalingArgsDict":
    if "auto_provisioning" not in args:
        return {"enabled": False, "autoscaling_profile": "OPTIMIZE_UTILIZATION"}
    limits = args["auto_provisioning"]
    return {
        "enabled": True,
        "autoscaling_profile": "OPTIMIZE_UTILIZATION",
        "resource_limits": [
            {"resource_type": "cpu", "minimum": 1, "maximum": int(limits["max_cpu"])},
            {"resource_type": "memory", "minimum": 1, "maximum": int(limits["max_memory_gib"])},
        ],
        "auto_provisioning_defaults": {
            "service_account": service_account,
            "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            "management": {"auto_repair": True, "auto_upgrade": True},
            "shielded_instance_config": {"enable_secure_boot": True, "enable_integrity_monitoring": True},
        },
    }


def _system_pool(
    name: str,
    args: GkeClusterArgs,
    *,
    cluster: pulumi.Input[str],
    service_account: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> "gcp.container.NodePool":
    machine_type = args.get("system_machine_type", _SYSTEM_MACHINE)
    least, most = int(args.get("system_min_nodes", 1)), int(args.get("system_max_nodes", 4))
    return gcp.container.NodePool(
        f"{name}-system",
        project=args["project"],
        location=args["location"],
        cluster=cluster,
        name="system",
        initial_node_count=least,
        autoscaling={"min_node_count": least, "max_node_count": most, "location_policy": "BALANCED"},
        management={"auto_repair": True, "auto_upgrade": True},
        upgrade_settings={"strategy": "SURGE", "max_surge": 1, "max_unavailable": 0},
        network_config={"enable_private_nodes": True},
        node_config=node_config(
            "system",
            machine_type=machine_type,
            service_account=service_account,
            disk_size_gb=100,
            labels=args.get("labels", {}),
        ),
        opts=opts,
    )


def kubeconfig(cluster: str, endpoint: str) -> str:
    """A kubeconfig, as JSON, for a control plane's DNS name; tokens come from Application Default Credentials."""
    config: Mapping[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster,
        "clusters": [{"name": cluster, "cluster": {"server": f"https://{endpoint}"}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
        "users": [
            {
                "name": cluster,
                "user": {
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1beta1",
                        "command": "gke-gcloud-auth-plugin",
                        "args": ["--use_application_default_credentials"],
                        "installHint": "gcloud components install gke-gcloud-auth-plugin",
                        "interactiveMode": "Never",
                        "provideClusterInfo": True,
                    }
                },
            }
        ],
    }
    return json.dumps(config, indent=2)


def _dns_name(config: Any) -> str:
    found = config.dns_endpoint_config.endpoint if config and config.dns_endpoint_config else None
    if not found:
        raise RuntimeError(
            "the cluster has no DNS endpoint: was controlPlaneEndpointsConfig changed outside of Pulumi?"
        )
    return str(found)
