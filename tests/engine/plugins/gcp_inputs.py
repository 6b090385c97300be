"""Inputs of Google Cloud resources against the typed inputs of the installed ``pulumi_gcp``: the only schema there is.

Names, required keys, types and the enumerations that the SDK's texts list are the SDK's own, at every depth. What it
types as plain text though only a few words are right is in `WORDS`.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Union, cast, get_args, get_origin

import pulumi
from plugin_kit import UNKNOWN
from pulumi import _types  # pyright: ignore[reportPrivateUsage]  the SDK's public part does not tell its types

UNSHOWN = (
    "quotas, stock, prices, organization policies and the caller's own rights",
    "forms of names, addresses and versions that the SDK's texts describe in words only",
    "which inputs exclude or need each other, apart from those in gcp_rules.py",
    "which inputs cannot change in place, apart from those in gcp_plugin.py",
    "values that Google fills in by itself, so drift of inputs that were not given",
    "whether a reference leads somewhere, apart from those in gcp_rules.py",
)
"""What the SDK cannot show, so what this stand-in does not check."""

WORDS: Mapping[str, frozenset[str]] = {
    path: frozenset(words.split())
    for path, words in {
        "Cluster.datapathProvider": "ADVANCED_DATAPATH LEGACY_DATAPATH DATAPATH_PROVIDER_UNSPECIFIED",
        "Cluster.networkingMode": "VPC_NATIVE ROUTES",
        "Cluster.releaseChannel.channel": "UNSPECIFIED RAPID REGULAR STABLE EXTENDED",
        "Cluster.gatewayApiConfig.channel": "CHANNEL_STANDARD CHANNEL_DISABLED CHANNEL_EXPERIMENTAL",
        "Cluster.databaseEncryption.state": "ENCRYPTED DECRYPTED",
        "Cluster.securityPostureConfig.mode": "DISABLED BASIC ENTERPRISE",
        "Cluster.securityPostureConfig.vulnerabilityMode": (
            "VULNERABILITY_DISABLED VULNERABILITY_BASIC VULNERABILITY_ENTERPRISE"
        ),
        "Cluster.clusterAutoscaling.autoscalingProfile": "BALANCED OPTIMIZE_UTILIZATION",
        "Cluster.binaryAuthorization.evaluationMode": "DISABLED PROJECT_SINGLETON_POLICY_ENFORCE",
        "Cluster.loggingConfig.enableComponents": (
            "SYSTEM_COMPONENTS WORKLOADS APISERVER CONTROLLER_MANAGER SCHEDULER KCP_CONNECTION KCP_SSHD KCP_HPA"
        ),
        "Cluster.monitoringConfig.enableComponents": (
            "SYSTEM_COMPONENTS APISERVER SCHEDULER CONTROLLER_MANAGER STORAGE HPA POD DAEMONSET DEPLOYMENT STATEFULSET "
            "KUBELET CADVISOR DCGM JOBSET"
        ),
        "Cluster.nodePoolDefaults.nodeConfigDefaults.insecureKubeletReadonlyPortEnabled": "TRUE FALSE",
        "Cluster.nodeConfig.workloadMetadataConfig.mode": "GKE_METADATA GCE_METADATA",
        "NodePool.autoscaling.locationPolicy": "BALANCED ANY",
        "NodePool.upgradeSettings.strategy": "SURGE BLUE_GREEN SHORT_LIVED",
        "NodePool.nodeConfig.imageType": "COS_CONTAINERD UBUNTU_CONTAINERD WINDOWS_LTSC_CONTAINERD",
        "NodePool.nodeConfig.diskType": "pd-standard pd-balanced pd-ssd hyperdisk-balanced",
        "NodePool.nodeConfig.workloadMetadataConfig.mode": "GKE_METADATA GCE_METADATA",
        "NodePool.nodeConfig.taints.effect": "NO_SCHEDULE PREFER_NO_SCHEDULE NO_EXECUTE",
        "NodePool.nodeConfig.kubeletConfig.insecureKubeletReadonlyPortEnabled": "TRUE FALSE",
        "NodePool.nodeConfig.reservationAffinity.consumeReservationType": (
            "NO_RESERVATION ANY_RESERVATION SPECIFIC_RESERVATION ANY_RESERVATION_THEN_FAIL"
        ),
        "NodePool.nodeConfig.guestAccelerators.gpuDriverInstallationConfig.gpuDriverVersion": (
            "DEFAULT LATEST INSTALLATION_DISABLED"
        ),
        "NodePool.nodeConfig.guestAccelerators.gpuSharingConfig.gpuSharingStrategy": "TIME_SHARING MPS",
        "Network.routingMode": "REGIONAL GLOBAL",
        "GlobalAddress.addressType": "EXTERNAL INTERNAL",
        "GlobalAddress.purpose": "VPC_PEERING PRIVATE_SERVICE_CONNECT",
        "RouterNat.natIpAllocateOption": "AUTO_ONLY MANUAL_ONLY",
        "RouterNat.sourceSubnetworkIpRangesToNat": (
            "ALL_SUBNETWORKS_ALL_IP_RANGES ALL_SUBNETWORKS_ALL_PRIMARY_IP_RANGES LIST_OF_SUBNETWORKS"
        ),
        "RouterNat.subnetworks.sourceIpRangesToNats": ("ALL_IP_RANGES LIST_OF_SECONDARY_IP_RANGES PRIMARY_IP_RANGE"),
        "RouterNat.logConfig.filter": "ERRORS_ONLY TRANSLATIONS_ONLY ALL",
        "Bucket.publicAccessPrevention": "inherited enforced",
        "Bucket.storageClass": "STANDARD MULTI_REGIONAL REGIONAL NEARLINE COLDLINE ARCHIVE",
        "Bucket.lifecycleRules.action.type": "Delete SetStorageClass AbortIncompleteMultipartUpload",
        "DatabaseInstance.settings.edition": "ENTERPRISE ENTERPRISE_PLUS",
        "DatabaseInstance.settings.availabilityType": "ZONAL REGIONAL",
        "DatabaseInstance.settings.activationPolicy": "ALWAYS NEVER ON_DEMAND",
        "DatabaseInstance.settings.diskType": "PD_SSD PD_HDD HYPERDISK_BALANCED",
        "DatabaseInstance.settings.ipConfiguration.sslMode": (
            "ALLOW_UNENCRYPTED_AND_ENCRYPTED ENCRYPTED_ONLY TRUSTED_CLIENT_CERTIFICATE_REQUIRED"
        ),
        "User.type": "BUILT_IN CLOUD_IAM_USER CLOUD_IAM_SERVICE_ACCOUNT CLOUD_IAM_GROUP",
    }.items()
}
"""Words that are right where the SDK says text: by resource and path, without positions in lists."""

_LISTED = re.compile(r"Possible values(?: are)?:\s*((?:`[A-Za-z0-9_]+`(?:,|, and| and| or|, or)?\s*)+)")

Failure = tuple[str, str]
"""A property's path and what is wrong with it."""


