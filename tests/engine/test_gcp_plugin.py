"""The stand-in for Google Cloud: it refuses what the real provider would refuse, and remembers what it made."""

import asyncio
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from gcp_inputs import UNSHOWN
from gcp_plugin import KINDS, GcpProvider, refusals, replacing
from plugin_kit import Refused, plain, properties
from pulumi.provider.experimental import provider as sdk

from components.gke import CpuNodePool, GkeCluster, GpuNodePool
from tests.components.google import record_on_google
from tests.engine.engine import Engine, EngineFailed, write_project

CLUSTER = "gcp:container/cluster:Cluster"
NODE_POOL = "gcp:container/nodePool:NodePool"
SUBNETWORK = "gcp:compute/subnetwork:Subnetwork"
ROUTER_NAT = "gcp:compute/routerNat:RouterNat"
SQL = "gcp:sql/databaseInstance:DatabaseInstance"

RIGHT: Mapping[str, Mapping[str, Any]] = {
    CLUSTER: {
        "name": "c",
        "project": "p",
        "location": "europe-west4",
        "initialNodeCount": 1,
        "removeDefaultNodePool": True,
        "datapathProvider": "ADVANCED_DATAPATH",
        "releaseChannel": {"channel": "REGULAR"},
        "controlPlaneEndpointsConfig": {
            "dnsEndpointConfig": {"allowExternalTraffic": True},
            "ipEndpointsConfig": {"enabled": False},
        },
        "ipAllocationPolicy": {"clusterSecondaryRangeName": "pods", "servicesSecondaryRangeName": "services"},
        "masterAuth": {"clientCertificateConfig": {"issueClientCertificate": False}},
        "workloadIdentityConfig": {"workloadPool": "p.svc.id.goog"},
        "monitoringConfig": {"enableComponents": ["SYSTEM_COMPONENTS", "DCGM"]},
        "maintenancePolicy": {
            "recurringWindow": {
                "startTime": "2026-01-03T02:00:00Z",
                "endTime": "2026-01-03T08:00:00Z",
                "recurrence": "FREQ=WEEKLY;BYDAY=SA,SU",
            }
        },
        "gatewayApiConfig": {"channel": "CHANNEL_STANDARD"},
        "resourceLabels": {"stack": "dev"},
    },
    NODE_POOL: {
        "name": "l4",
        "project": "p",
        "location": "europe-west4",
        "cluster": "c",
        "nodeLocations": ["europe-west4-a"],
        "initialNodeCount": 0,
        "autoscaling": {"totalMinNodeCount": 0, "totalMaxNodeCount": 2, "locationPolicy": "ANY"},
        "upgradeSettings": {"strategy": "SURGE", "maxSurge": 0, "maxUnavailable": 1},
        "nodeConfig": {
            "machineType": "g2-standard-8",
            "imageType": "COS_CONTAINERD",
            "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}],
            "workloadMetadataConfig": {"mode": "GKE_METADATA"},
            "guestAccelerators": [
                {
                    "type": "nvidia-l4",
                    "count": 1,
                    "gpuDriverInstallationConfig": {"gpuDriverVersion": "LATEST"},
                    "gpuSharingConfig": {"gpuSharingStrategy": "TIME_SHARING", "maxSharedClientsPerGpu": 4},
                }
            ],
        },
    },
    SUBNETWORK: {
        "name": "s",
        "network": "n",
        "ipCidrRange": "10.0.0.0/20",
        "secondaryIpRanges": [{"rangeName": "pods", "ipCidrRange": "10.4.0.0/14"}],
        "logConfig": {"flowSampling": 0.5, "aggregationInterval": "INTERVAL_10_MIN"},
    },
    ROUTER_NAT: {
        "name": "n",
        "router": "r",
        "natIpAllocateOption": "AUTO_ONLY",
        "sourceSubnetworkIpRangesToNat": "LIST_OF_SUBNETWORKS",
        "subnetworks": [{"name": "s", "sourceIpRangesToNats": ["ALL_IP_RANGES"]}],
        "logConfig": {"enable": True, "filter": "ERRORS_ONLY"},
    },
    SQL: {
        "name": "db",
        "databaseVersion": "POSTGRES_17",
        "region": "europe-west4",
        "settings": {
            "tier": "db-custom-2-7680",
            "edition": "ENTERPRISE",
            "availabilityType": "REGIONAL",
            "backupConfiguration": {"enabled": True, "pointInTimeRecoveryEnabled": True},
            "ipConfiguration": {"ipv4Enabled": False, "privateNetwork": "n", "sslMode": "ENCRYPTED_ONLY"},
        },
    },
    "gcp:storage/bucket:Bucket": {
        "name": "bucket",
        "location": "EU",
        "uniformBucketLevelAccess": True,
        "publicAccessPrevention": "enforced",
    },
    "gcp:projects/iAMMember:IAMMember": {
        "project": "p",
        "role": "roles/container.defaultNodeServiceAccount",
        "member": "serviceAccount:nodes@p.iam.gserviceaccount.com",
    },
    "gcp:projects/service:Service": {"project": "p", "service": "container.googleapis.com"},
    "gcp:serviceaccount/account:Account": {"accountId": "cluster-nodes"},
}

