"""The cluster and its node pools: what is asked of Google, and what is refused before anything is."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pulumi
import pytest

from components.accelerators import Accelerator
from components.gke import (
    ClusterError,
    CpuNodePool,
    GkeCluster,
    GpuDriver,
    GpuNodePool,
    PoolError,
    SharingStrategy,
    TaintEffect,
    cpu_placement,
    gpu_allocatable,
    gpu_placement,
)
from components.gke_cluster import account_id, apis, check_cluster, kubeconfig, node_roles
from components.node_pools import gcp_labels, gpu_shape
from tests.components.google import record_on_google as record
from tests.components.recording import Recorded

CLUSTER: Mapping[str, Any] = {
    "project": "some-project",
    "location": "europe-west4",
    "deletion_protection": True,
    "labels": {"modelport.dev/stack": "Prod"},
}
GPU: Mapping[str, Any] = {
    "project": "some-project",
    "location": "europe-west4",
    "cluster": "c",
    "service_account": "nodes@some-project.iam.gserviceaccount.com",
    "accelerator": Accelerator.L4,
    "max_nodes": 4,
}
CPU: Mapping[str, Any] = {
    "project": "some-project",
    "location": "europe-west4",
    "cluster": "c",
    "service_account": "nodes@some-project.iam.gserviceaccount.com",
    "machine_type": "n2-standard-8",
    "max_nodes": 4,
}


def one(resources: list[Recorded], kind: str, name: str = "") -> dict[str, Any]:
    """Inputs of the one resource of a kind."""
    (found,) = [each for each in resources if each.kind == kind and name in each.name]
    return found.inputs


def cluster(**changes: Any) -> list[Recorded]:
    return record(lambda: GkeCluster("prod", {**CLUSTER, **changes}))  # type: ignore[typeddict-item]


def gpu_pool(**changes: Any) -> dict[str, Any]:
    return one(record(lambda: GpuNodePool("l4", {**GPU, **changes})), "NodePool")  # type: ignore[typeddict-item]


def test_the_control_plane_has_no_address_and_wants_iam() -> None:
    made = one(cluster(), "Cluster")
    assert made["controlPlaneEndpointsConfig"] == {
        "dnsEndpointConfig": {
            "allowExternalTraffic": True,
            "enableK8sCertsViaDns": False,
            "enableK8sTokensViaDns": False,
        },
        "ipEndpointsConfig": {"enabled": False},
    }
    assert made["masterAuth"] == {"clientCertificateConfig": {"issueClientCertificate": False}}
    assert made["enableLegacyAbac"] is False
    closed = one(cluster(external_access=False), "Cluster")
    assert closed["controlPlaneEndpointsConfig"]["dnsEndpointConfig"]["allowExternalTraffic"] is False


def test_the_cluster_is_hardened() -> None:
    made = one(cluster(), "Cluster")
    assert made["privateClusterConfig"] == {"enablePrivateNodes": True}
    assert made["datapathProvider"] == "ADVANCED_DATAPATH"
    assert made["workloadIdentityConfig"] == {"workloadPool": "some-project.svc.id.goog"}
    assert made["enableShieldedNodes"] is True
    assert made["securityPostureConfig"]["mode"] == "BASIC"
    assert made["nodePoolDefaults"]["nodeConfigDefaults"]["insecureKubeletReadonlyPortEnabled"] == "FALSE"
    assert set(made["rbacBindingConfig"].values()) == {False}
    assert "DCGM" in made["monitoringConfig"]["enableComponents"]
    assert made["monitoringConfig"]["managedPrometheus"] == {"enabled": True}
    assert made["gatewayApiConfig"] == {"channel": "CHANNEL_STANDARD"}
    assert made["resourceLabels"] == {"modelport-dev_stack": "prod"}


def test_what_the_stack_decides() -> None:
    made = one(
        cluster(
            deletion_protection=False,
            release_channel="stable",
            secrets_key="key",
            binary_authorization=True,
            security_group="gke-security-groups@example.org",
            auto_provisioning={"max_cpu": 64.0, "max_memory_gib": 256.0},
            node_locations=["europe-west4-a"],
            maintenance_recurrence="FREQ=DAILY",
        ),
        "Cluster",
    )
    assert made["deletionProtection"] is False
    assert made["releaseChannel"] == {"channel": "STABLE"}
    assert made["databaseEncryption"] == {"state": "ENCRYPTED", "keyName": "key"}
    assert made["binaryAuthorization"] == {"evaluationMode": "PROJECT_SINGLETON_POLICY_ENFORCE"}
    assert made["authenticatorGroupsConfig"] == {"securityGroup": "gke-security-groups@example.org"}
    limits = made["clusterAutoscaling"]["resourceLimits"]
    assert [(each["resourceType"], each["maximum"]) for each in limits] == [("cpu", 64), ("memory", 256)]
    assert made["clusterAutoscaling"]["autoProvisioningDefaults"]["serviceAccount"].startswith("prod-nodes@")
    assert made["nodeLocations"] == ["europe-west4-a"]
    assert made["maintenancePolicy"]["recurringWindow"]["recurrence"] == "FREQ=DAILY"


def test_the_network_is_its_own_and_private() -> None:
    made = cluster()
    assert one(made, "Network")["autoCreateSubnetworks"] is False
    subnetwork = one(made, "Subnetwork")
    assert subnetwork["region"] == "europe-west4"
    assert subnetwork["privateIpGoogleAccess"] is True
    assert [each["rangeName"] for each in subnetwork["secondaryIpRanges"]] == ["pods", "services"]
    assert "logConfig" in subnetwork
    policy = one(made, "Cluster")["ipAllocationPolicy"]
    assert policy == {"clusterSecondaryRangeName": "pods", "servicesSecondaryRangeName": "services"}
    nat = one(made, "RouterNat")
    assert nat["natIpAllocateOption"] == "AUTO_ONLY"
    assert nat["sourceSubnetworkIpRangesToNat"] == "LIST_OF_SUBNETWORKS"
    assert "logConfig" not in one(cluster(flow_logs=False), "Subnetwork")
    zonal = cluster(location="europe-west4-a")
    assert {one(zonal, kind)["region"] for kind in ("Subnetwork", "Router", "RouterNat")} == {"europe-west4"}


def test_nodes_have_an_account_of_their_own_with_few_rights() -> None:
    made = cluster()
    grants = [each.inputs for each in made if each.kind == "IAMMember"]
    assert [grant["role"] for grant in grants] == ["roles/container.defaultNodeServiceAccount"]
    account = "prod-nodes@some-project.iam.gserviceaccount.com"
    assert grants[0]["member"] == f"serviceAccount:{account}"
    system = one(made, "NodePool")
    assert system["nodeConfig"]["serviceAccount"] == account
    assert one(made, "Cluster")["nodeConfig"]["serviceAccount"] == account
    with_images = node_roles({**CLUSTER, "artifact_registry": True})  # type: ignore[typeddict-item]
    assert with_images == ["roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader"]


def test_apis_stay_enabled_for_others() -> None:
    services = [each.inputs for each in cluster() if each.kind == "Service"]
    assert {"container.googleapis.com", "compute.googleapis.com", "containerfilesystem.googleapis.com"} <= {
        service["service"] for service in services
    }
    assert {service["disableOnDestroy"] for service in services} == {False}
    wanted = apis({**CLUSTER, "secrets_key": "key", "apis": ["sqladmin", "compute"]})  # type: ignore[typeddict-item]
    assert {"cloudkms", "sqladmin"} <= set(wanted)
    assert len(wanted) == len(set(wanted))


def test_every_pool_has_safe_nodes() -> None:
    system = one(cluster(system_max_nodes=6.0), "NodePool")
    assert system["autoscaling"] == {"minNodeCount": 1, "maxNodeCount": 6, "locationPolicy": "BALANCED"}
    cpu = one(record(lambda: CpuNodePool("cpu", {**CPU})), "NodePool")  # type: ignore[typeddict-item]
    for pool in (system, gpu_pool(), cpu):
        config = pool["nodeConfig"]
        assert config["shieldedInstanceConfig"] == {"enableSecureBoot": True, "enableIntegrityMonitoring": True}
        assert config["workloadMetadataConfig"] == {"mode": "GKE_METADATA"}
        assert config["kubeletConfig"] == {"insecureKubeletReadonlyPortEnabled": "FALSE"}
        assert config["gcfsConfig"] == {"enabled": True}
        assert config["labels"]["modelport.dev/pool"] == pool["name"]
        assert pool["networkConfig"] == {"enablePrivateNodes": True}
        assert pool["management"] == {"autoRepair": True, "autoUpgrade": True}


def test_the_kubeconfig_is_secret_and_asks_for_a_token() -> None:
    seen: list[tuple[bool, dict[str, Any]]] = []

    def build() -> None:
        made = GkeCluster("prod", {**CLUSTER})  # type: ignore[typeddict-item]
        secret = pulumi.Output.from_input(made.kubeconfig.is_secret())
        pulumi.Output.all(made.kubeconfig, secret).apply(lambda found: seen.append((found[1], json.loads(found[0]))))

    record(build)
    ((secret, config),) = seen
    assert secret
    assert config["clusters"] == [{"name": "prod", "cluster": {"server": "https://gke-1.goog"}}]
    login = config["users"][0]["user"]["exec"]
    assert login["command"] == "gke-gcloud-auth-plugin"
    assert login["args"] == ["--use_application_default_credentials"]
    assert config == json.loads(kubeconfig("prod", "gke-1.goog"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": "Europe"}, "location: 'Europe' is neither a region"),
        ({"cluster_name": "My_Cluster"}, "cluster_name: 'My_Cluster' is not at most 40"),
        ({"node_locations": ["us-central1-a"]}, "node_locations: 'us-central1-a' is not a zone of europe-west4"),
        ({"release_channel": "fast"}, "release_channel: 'fast' is not one of rapid, regular, stable, extended"),
        ({"system_machine_type": "e2-standard-3"}, "system_machine_type: machine type 'e2-standard-3' is not known"),
        ({"system_min_nodes": 0}, "system_min_nodes: 0 is less than 1"),
        ({"system_min_nodes": 5}, "system_min_nodes: 5 is more than system_max_nodes, 4"),
        ({"ranges": {"pods": "10.0.0.0/16"}}, "ranges.pods: 10.0.0.0/16 overlaps ranges.nodes 10.0.0.0/20"),
        ({"ranges": {"nodes": "10.0.0.1/20"}}, "ranges.nodes: '10.0.0.1/20' is not an address range"),
        ({"ranges": {"nodes": "8.8.8.0/24"}}, "ranges.nodes: 8.8.8.0/24 is not within a private range"),
        ({"maintenance_start": "saturday"}, "maintenance_start, maintenance_end: saturday to"),
        ({"maintenance_end": "2026-01-03T04:00:00Z"}, "lasts 2:00:00, not 4 to 24 hours"),
        (
            {"maintenance_recurrence": "FREQ=WEEKLY;BYDAY=SA"},
            "maintenance_recurrence: FREQ=WEEKLY;BYDAY=SA with windows",
        ),
        ({"maintenance_recurrence": "weekends"}, "maintenance_recurrence: 'weekends' is not FREQ=DAILY"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError) as error:
        check_cluster("prod", {**CLUSTER, **changes})  # type: ignore[typeddict-item]
    assert message in str(error.value)


def test_nothing_is_registered_when_arguments_are_wrong() -> None:
    made: list[Recorded] = []
    for build in (
        lambda: GkeCluster("prod", {**CLUSTER, "location": "Europe"}),  # type: ignore[typeddict-item]
        lambda: GpuNodePool("l4", {**GPU, "count": 3}),  # type: ignore[typeddict-item]
        lambda: CpuNodePool("cpu", {**CPU, "machine_type": "g2-standard-4"}),  # type: ignore[typeddict-item]
    ):
        made += record(refused(build))
    assert made == []


def refused(build: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with pytest.raises((ClusterError, PoolError)):
            build()

    return run


def test_a_gpu_pool_costs_nothing_while_idle() -> None:
    made = gpu_pool()
    assert made["initialNodeCount"] == 0
    assert made["autoscaling"] == {"totalMinNodeCount": 0, "totalMaxNodeCount": 4, "locationPolicy": "ANY"}
    assert made["nodeLocations"] == ["europe-west4-a", "europe-west4-b", "europe-west4-c"]
    assert made["nodeConfig"]["machineType"] == "g2-standard-4"
    assert made["nodeConfig"]["guestAccelerators"] == [
        {"type": "nvidia-l4", "count": 1, "gpuDriverInstallationConfig": {"gpuDriverVersion": "DEFAULT"}}
    ]
    assert made["nodeConfig"]["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}]
    assert made["upgradeSettings"] == {"strategy": "SURGE", "maxSurge": 0, "maxUnavailable": 1}
    assert gpu_pool(min_nodes=4)["initialNodeCount"] == 2  # of each of three zones


def test_how_a_gpu_pool_is_paid_for() -> None:
    assert gpu_pool(spot=True)["nodeConfig"]["spot"] is True
    reserved = gpu_pool(reservation="winter")["nodeConfig"]["reservationAffinity"]
    assert reserved == {
        "consumeReservationType": "SPECIFIC_RESERVATION",
        "key": "compute.googleapis.com/reservation-name",
        "values": ["winter"],
    }
    flexible = gpu_pool(flex_start=True)
    assert flexible["nodeConfig"]["flexStart"] is True
    assert flexible["nodeConfig"]["maxRunDuration"] == "604800s"
    assert flexible["nodeConfig"]["reservationAffinity"] == {"consumeReservationType": "NO_RESERVATION"}
    assert flexible["management"]["autoRepair"] is False
    assert "upgradeSettings" not in flexible


def test_gpus_shared_cut_and_driven() -> None:
    shared = gpu_pool(
        driver=GpuDriver.DISABLED, sharing={"strategy": SharingStrategy.TIME_SHARING, "clients": 4.0}, count=1.0
    )
    (gpu,) = shared["nodeConfig"]["guestAccelerators"]
    assert gpu["gpuDriverInstallationConfig"] == {"gpuDriverVersion": "INSTALLATION_DISABLED"}
    assert gpu["gpuSharingConfig"] == {"gpuSharingStrategy": "TIME_SHARING", "maxSharedClientsPerGpu": 4}
    (cut,) = gpu_pool(accelerator="nvidia-tesla-a100", mig_partition="1g.5gb")["nodeConfig"]["guestAccelerators"]
    assert cut["gpuPartitionSize"] == "1g.5gb"
    args: Any = {**GPU, "accelerator": "nvidia-tesla-a100", "mig_partition": "1g.5gb"}
    assert gpu_allocatable("mig", args).gpus == 7


def test_pods_find_their_pool() -> None:
    taint = {"key": "team", "value": "vision", "effect": TaintEffect.PREFER_NO_SCHEDULE}
    args: Any = {**GPU, "pool": "serving", "taints": [taint], "sharing": {"strategy": "mps", "clients": 2}}
    place = gpu_placement("prod-serving", args)
    assert place.node_selector == {
        "modelport.dev/pool": "serving",
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-gpu-sharing-strategy": "mps",
        "cloud.google.com/gke-max-shared-clients-per-gpu": "2",
    }
    assert place.tolerations == [
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "vision", "effect": "PreferNoSchedule"},
    ]
    made = gpu_pool(pool="serving", taints=[taint])
    assert made["name"] == made["nodeConfig"]["labels"]["modelport.dev/pool"] == "serving"
    assert [each["effect"] for each in made["nodeConfig"]["taints"]] == ["NO_SCHEDULE", "PREFER_NO_SCHEDULE"]
    cpu: Any = {**CPU, "pool": "batch"}
    assert cpu_placement("x", cpu).node_selector == {"modelport.dev/pool": "batch"}


A100 = {"accelerator": "nvidia-tesla-a100"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "nvidia-a10"}, "accelerator: 'nvidia-a10' is not one of nvidia-l4, nvidia-tesla-t4"),
        ({"count": 3}, "count: no machine type has 3 nvidia-l4; one has 1, 2, 4 or 8"),
        ({"machine_type": "g2-standard-4", "count": 2}, "machine_type: g2-standard-4 has 1 nvidia-l4, not 2; 2 need"),
        ({"machine_type": "n1-standard-8"}, "machine_type: n1-standard-8 takes no nvidia-l4"),
        ({"accelerator": "nvidia-h100-80gb"}, "count: a3-highgpu-1g is sold as spot or flex-start only"),
        ({"spot": True, "flex_start": True}, "spot: a pool cannot have spot and flex_start at once"),
        ({"spot": True, "reservation": "r"}, "spot: a pool cannot have spot and reservation at once"),
        ({"flex_start": True, "reservation": "r"}, "flex_start: a pool cannot have flex_start and reservation"),
        ({"mig_partition": "1g.5gb"}, "mig_partition: nvidia-l4 cannot be cut; nvidia-tesla-a100, nvidia-a100-80gb"),
        ({"accelerator": "nvidia-tesla-t4", "mig_partition": "1g.5gb"}, "mig_partition: nvidia-tesla-t4 cannot be cut"),
        (
            {**A100, "mig_partition": "1g.10gb"},
            "mig_partition: nvidia-tesla-a100 has no partition '1g.10gb'; it has 1g",
        ),
        (
            {**A100, "mig_partition": "1g.5gb", "sharing": {"strategy": "mps", "clients": 2}},
            "sharing: a GPU is either shared or cut by mig_partition",
        ),
        ({"sharing": {"strategy": "turns", "clients": 2}}, "sharing.strategy: 'turns' is not one of time-sharing, mps"),
        ({"sharing": {"strategy": "mps", "clients": 1}}, "sharing.clients: 1 is not between 2 and 48"),
        ({"sharing": {"strategy": "mps", "clients": 49}}, "sharing.clients: 49 is not between 2 and 48"),
        ({"driver": "535"}, "driver: '535' is not one of default, latest, disabled"),
        ({"min_nodes": 5}, "min_nodes: 5 is more than max_nodes, 4"),
        ({"min_nodes": -1}, "min_nodes: -1 is less than 0"),
        ({"max_nodes": 0}, "max_nodes: 0 is not between 1 and 1000"),
        ({"zones": ["us-central1-a"]}, "zones: 'us-central1-a' is not a zone of europe-west4, where the cluster is"),
        ({"zones": ["europe-west4"]}, "zones: 'europe-west4' is not a zone of europe-west4"),
        (
            {"accelerator": "nvidia-a100-80gb", "zones": ["europe-west4-b"]},
            "zones: europe-west4-b has no nvidia-a100-80gb; europe-west4-a has",
        ),
        ({"location": "europe-north1"}, "zones: no zone of europe-north1 is known to have nvidia-l4; regions: asia"),
        (
            {**A100, "location": "us-east1-c"},
            "zones: no zone of us-east1-c is known to have nvidia-tesla-a100; us-east1-b is",
        ),
        ({"pool": "L4 Pool"}, "pool: 'L4 Pool' is not at most 40"),
        ({"disk_size_gb": 10}, "disk_size_gb: 10 is too small"),
        ({"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}, "taints.effect: 'NoSchedule' is not one of"),
    ],
)
def test_a_gpu_pool_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PoolError) as error:
        gpu_shape("l4", {**GPU, **changes})  # type: ignore[typeddict-item]
    assert message in str(error.value)


def test_zones_that_google_added_since_can_be_named() -> None:
    args: Any = {**GPU, "location": "europe-north1", "zones": ["europe-north1-a"], "unlisted_zones": True}
    assert gpu_shape("l4", args).zones == ["europe-north1-a"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"machine_type": "g2-standard-4"},
            "machine_type: g2-standard-4 has 1 nvidia-l4; a pool of it is a GpuNodePool",
        ),
        ({"machine_type": "huge"}, "machine_type: machine type 'huge' is not known"),
        ({"min_nodes": 5}, "min_nodes: 5 is more than max_nodes, 4"),
        ({"zones": ["us-central1-a"]}, "zones: 'us-central1-a' is not a zone of europe-west4"),
    ],
)
def test_a_cpu_pool_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PoolError) as error:
        record(lambda: CpuNodePool("cpu", {**CPU, **changes}))  # type: ignore[typeddict-item]
    assert message in str(error.value)


def test_labels_are_spelled_as_google_cloud_wants() -> None:
    assert gcp_labels({"modelport.dev/stack": "Prod Eu", "team": "x" * 80}) == {
        "modelport-dev_stack": "prod-eu",
        "team": "x" * 63,
    }


def test_the_account_id_fits_google_clouds_limit() -> None:
    assert account_id("dev") == "dev-nodes"
    assert account_id("a-very-long-stack-name--which-goes-on") == "a-very-long-stack-name-nodes"
    assert 6 <= len(account_id("a" * 40)) <= 30