def input_failures(token: str, inputs: Mapping[str, Any]) -> list[Failure]:
    """What the SDK's types say against a resource's inputs; `UNKNOWN` is right everywhere.

    Args:
        token: Type of the resource, such as ``gcp:container/cluster:Cluster``.
        inputs: Its inputs in Pulumi's spelling.
    """
    args = arguments_of(token)
    if args is None:
        return [("", f"pulumi_gcp {_version()} has no resource {token}")]
    name = token.rsplit(":", 1)[-1]
    return list(_in_object(args, _required_by_signature(args), inputs, "", name))


def inputs_of(token: str) -> frozenset[str]:
    """Names of a resource's inputs in Pulumi's spelling; none for unknown types."""
    args = arguments_of(token)
    return frozenset(_types_of(args)) if args is not None else frozenset()


@cache
def arguments_of(token: str) -> type | None:
    """The SDK's class of a resource's inputs, such as ``pulumi_gcp.container.ClusterArgs``; None for unknown types."""
    match = re.fullmatch(r"gcp:(\w+)/(\w+):(\w+)", token)
    if match is None:
        return None
    try:
        module = importlib.import_module(f"pulumi_gcp.{match[1].lower()}")
    except ModuleNotFoundError:
        return None
    resource, args = getattr(module, match[3], None), getattr(module, f"{match[3]}Args", None)
    known = isinstance(resource, type) and issubclass(resource, pulumi.CustomResource)
    return args if known and isinstance(args, type) else None