GONE = object()
ACCELERATOR = "nodeConfig.guestAccelerators.0"

WRONG: list[tuple[str, str, Any, str]] = [
    # names
    (CLUSTER, "dataPathProvider", "ADVANCED_DATAPATH", "dataPathProvider: unknown name; is it datapathProvider?"),
    (CLUSTER, "controlPlaneEndpointsConfig.dnsEndpoint", {}, "controlPlaneEndpointsConfig.dnsEndpoint: unknown name"),
    (NODE_POOL, f"{ACCELERATOR}.gpuDriver", "LATEST", "guestAccelerators[0].gpuDriver: unknown name"),
    (NODE_POOL, "nodeConfig.machine_type", "e2-small", "nodeConfig.machine_type: unknown name; is it machineType?"),
    (NODE_POOL, "autoscaling.maxNodes", 3, "autoscaling.maxNodes: unknown name"),
    # required keys
    (CLUSTER, "releaseChannel.channel", GONE, "releaseChannel.channel: required"),
    (CLUSTER, "maintenancePolicy.recurringWindow.recurrence", GONE, "recurringWindow.recurrence: required"),
    (NODE_POOL, "cluster", GONE, "cluster: required"),
    (NODE_POOL, f"{ACCELERATOR}.count", GONE, "guestAccelerators[0].count: required"),
    (NODE_POOL, "nodeConfig.taints.0.effect", GONE, "nodeConfig.taints[0].effect: required"),
    (ROUTER_NAT, "logConfig.filter", GONE, "logConfig.filter: required"),
    ("gcp:storage/bucket:Bucket", "location", GONE, "location: required"),
    # types
    (CLUSTER, "initialNodeCount", "1", "initialNodeCount: must be a whole number"),
    (CLUSTER, "deletionProtection", "false", "deletionProtection: must be true or false"),
    (CLUSTER, "monitoringConfig.enableComponents", "DCGM", "monitoringConfig.enableComponents: must be a list"),
    (CLUSTER, "releaseChannel", "REGULAR", "releaseChannel: must be an object of channel"),
    (CLUSTER, "resourceLabels", ["dev"], "resourceLabels: must be a map"),
    (CLUSTER, "resourceLabels.stack", 3, "resourceLabels.stack: must be text"),
    (NODE_POOL, "nodeLocations.0", 4, "nodeLocations[0]: must be text"),
    (NODE_POOL, "nodeConfig.guestAccelerators", {"type": "nvidia-l4"}, "nodeConfig.guestAccelerators: must be a list"),
    # words
    (CLUSTER, "releaseChannel.channel", "regular", "releaseChannel.channel: 'regular' is not one of"),
    (CLUSTER, "datapathProvider", "DATAPLANE_V2", "datapathProvider: 'DATAPLANE_V2' is not one of"),
    (CLUSTER, "monitoringConfig.enableComponents.1", "GPU", "enableComponents[1]: 'GPU' is not one of"),
    (CLUSTER, "gatewayApiConfig.channel", "STANDARD", "gatewayApiConfig.channel: 'STANDARD' is not one of"),
    (NODE_POOL, "nodeConfig.imageType", "COS", "nodeConfig.imageType: 'COS' is not one of"),
    (NODE_POOL, f"{ACCELERATOR}.gpuDriverInstallationConfig.gpuDriverVersion", "535", "gpuDriverVersion: '535' is not"),
    (NODE_POOL, f"{ACCELERATOR}.gpuSharingConfig.gpuSharingStrategy", "time-sharing", "gpuSharingStrategy: 'time-sh"),
    (SUBNETWORK, "logConfig.aggregationInterval", "INTERVAL_7_MIN", "logConfig.aggregationInterval: 'INTERVAL_7_MIN'"),
    (SQL, "settings.availabilityType", "HA", "settings.availabilityType: 'HA' is not one of REGIONAL, ZONAL"),
    (SQL, "settings.edition", "PLUS", "settings.edition: 'PLUS' is not one of"),
    ("gcp:storage/bucket:Bucket", "publicAccessPrevention", "yes", "publicAccessPrevention: 'yes' is not one of"),
    # Google's own rules
    (CLUSTER, "workloadIdentityConfig.workloadPool", "p", "workloadIdentityConfig.workloadPool: 'p' is not PROJECT"),
    (CLUSTER, "initialNodeCount", 0, "initialNodeCount: must be at least 1"),
    (CLUSTER, "ipAllocationPolicy.servicesSecondaryRangeName", "pods", "servicesSecondaryRangeName: is the range of"),
    (CLUSTER, "maintenancePolicy.recurringWindow.endTime", "2026-01-03T03:00:00Z", "endTime: the window is shorter"),
    (NODE_POOL, f"{ACCELERATOR}.type", "nvidia-tesla-t4", "type: g2-standard-8 has nvidia-l4, not nvidia-tesla-t4"),
    (NODE_POOL, f"{ACCELERATOR}.count", 2, "count: g2-standard-8 has 1 nvidia-l4, not 2"),
    (NODE_POOL, f"{ACCELERATOR}.gpuPartitionSize", "1g.5gb", "gpuPartitionSize: nvidia-l4 has no partition 1g.5gb"),
    (NODE_POOL, "autoscaling.minNodeCount", 0, "autoscaling.minNodeCount: conflicts with totalMinNodeCount"),
    (NODE_POOL, "autoscaling.totalMinNodeCount", 5, "autoscaling.totalMinNodeCount: 5 is more than"),
    (NODE_POOL, "nodeLocations.0", "us-central1-a", "nodeLocations[0]: us-central1-a is not a zone of the cluster's"),
    (NODE_POOL, "nodeConfig.flexStart", True, "management.autoRepair: must be off with flexStart"),
    (SUBNETWORK, "ipCidrRange", "10.4.1.0/24", "overlaps ipCidrRange 10.4.1.0/24"),
    (SUBNETWORK, "ipCidrRange", "10.0.0.0/33", "ipCidrRange: '10.0.0.0/33' is not an address range"),
    (ROUTER_NAT, "subnetworks", GONE, "subnetworks: required with LIST_OF_SUBNETWORKS"),
    (SQL, "settings.ipConfiguration.privateNetwork", GONE, "privateNetwork: required without ipv4Enabled"),
    (SQL, "settings.backupConfiguration.enabled", False, "backupConfiguration.enabled: required with"),
    ("gcp:projects/iAMMember:IAMMember", "member", "nodes@p.iam", "member: 'nodes@p.iam' is not KIND:NAME"),
    ("gcp:projects/iAMMember:IAMMember", "role", "container.admin", "role: 'container.admin' is not roles/NAME"),
    ("gcp:projects/service:Service", "service", "container", "service: 'container' is not NAME.googleapis.com"),
    ("gcp:serviceaccount/account:Account", "accountId", "n", "accountId: 'n' is not 6 to 30"),
]


