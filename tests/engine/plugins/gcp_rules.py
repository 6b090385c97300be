"""What Google's API refuses though every type is right: written by hand, from its documentation."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from plugin_kit import UNKNOWN, has_unknown

Inputs = Mapping[str, Any]
Failure = tuple[str, str]
Resources = Mapping[str, Mapping[str, Any]]
"""What the stand-in's cloud holds: ``type``, ``inputs`` and ``outputs`` by ``type::id``."""

NETWORK = "gcp:compute/network:Network"
SUBNETWORK = "gcp:compute/subnetwork:Subnetwork"
ROUTER = "gcp:compute/router:Router"
ROUTER_NAT = "gcp:compute/routerNat:RouterNat"
CLUSTER = "gcp:container/cluster:Cluster"
NODE_POOL = "gcp:container/nodePool:NodePool"
BUCKET = "gcp:storage/bucket:Bucket"
SQL = "gcp:sql/databaseInstance:DatabaseInstance"
SERVICE = "gcp:projects/service:Service"
ACCOUNT = "gcp:serviceaccount/account:Account"

MIG_PARTITIONS = {
    "nvidia-tesla-a100": ("1g.5gb", "2g.10gb", "3g.20gb", "7g.40gb"),
    "nvidia-a100-80gb": ("1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb"),
    "nvidia-h100-80gb": ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "7g.80gb"),
}

_APIS = {
    "compute": "compute.googleapis.com",
    "container": "container.googleapis.com",
    "serviceaccount": "iam.googleapis.com",
    "servicenetworking": "servicenetworking.googleapis.com",
    "sql": "sqladmin.googleapis.com",
    "kms": "cloudkms.googleapis.com",
}
"""APIs that a new project does not have, by module of the resources that need them."""

_REFERENCES: Mapping[str, Mapping[str, str]] = {
    SUBNETWORK: {"network": NETWORK},
    ROUTER: {"network": NETWORK},
    ROUTER_NAT: {"router": ROUTER},
    CLUSTER: {"network": NETWORK, "subnetwork": SUBNETWORK},
    NODE_POOL: {"cluster": CLUSTER},
    "gcp:sql/database:Database": {"instance": SQL},
    "gcp:sql/user:User": {"instance": SQL},
    "gcp:storage/bucketIAMMember:BucketIAMMember": {"bucket": BUCKET},
    "gcp:servicenetworking/connection:Connection": {"network": NETWORK},
}
"""Inputs that must name something that is there."""


def rule_failures(token: str, inputs: Inputs) -> list[Failure]:
    """What is wrong with a resource by itself."""
    return list(_RULES.get(token, _nothing)(inputs)) + list(_identity(inputs))


def missing_references(token: str, inputs: Inputs, resources: Resources) -> list[Failure]:
    """Inputs that name something that the cloud does not have, and ranges that the subnetwork does not have."""
    found = [
        (key, f"{inputs[key]} does not exist")
        for key, kind in _REFERENCES.get(token, {}).items()
        if key in inputs and _find(kind, inputs[key], resources) is None
    ]
    if token == CLUSTER and not found:
        found += _missing_ranges(inputs, resources)
    return found


def users_of(token: str, outputs: Inputs, resources: Resources) -> list[str]:
    """Types and names of what still uses a resource, which therefore cannot be deleted."""
    found = [] if token in _OWNERS else _referring(token, outputs, resources)
    return [f"{key.partition('::')[0].rsplit(':', 1)[-1]} {resources[key]['outputs'].get('name', '')}" for key in found]


def parts_of(token: str, outputs: Inputs, resources: Resources) -> list[str]:
    """Keys of what goes with a resource when it is deleted: a cluster's pools, an instance's databases."""
    return _referring(token, outputs, resources) if token in _OWNERS else []


_OWNERS = (CLUSTER, SQL, BUCKET)