def _version() -> str:
    return importlib.import_module("importlib.metadata").version("pulumi_gcp")


def _in_object(
    kind: type, required: frozenset[str], value: Mapping[str, Any], path: str, words: str
) -> Iterator[Failure]:
    types = _types_of(kind)
    for key, item in value.items():
        place = f"{path}.{key}" if path else key
        if key not in types:
            near = difflib.get_close_matches(key, types, 1)
            yield place, f"unknown name{f'; is it {near[0]}?' if near else ''}"
        else:
            yield from _in_value(types[key], item, place, f"{words}.{key}", _listed(kind, key))
    for key in sorted(required - value.keys()):
        yield f"{path}.{key}" if path else key, "required"


def _in_value(kind: Any, value: Any, path: str, words: str, listed: frozenset[str]) -> Iterator[Failure]:
    if value == UNKNOWN:
        return
    kind = _types.unwrap_type(kind)
    origin = get_origin(kind)
    if isinstance(kind, type) and _types.is_input_type(kind):
        if isinstance(value, dict):
            yield from _in_object(kind, _required_by_dictionary(kind), cast("dict[str, Any]", value), path, words)
        else:
            yield path, f"must be an object of {', '.join(_types_of(kind))}, not {_shown(value)}"
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            yield path, f"must be a map, not {_shown(value)}"
            return
        for key, item in cast("dict[str, Any]", value).items():
            yield from _in_value(get_args(kind)[1], item, f"{path}.{key}", words, frozenset())
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(value, list):
            yield path, f"must be a list, not {_shown(value)}"
            return
        for position, item in enumerate(cast("list[Any]", value)):
            yield from _in_value(get_args(kind)[0], item, f"{path}[{position}]", words, listed)
    elif kind in (str, bool, int, float):
        yield from _in_scalar(kind, value, path, WORDS.get(words, listed))
    elif kind is not Any and origin is not Union:
        yield path, f"this stand-in cannot check values of type {kind}"


def _in_scalar(kind: type, value: Any, path: str, allowed: frozenset[str]) -> Iterator[Failure]:
    right = type(value) is kind or (kind is float and type(value) is int)
    if not right:
        names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
        yield path, f"must be {names[kind]}, not {_shown(value)}"
    elif allowed and kind is str and value not in allowed:
        yield path, f"{value!r} is not one of {', '.join(sorted(allowed))}"


@cache
def _types_of(kind: type) -> dict[str, Any]:
    """Types of an input class by property, in Pulumi's spelling."""
    return dict(_types.input_type_types(kind))


@cache
def _required_by_signature(kind: type) -> frozenset[str]:
    names = _types.input_type_py_to_pulumi_names(kind)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return frozenset(names[each.name] for each in parameters if each.default is inspect.Parameter.empty)


@cache
def _required_by_dictionary(kind: type) -> frozenset[str]:
    names = _types.input_type_py_to_pulumi_names(kind)
    dictionary: Any = getattr(importlib.import_module(kind.__module__), f"{kind.__name__}Dict")
    return frozenset(names[name] for name in dictionary.__required_keys__)


@cache
def _listed(kind: type, key: str) -> frozenset[str]:
    """Values that the SDK's text lists for a property, where it lists them in its usual form."""
    python = {pulumi_name: name for name, pulumi_name in _types.input_type_py_to_pulumi_names(kind).items()}[key]
    text = inspect.getdoc(getattr(kind, python, None)) or ""
    match = _LISTED.search(text)
    return frozenset(re.findall(r"`(\w+)`", match[1])) if match else frozenset()


def _shown(value: Any) -> str:
    return "a map" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