def changed(inputs: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of inputs with the value at a path (dots; numbers are positions) replaced, added or taken out."""
    copy = deepcopy(dict(inputs))
    place: Any = copy
    *steps, last = path.split(".")
    for step in steps:
        place = place[int(step)] if step.isdecimal() else place[step]
    key = int(last) if last.isdecimal() else last
    if value is GONE:
        del place[key]
    else:
        place[key] = value
    return copy


@pytest.mark.parametrize("token", RIGHT)
def test_right_inputs_pass(token: str) -> None:
    assert refusals(token, RIGHT[token]) == []


@pytest.mark.parametrize(("token", "path", "value", "message"), WRONG, ids=[f"{w[1]}-{w[3][:24]}" for w in WRONG])
def test_wrong_inputs_are_refused_by_name(token: str, path: str, value: Any, message: str) -> None:
    said = [f"{place}: {why}" for place, why in refusals(token, changed(RIGHT[token], path, value))]
    assert any(message in text for text in said), said


POOL = {
    "project": "p",
    "location": "us-central1",
    "cluster": "c",
    "service_account": "nodes@p.iam.gserviceaccount.com",
    "max_nodes": 3,
}
EVERYTHING = {
    "secrets_key": "k",
    "binary_authorization": True,
    "security_group": "gke-security-groups@example.org",
    "auto_provisioning": {"max_cpu": 64, "max_memory_gib": 256},
    "artifact_registry": True,
    "node_locations": ["us-central1-a"],
    "ranges": {"pods": "10.16.0.0/14"},
}


@pytest.mark.parametrize(
    "build",
    [
        lambda: GkeCluster("a", {"project": "p", "location": "us-central1", "deletion_protection": True}),
        lambda: GkeCluster(
            "a", {"project": "p", "location": "us-central1-a", "deletion_protection": False, **EVERYTHING}
        ),
        lambda: GpuNodePool("a", {**POOL, "accelerator": "nvidia-l4", "count": 4, "driver": "latest"}),
        lambda: GpuNodePool("a", {**POOL, "accelerator": "nvidia-tesla-t4", "reservation": "r", "min_nodes": 1}),
        lambda: GpuNodePool("a", {**POOL, "accelerator": "nvidia-tesla-a100", "mig_partition": "1g.5gb"}),
        lambda: GpuNodePool("a", {**POOL, "accelerator": "nvidia-a100-80gb", "spot": True, "count": 8}),
        lambda: GpuNodePool("a", {**POOL, "accelerator": "nvidia-h100-80gb", "flex_start": True}),
        lambda: GpuNodePool(
            "a",
            {**POOL, "accelerator": "nvidia-l4", "sharing": {"strategy": "mps", "clients": 4}, "driver": "disabled"},
        ),
        lambda: CpuNodePool("a", {**POOL, "machine_type": "n4-standard-8", "spot": True}),
    ],
)
def test_what_the_components_ask_for_is_right_at_every_depth(build: Callable[[], object]) -> None:
    asked = [each for each in record_on_google(build) if each.type.startswith("gcp:")]
    assert asked
    # The recorder hands numbers over as floats, as they travel; plugins see whole ones as int.
    assert [fail for each in asked for fail in refusals(each.type, plain(properties(each.inputs)).values)] == []


def test_types_that_the_sdk_does_not_have_or_that_are_not_emulated_are_refused() -> None:
    assert "has no resource gcp:container/clutser:Clutser" in refusals("gcp:container/clutser:Clutser", {})[0][1]
    disk = refusals("gcp:compute/disk:Disk", {"zone": "europe-west4-a"})
    assert disk == [("", "the stand-in for the gcp provider emulates no gcp:compute/disk:Disk")]


def test_every_emulated_type_is_the_sdks() -> None:
    unknown = [token for token in KINDS if any("has no resource" in why for _, why in refusals(token, {}))]
    assert unknown == []


def test_a_change_that_google_cannot_make_in_place_replaces() -> None:
    paths = ["nodeConfig.machineType", "nodeConfig.guestAccelerators[0].count", "name", "autoscaling.totalMaxNodeCount"]
    assert replacing(NODE_POOL, paths) == ["nodeConfig.guestAccelerators[0].count", "name"]


def cloud(tmp_path: Path) -> dict[str, Any]:
    """What the stand-in's file holds."""
    return json.loads((tmp_path / "gcp.json").read_text())


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Google":
    monkeypatch.setenv("MODELPORT_TEST_GCP", str(tmp_path / "gcp.json"))
    return Google()


class Google:
    """The provider, asked as the engine asks it."""

    def __init__(self) -> None:
        self.provider = GcpProvider()

    def create(self, token: str, name: str, inputs: Mapping[str, Any], secrets: tuple[Any, ...] = ()) -> Any:
        request = sdk.CreateRequest(urn(token, name), properties(inputs, secrets), 0, False)
        return asyncio.run(self.provider.create(request))

    def read(self, token: str, made: Any, inputs: Mapping[str, Any], secrets: tuple[Any, ...] = ()) -> Any:
        request = sdk.ReadRequest(urn(token, "x"), made.resource_id, made.properties, properties(inputs, secrets))
        return asyncio.run(self.provider.read(request))

    def delete(self, token: str, made: Any) -> None:
        asyncio.run(self.provider.delete(sdk.DeleteRequest(urn(token, "x"), made.resource_id, made.properties, 0)))

    def enable(self, *services: str) -> None:
        for service in services:
            self.create(SERVICE, service, {"project": "p", "service": f"{service}.googleapis.com"})


def urn(token: str, name: str) -> str:
    return f"urn:pulumi:dev::project::modelport:index:Thing${token}::{name}"


NETWORK = "gcp:compute/network:Network"
SERVICE = "gcp:projects/service:Service"
USER = "gcp:sql/user:User"


def test_apis_must_be_enabled_and_references_lead_somewhere(google: Google) -> None:
    with pytest.raises(Refused, match=r"compute.googleapis.com has not been used in this project"):
        google.create(NETWORK, "n", {"project": "p", "name": "n"})
    google.enable("compute")
    subnetwork = {"project": "p", "region": "r", "name": "s", "network": "n", "ipCidrRange": "10.0.0.0/20"}
    with pytest.raises(Refused, match="network: n does not exist"):
        google.create(SUBNETWORK, "s", subnetwork)
    network = google.create(NETWORK, "n", {"project": "p", "name": "n"})
    with pytest.raises(Refused, match="projects/p/global/networks/n already exists"):
        google.create(NETWORK, "n", {"project": "p", "name": "n"})
    made = google.create(SUBNETWORK, "s", {**subnetwork, "network": network.resource_id})
    with pytest.raises(Refused, match="networks/n is still used by Subnetwork s"):
        google.delete(NETWORK, network)
    google.delete(SUBNETWORK, made)
    google.delete(NETWORK, network)


def test_a_cluster_wants_ranges_that_its_subnetwork_has(google: Google) -> None:
    google.enable("compute", "container")
    google.create(NETWORK, "n", {"project": "p", "name": "n"})
    google.create(SUBNETWORK, "s", {**RIGHT[SUBNETWORK], "project": "p", "region": "r"})
    with pytest.raises(
        Refused, match=r"servicesSecondaryRangeName: the subnetwork has no range 'services'; it has pods"
    ):
        google.create(CLUSTER, "c", {**RIGHT[CLUSTER], "network": "n", "subnetwork": "s"})


def test_secrets_are_in_no_file_and_survive_a_refresh(google: Google, tmp_path: Path) -> None:
    google.enable("sqladmin", "compute")
    google.create(SQL, "db", {**RIGHT[SQL], "project": "p", "deletionProtection": False})
    inputs = {"project": "p", "instance": "db", "name": "mlflow", "password": "canary"}
    secrets = (("password",),)
    made = google.create(USER, "u", inputs, secrets)
    assert "canary" not in (tmp_path / "gcp.json").read_text()
    found = google.read(USER, made, inputs, secrets)
    assert plain(found.inputs).values == inputs
    assert ("password",) in plain(found.properties).secrets


def test_what_is_abandoned_goes_with_its_owner(google: Google, tmp_path: Path) -> None:
    google.enable("sqladmin")
    owner = google.create(SQL, "db", {**RIGHT[SQL], "project": "p", "deletionProtection": False})
    inputs = {"project": "p", "instance": "db", "name": "mlflow", "deletionPolicy": "ABANDON"}
    user = google.create(USER, "u", inputs)
    google.delete(USER, user)
    assert any(key.startswith(USER) for key in cloud(tmp_path)["resources"])
    google.delete(SQL, owner)
    assert not any(key.startswith("gcp:sql/") for key in cloud(tmp_path)["resources"])


def test_databases_are_protected_unless_it_is_said(google: Google) -> None:
    google.enable("sqladmin")
    with pytest.raises(Refused, match="deletion_protection is set to true"):
        google.delete(SQL, google.create(SQL, "db", {**RIGHT[SQL], "project": "p"}))


def test_keys_and_grants_of_one_account_can_be_several(google: Google) -> None:
    key = {"project": "p", "serviceAccountEmail": "a@p.iam.gserviceaccount.com"}
    first, second = (google.create("gcp:storage/hmacKey:HmacKey", name, key) for name in ("one", "two"))
    assert first.resource_id != second.resource_id
    assert ("secret",) in plain(first.properties).secrets
    google.create("gcp:storage/bucket:Bucket", "b", {**RIGHT["gcp:storage/bucket:Bucket"], "project": "p"})
    grant = {"bucket": "bucket", "role": "roles/storage.objectUser", "member": "user:a"}
    token = "gcp:storage/bucketIAMMember:BucketIAMMember"
    grants = [
        google.create(token, title, {**grant, "condition": {"title": title}}) for title in ("staging", "releases")
    ]
    assert len({each.resource_id for each in grants}) == 2


PROGRAM = """
import pulumi
from components.gke import GkeCluster, GpuNodePool

config = pulumi.Config()
cluster = GkeCluster("tiny", {
    "project": "some-project",
    "location": "europe-west4",
    "deletion_protection": config.require_bool("protect"),
    "labels": {"modelport.dev/stack": "dev"},
})
GpuNodePool("l4", {
    "project": cluster.project,
    "location": "europe-west4",
    "cluster": cluster.cluster_name,
    "service_account": cluster.node_service_account,
    "accelerator": "nvidia-l4",
    "max_nodes": config.require_int("nodes"),
    "spot": True,
})
pulumi.export("kubeconfig", cluster.kubeconfig)
pulumi.export("network", cluster.network)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    root = Path(__file__).resolve().parents[2]
    project = write_project(tmp_path / "project", PROGRAM)
    (project / "components").symlink_to(root / "components")
    engine = Engine(project, tmp_path / "state", env={"MODELPORT_TEST_GCP": str(tmp_path / "gcp.json")})
    engine.stack_init("dev")
    engine.config_set("nodes", "2")
    engine.config_set("protect", "true")
    return engine


def test_a_cluster_and_a_gpu_pool_live_and_die(engine: Engine, tmp_path: Path) -> None:
    first = engine.up()
    assert any(UNSHOWN[0] in text for text in first.diagnostics)
    kubeconfig = json.loads(engine.outputs(show_secrets=True)["kubeconfig"])
    assert kubeconfig["clusters"][0]["cluster"]["server"].endswith(".europe-west4.gke.goog")
    assert engine.outputs()["kubeconfig"] == "[secret]"

    engine.config_set("nodes", "3")
    grown = engine.up()
    assert [step.name for step in grown.updated if step.type.startswith("gcp:")] == ["l4-pool"]
    assert not grown.replaced

    made = cloud(tmp_path)
    pool = next(each for each in made["resources"].values() if each["inputs"].get("name") == "l4")
    pool["inputs"]["autoscaling"]["totalMaxNodeCount"] = 9
    (tmp_path / "gcp.json").write_text(json.dumps(made))
    assert [step.name for step in engine.refresh().updated] == ["l4-pool"]

    with pytest.raises(EngineFailed, match="deletion_protection is set to true"):
        engine.destroy()
    assert any(name.startswith(CLUSTER) for name in cloud(tmp_path)["resources"])
    engine.config_set("protect", "false")
    engine.up()
    engine.destroy()
    assert cloud(tmp_path)["resources"] == {}


WRONG_PROGRAM = """
import pulumi_gcp as gcp

gcp.projects.Service("compute", project="p", service="compute.googleapis.com")
gcp.container.NodePool(
    "pool",
    project="p",
    location="europe-west4",
    cluster="c",
    node_config={"machine_type": "g2-standard-8", "guest_acelerators": [], "labels": {"a": 1}},
)
"""


def test_the_engine_says_every_wrong_key_before_anything_is_made(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", WRONG_PROGRAM)
    engine = Engine(project, tmp_path / "state", env={"MODELPORT_TEST_GCP": str(tmp_path / "gcp.json")})
    engine.stack_init("dev")
    with pytest.raises(EngineFailed) as failure:
        engine.preview()
    said = str(failure.value)
    assert "guest_acelerators: unknown name; is it guestAccelerators?" in said
    assert "nodeConfig.labels.a: must be text, not 1" in said
    assert not (tmp_path / "gcp.json").exists()