def _referring(token: str, outputs: Inputs, resources: Resources) -> list[str]:
    names = {outputs.get("id"), outputs.get("selfLink"), outputs.get("name")} - {None}
    return [
        key
        for key, resource in resources.items()
        for place, kind in _REFERENCES.get(resource["type"], {}).items()
        if kind == token and resource["inputs"].get(place) in names
    ]


def missing_api(token: str, services: Sequence[str]) -> str | None:
    """The API that a resource needs and the project does not have yet."""
    api = _APIS.get(token.split(":")[1].split("/")[0])
    return api if api is not None and api not in services else None


def _find(kind: str, name: Any, resources: Resources) -> Mapping[str, Any] | None:
    for resource in resources.values():
        outputs = resource["outputs"]
        if resource["type"] == kind and name in (outputs.get("id"), outputs.get("selfLink"), outputs.get("name")):
            return resource
    return None


def _missing_ranges(inputs: Inputs, resources: Resources) -> list[Failure]:
    subnetwork = _find(SUBNETWORK, inputs.get("subnetwork"), resources)
    if subnetwork is None:
        return []
    ranges = {each["rangeName"] for each in subnetwork["inputs"].get("secondaryIpRanges", [])}
    policy = inputs.get("ipAllocationPolicy", {})
    return [
        (
            f"ipAllocationPolicy.{key}",
            f"the subnetwork has no range {policy[key]!r}; it has {', '.join(sorted(ranges))}",
        )
        for key in ("clusterSecondaryRangeName", "servicesSecondaryRangeName")
        if key in policy and policy[key] not in ranges
    ]


def _nothing(inputs: Inputs) -> Iterator[Failure]:
    yield from ()


def _identity(inputs: Inputs) -> Iterator[Failure]:
    """Members and roles of every kind of grant."""
    member, role = inputs.get("member", UNKNOWN), inputs.get("role", UNKNOWN)
    if "member" in inputs and not has_unknown(member):
        kinds = "user|serviceAccount|group|domain|principal|principalSet"
        if member not in ("allUsers", "allAuthenticatedUsers") and not re.fullmatch(rf"({kinds}):\S+", str(member)):
            yield "member", f"{member!r} is not KIND:NAME with a kind of {kinds.replace('|', ', ')}"
    role_form = r"(roles|(projects|organizations)/[^/]+/roles)/[\w.]+"
    if "member" in inputs and not has_unknown(role) and not re.fullmatch(role_form, str(role)):
        yield "role", f"{role!r} is not roles/NAME"


def _cluster(inputs: Inputs) -> Iterator[Failure]:
    yield from _name(inputs, 40)
    if inputs.get("removeDefaultNodePool") and inputs.get("initialNodeCount", 0) == 0:
        yield "initialNodeCount", "must be at least 1 where removeDefaultNodePool is set"
    policy = inputs.get("ipAllocationPolicy", {})
    for use in ("cluster", "services"):
        if f"{use}SecondaryRangeName" in policy and f"{use}Ipv4CidrBlock" in policy:
            yield f"ipAllocationPolicy.{use}Ipv4CidrBlock", f"conflicts with {use}SecondaryRangeName"
    pods, services = policy.get("clusterSecondaryRangeName"), policy.get("servicesSecondaryRangeName")
    if pods is not None and pods == services and pods != UNKNOWN:
        yield "ipAllocationPolicy.servicesSecondaryRangeName", "is the range of the pods too"
    if inputs.get("datapathProvider") == "ADVANCED_DATAPATH" and inputs.get("networkPolicy", {}).get("enabled"):
        yield "networkPolicy.enabled", "conflicts with datapathProvider ADVANCED_DATAPATH"
    if inputs.get("enableAutopilot") and "removeDefaultNodePool" in inputs:
        yield "removeDefaultNodePool", "conflicts with enableAutopilot"
    pool = inputs.get("workloadIdentityConfig", {}).get("workloadPool", UNKNOWN)
    if pool != UNKNOWN and not str(pool).endswith(".svc.id.goog"):
        yield "workloadIdentityConfig.workloadPool", f"{pool!r} is not PROJECT.svc.id.goog"
    yield from _maintenance(inputs.get("maintenancePolicy", {}).get("recurringWindow", {}))
    scaling = inputs.get("clusterAutoscaling", {})
    limits = {limit.get("resourceType") for limit in scaling.get("resourceLimits", [])}
    if scaling.get("enabled") and not {"cpu", "memory"} <= limits:
        yield "clusterAutoscaling.resourceLimits", "must limit cpu and memory"
    if (
        inputs.get("databaseEncryption", {}).get("state") == "ENCRYPTED"
        and "keyName" not in inputs["databaseEncryption"]
    ):
        yield "databaseEncryption.keyName", "required with ENCRYPTED"


def _maintenance(window: Inputs) -> Iterator[Failure]:
    if not window or has_unknown(window):
        return
    times: dict[str, datetime] = {}
    for key in ("startTime", "endTime"):
        try:
            times[key] = datetime.fromisoformat(window.get(key, ""))
        except ValueError:
            yield f"maintenancePolicy.recurringWindow.{key}", f"{window.get(key)!r} is not RFC 3339"
    if len(times) == 2 and (times["endTime"] - times["startTime"]).total_seconds() < 4 * 3600:
        yield "maintenancePolicy.recurringWindow.endTime", "the window is shorter than 4 hours"
    if not re.match(r"FREQ=(DAILY|WEEKLY)", str(window.get("recurrence"))):
        yield "maintenancePolicy.recurringWindow.recurrence", f"{window.get('recurrence')!r} is not an RFC 5545 rule"


def _node_pool(inputs: Inputs) -> Iterator[Failure]:
    yield from _name(inputs, 40)
    scaling = inputs.get("autoscaling", {})
    zonal = [key for key in ("minNodeCount", "maxNodeCount") if key in scaling]
    total = [key for key in ("totalMinNodeCount", "totalMaxNodeCount") if key in scaling]
    if zonal and total:
        yield f"autoscaling.{zonal[0]}", f"conflicts with {total[0]}"
    for low, high in (("minNodeCount", "maxNodeCount"), ("totalMinNodeCount", "totalMaxNodeCount")):
        if UNKNOWN not in (scaling.get(low), scaling.get(high)) and scaling.get(low, 0) > scaling.get(high, 10**6):
            yield f"autoscaling.{low}", f"{scaling[low]} is more than {high}, {scaling[high]}"
    if scaling and "nodeCount" in inputs:
        yield "nodeCount", "conflicts with autoscaling"
    upgrades = inputs.get("upgradeSettings", {})
    if upgrades.get("strategy", "SURGE") == "SURGE" and upgrades.get("maxSurge") == 0 == upgrades.get("maxUnavailable"):
        yield "upgradeSettings.maxSurge", "maxSurge and maxUnavailable are both 0"
    location, zones = inputs.get("location", UNKNOWN), inputs.get("nodeLocations", [])
    for position, zone in enumerate(zones if location != UNKNOWN and zones != UNKNOWN else []):
        if zone != UNKNOWN and not re.fullmatch(rf"{'-'.join(location.split('-')[:2])}-[a-z]", zone):
            yield f"nodeLocations[{position}]", f"{zone} is not a zone of the cluster's region"
    config = inputs.get("nodeConfig", {})
    if config != UNKNOWN:
        yield from _node_config(config, inputs)


def _node_config(config: Inputs, inputs: Inputs) -> Iterator[Failure]:
    if config.get("spot") and config.get("preemptible"):
        yield "nodeConfig.spot", "conflicts with preemptible"
    if config.get("flexStart"):
        if config.get("spot"):
            yield "nodeConfig.flexStart", "conflicts with spot"
        if inputs.get("management", {}).get("autoRepair", True):
            yield "management.autoRepair", "must be off with flexStart"
        if config.get("reservationAffinity", {}).get("consumeReservationType") != "NO_RESERVATION":
            yield "nodeConfig.reservationAffinity", "must be NO_RESERVATION with flexStart"
    affinity = config.get("reservationAffinity", {})
    if affinity.get("consumeReservationType") == "SPECIFIC_RESERVATION":
        for key in ("key", "values"):
            if not affinity.get(key):
                yield f"nodeConfig.reservationAffinity.{key}", "required with SPECIFIC_RESERVATION"
    machine = config.get("machineType", "e2-medium")
    accelerators = config.get("guestAccelerators", [])
    if UNKNOWN in (machine, accelerators):
        return
    for position, accelerator in enumerate(accelerators):
        yield from _accelerator(machine, accelerator, f"nodeConfig.guestAccelerators[{position}]")
    if re.match(r"(g2|a2|a3)-", machine) and not accelerators:
        yield "nodeConfig.guestAccelerators", f"{machine} comes with GPUs; say which"
    if machine.startswith("n4-") and config.get("diskType", "pd-balanced").startswith("pd-"):
        yield "nodeConfig.diskType", f"{machine} boots from hyperdisk-balanced only"


def gpus_of(machine: str) -> tuple[str, tuple[int, ...]]:
    """GPU and possible counts of a machine type; an empty name for machines without."""
    if match := re.fullmatch(r"g2-standard-(\d+)", machine):
        return "nvidia-l4", ({24: 2, 48: 4, 96: 8}.get(int(match[1]), 1),)
    if match := re.fullmatch(r"(a2-highgpu|a2-ultragpu|a3-highgpu)-(\d+)g", machine):
        kinds = {
            "a2-highgpu": "nvidia-tesla-a100",
            "a2-ultragpu": "nvidia-a100-80gb",
            "a3-highgpu": "nvidia-h100-80gb",
        }
        return kinds[match[1]], (int(match[2]),)
    if match := re.fullmatch(r"n1-\w+-(\d+)", machine):
        return "nvidia-tesla-t4", (1, 2, 4) if int(match[1]) <= 48 else (4,)
    return "", ()


def _accelerator(machine: str, accelerator: Inputs, path: str) -> Iterator[Failure]:
    kind, counts = gpus_of(machine)
    if accelerator.get("type") != kind:
        yield f"{path}.type", f"{machine} has {kind or 'no GPU'}, not {accelerator.get('type')}"
    elif accelerator.get("count") not in counts:
        yield f"{path}.count", f"{machine} has {' or '.join(map(str, counts))} {kind}, not {accelerator.get('count')}"
    size = accelerator.get("gpuPartitionSize")
    if size and size not in MIG_PARTITIONS.get(accelerator.get("type", ""), ()):
        yield f"{path}.gpuPartitionSize", f"{accelerator.get('type')} has no partition {size}"
    clients = accelerator.get("gpuSharingConfig", {}).get("maxSharedClientsPerGpu", 2)
    if clients != UNKNOWN and not 2 <= clients <= 48:
        yield f"{path}.gpuSharingConfig.maxSharedClientsPerGpu", f"{clients} is not between 2 and 48"


def _name(inputs: Inputs, most: int) -> Iterator[Failure]:
    name = inputs.get("name", UNKNOWN)
    if name != UNKNOWN and not re.fullmatch(rf"[a-z]([a-z0-9-]{{0,{most - 2}}}[a-z0-9])?", str(name)):
        yield "name", f"{name!r} is not at most {most} lower-case letters, digits and hyphens after a letter"


def _compute(inputs: Inputs) -> Iterator[Failure]:
    yield from _name(inputs, 63)


def _subnetwork(inputs: Inputs) -> Iterator[Failure]:
    yield from _name(inputs, 63)
    ranges = {"ipCidrRange": inputs.get("ipCidrRange", UNKNOWN)}
    secondary = inputs.get("secondaryIpRanges", [])
    for position, each in enumerate(secondary if secondary != UNKNOWN else []):
        ranges[f"secondaryIpRanges[{position}].ipCidrRange"] = each.get("ipCidrRange", UNKNOWN)
    blocks: dict[str, ipaddress.IPv4Network] = {}
    for path, text in ranges.items():
        if text == UNKNOWN:
            continue
        try:
            block = ipaddress.IPv4Network(text)
        except ValueError as error:
            yield path, f"{text!r} is not an address range: {error}"
            continue
        for other, taken in blocks.items():
            if block.overlaps(taken):
                yield path, f"{text} overlaps {other} {taken}"
        blocks[path] = block


def _router_nat(inputs: Inputs) -> Iterator[Failure]:
    yield from _name(inputs, 63)
    if inputs.get("sourceSubnetworkIpRangesToNat") == "LIST_OF_SUBNETWORKS" and not inputs.get("subnetworks"):
        yield "subnetworks", "required with LIST_OF_SUBNETWORKS"
    if inputs.get("natIpAllocateOption") == "MANUAL_ONLY" and not inputs.get("natIps"):
        yield "natIps", "required with MANUAL_ONLY"
    if inputs.get("enableDynamicPortAllocation") and inputs.get("enableEndpointIndependentMapping"):
        yield "enableEndpointIndependentMapping", "conflicts with enableDynamicPortAllocation"


def _bucket(inputs: Inputs) -> Iterator[Failure]:
    name = inputs.get("name", UNKNOWN)
    if name != UNKNOWN and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", str(name)):
        yield "name", f"{name!r} is not 3 to 63 lower-case letters, digits, dots, hyphens and underscores"


def _sql(inputs: Inputs) -> Iterator[Failure]:
    version, settings = inputs.get("databaseVersion", UNKNOWN), inputs.get("settings", {})
    if version != UNKNOWN and not re.fullmatch(r"(POSTGRES|MYSQL|SQLSERVER)_\w+", str(version)):
        yield "databaseVersion", f"{version!r} is not such as POSTGRES_17"
    if settings == UNKNOWN:
        return
    addresses, backups = settings.get("ipConfiguration", {}), settings.get("backupConfiguration", {})
    if addresses.get("ipv4Enabled") is False and not (addresses.get("privateNetwork") or addresses.get("pscConfigs")):
        yield "settings.ipConfiguration.privateNetwork", "required without ipv4Enabled"
    if settings.get("availabilityType") == "REGIONAL" and not backups.get("enabled"):
        yield "settings.backupConfiguration.enabled", "required with availabilityType REGIONAL"
    if backups.get("pointInTimeRecoveryEnabled") and not backups.get("enabled"):
        yield "settings.backupConfiguration.enabled", "required with pointInTimeRecoveryEnabled"
    tier, edition = settings.get("tier", UNKNOWN), settings.get("edition", "ENTERPRISE")
    plus = str(tier).startswith(("db-perf-optimized-", "db-c4a-"))
    if UNKNOWN not in (tier, edition) and plus != (edition == "ENTERPRISE_PLUS"):
        yield "settings.tier", f"{tier} is no tier of {edition}"


def _service(inputs: Inputs) -> Iterator[Failure]:
    service = inputs.get("service", UNKNOWN)
    if service != UNKNOWN and not re.fullmatch(r"[a-z0-9-]+\.googleapis\.com", str(service)):
        yield "service", f"{service!r} is not NAME.googleapis.com"


def _account(inputs: Inputs) -> Iterator[Failure]:
    account = inputs.get("accountId", UNKNOWN)
    if account != UNKNOWN and not re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", str(account)):
        yield "accountId", f"{account!r} is not 6 to 30 lower-case letters, digits and hyphens after a letter"


_RULES: Mapping[str, Callable[[Inputs], Iterator[Failure]]] = {
    NETWORK: _compute,
    ROUTER: _compute,
    SUBNETWORK: _subnetwork,
    ROUTER_NAT: _router_nat,
    CLUSTER: _cluster,
    NODE_POOL: _node_pool,
    BUCKET: _bucket,
    SQL: _sql,
    SERVICE: _service,
    ACCOUNT: _account,
}
