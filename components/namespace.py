"""A namespace in which nothing is allowed that was not said: restricted pods, no traffic but DNS, limits for all."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes

from components import pods, ports
from components.labels import MANAGED_BY, NAME, PART_OF
from components.pods import Manifest

_NAMESPACE = "kubernetes.io/metadata.name"
_POD_SECURITY = "pod-security.kubernetes.io"


class Direction(StrEnum):
    """Ways of a connection, seen from the pods that a rule is about."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Protocol(StrEnum):
    """Transport protocols."""

    TCP = "TCP"
    UDP = "UDP"


class PortRange(TypedDict):
    """A port, or several in a row."""

    port: int
    """The port, or the first of the range."""
    end_port: NotRequired[int]
    """The last of the range."""
    protocol: NotRequired[Protocol]
    """Transport protocol [default: TCP]."""


class NetworkPeer(TypedDict):
    """The other end: pods by namespace and labels, addresses by `cidr`, or `anywhere`."""

    namespace: NotRequired[str]
    """Namespace of the pods; absent is the rule's own."""
    labels: NotRequired[dict[str, str]]
    """Labels that the pods have; absent is every pod of the namespace."""
    cidr: NotRequired[str]
    """Addresses, such as ``10.0.0.0/8``."""
    except_cidrs: NotRequired[list[str]]
    """Addresses within `cidr` that are left out."""
    anywhere: NotRequired[bool]
    """Everything: pods, addresses, and nodes, which some network plugins (Cilium) match by no address."""


class NetworkRule(TypedDict):
    """Connections that some pods may take or open."""

    name: str
    """Name of the NetworkPolicy."""
    subject: dict[str, str]
    """Labels of the pods that the rule is about; empty is every pod of the namespace."""
    direction: Direction
    """Whether they are called or call."""
    peers: list[NetworkPeer]
    """Who is at the other end; empty is nobody."""
    ports: list[PortRange]
    """Ports of the end that is called."""


class LimitDefaults(TypedDict):
    """What a container gets that says nothing: an operator's pod, say. Ours always say."""

    cpu_request: NotRequired[str]
    """Kubernetes quantity [default: 100m]."""
    cpu_limit: NotRequired[str]
    """Kubernetes quantity [default: 1]."""
    memory_request: NotRequired[str]
    """Kubernetes quantity [default: 128Mi]."""
    memory_limit: NotRequired[str]
    """Kubernetes quantity [default: 512Mi]."""
    storage_request: NotRequired[str]
    """Local disk, a Kubernetes quantity [default: 100Mi]."""
    storage_limit: NotRequired[str]
    """Local disk, a Kubernetes quantity [default: 1Gi]."""


class SecureNamespaceArgs(TypedDict):
    """Arguments of `SecureNamespace`."""

    namespace: str
    """Its name."""
    rules: list[NetworkRule]
    """Connections that are allowed; nothing else is, but DNS."""
    quota: NotRequired[dict[str, str]]
    """Sums that all pods together may reach, by Kubernetes' names, such as ``requests.memory``."""
    limit_defaults: NotRequired[LimitDefaults]
    """Requests and limits of containers that say none."""
    protect: NotRequired[bool]
    """Refuse to delete it, and with it every volume claim inside [default: false]."""
    labels: NotRequired[dict[str, str]]
    """Further labels of every object."""


class SecureNamespace(pulumi.ComponentResource):
    """A namespace under the restricted Pod Security Standard whose network starts at deny, in both directions."""

    namespace: pulumi.Output[str]
    """Its name, known when its policies are in force: what uses it never runs without them."""

    def __init__(self, name: str, args: SecureNamespaceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelport:index:SecureNamespace", name, {**args}, opts)
        check(args)
        labels = {**args.get("labels", {}), NAME: args["namespace"], PART_OF: "modelport", MANAGED_BY: "pulumi"}
        made = kubernetes.core.v1.Namespace(
            name,
            metadata={"name": args["namespace"], "labels": {**labels, **pod_security_labels()}},
            opts=pulumi.ResourceOptions(parent=self, protect=args.get("protect", False)),
        )
        namespace = made.metadata.apply(lambda found: found.name or args["namespace"])
        child = pulumi.ResourceOptions(parent=self)

        def metadata(object_name: str) -> Any:
            return {"name": object_name, "namespace": namespace, "labels": labels}

        specs = {"default-deny": default_deny(), "allow-dns": allow_dns()}
        specs |= {rule["name"]: network_policy(rule) for rule in args["rules"]}
        guards: list[pulumi.CustomResource] = [
            kubernetes.networking.v1.NetworkPolicy(
                f"{name}-{policy}", metadata=metadata(policy), spec=pods.typed(spec), opts=child
            )
            for policy, spec in specs.items()
        ]
        guards.append(
            kubernetes.core.v1.LimitRange(
                f"{name}-defaults",
                metadata=metadata("defaults"),
                spec=pods.typed(limit_range(args.get("limit_defaults", {}))),
                opts=child,
            )
        )
        if args.get("quota"):
            guards.append(
                kubernetes.core.v1.ResourceQuota(
                    f"{name}-quota", metadata=metadata("quota"), spec={"hard": args.get("quota", {})}, opts=child
                )
            )
        self.namespace = pulumi.Output.all(namespace, *(guard.id for guard in guards)).apply(lambda found: found[0])
        self.register_outputs({"namespace": self.namespace})


def check(args: SecureNamespaceArgs) -> None:
    """Refuse what Kubernetes would understand as more than was meant.

    Raises:
        ValueError: and which argument it is.
    """
    names = [rule["name"] for rule in args["rules"]]
    twice = sorted({name for name in names if names.count(name) > 1} | ({"default-deny", "allow-dns"} & set(names)))
    if twice:
        raise ValueError(f"rules: there is more than one policy of the name {', '.join(twice)}")
    for rule in args["rules"]:
        if not rule["ports"]:
            raise ValueError(f"rules: {rule['name']} names no port, which Kubernetes takes for every port")
        for peer in rule["peers"]:
            if peer.get("anywhere", False):
                if len(peer) > 1 or len(rule["peers"]) > 1:
                    raise ValueError(f"rules: {rule['name']} has a peer that is anywhere, and says more")
                continue
            if not {"namespace", "labels", "cidr"} & set(peer):
                raise ValueError(f"rules: {rule['name']} has a peer that says nothing, which would be everybody")
            if "cidr" in peer and {"namespace", "labels"} & set(peer):
                raise ValueError(f"rules: {rule['name']} has a peer of both addresses and pods")
            if "except_cidrs" in peer and "cidr" not in peer:
                raise ValueError(f"rules: {rule['name']} has a peer with except_cidrs and no cidr")


def pod_security_labels() -> dict[str, str]:
    """Labels that make the API server refuse, and say in previews, what the restricted standard forbids."""
    return {
        f"{_POD_SECURITY}/{mode}{suffix}": value
        for mode in ("enforce", "audit", "warn")
        for suffix, value in (("", "restricted"), ("-version", "latest"))
    }


def default_deny() -> Manifest:
    """Nobody in, nobody out."""
    return {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def allow_dns() -> Manifest:
    """Every pod may ask the cluster's DNS servers."""
    return {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [
            {
                "to": [_pods("kube-system", None)],
                "ports": [{"port": ports.DNS, "protocol": protocol} for protocol in ("UDP", "TCP")],
            }
        ],
    }


def network_policy(rule: NetworkRule) -> Manifest:
    """A NetworkPolicy's spec. A rule without peers lets nobody through, as it says, and not everybody."""
    direction = Direction(rule["direction"])
    way = {Direction.INGRESS: "from", Direction.EGRESS: "to"}[direction]
    entry: Manifest = {"ports": _ports(rule["ports"])}
    # An entry that names nobody is about everybody.
    if not any(peer.get("anywhere", False) for peer in rule["peers"]):
        entry[way] = [_peer(peer) for peer in rule["peers"]]
    return {
        "podSelector": {"matchLabels": rule["subject"]} if rule["subject"] else {},
        "policyTypes": [direction.value.capitalize()],
        direction.value: [entry] if rule["peers"] else [],
    }


def limit_range(wanted: LimitDefaults) -> Manifest:
    """A LimitRange's spec."""
    return {
        "limits": [
            {
                "type": "Container",
                "defaultRequest": {
                    "cpu": wanted.get("cpu_request", "100m"),
                    "memory": wanted.get("memory_request", "128Mi"),
                    "ephemeral-storage": wanted.get("storage_request", "100Mi"),
                },
                "default": {
                    "cpu": wanted.get("cpu_limit", "1"),
                    "memory": wanted.get("memory_limit", "512Mi"),
                    "ephemeral-storage": wanted.get("storage_limit", "1Gi"),
                },
            }
        ]
    }


def _peer(peer: NetworkPeer) -> Manifest:
    if "cidr" in peer:
        left_out = peer.get("except_cidrs", [])
        return {"ipBlock": {"cidr": peer["cidr"], **({"except": list(left_out)} if left_out else {})}}
    return _pods(peer.get("namespace"), peer.get("labels"))


def _pods(namespace: str | None, labels: dict[str, str] | None) -> Manifest:
    found: Manifest = {}
    if namespace is not None:
        found["namespaceSelector"] = {"matchLabels": {_NAMESPACE: namespace}}
    if labels or namespace is None:
        found["podSelector"] = {"matchLabels": labels} if labels else {}
    return found


def _ports(ranges: Sequence[PortRange]) -> list[Manifest]:
    return [
        {
            "port": int(found["port"]),
            "protocol": Protocol(found.get("protocol", Protocol.TCP)).value,
            **({"endPort": int(found["end_port"])} if "end_port" in found else {}),
        }
        for found in ranges
    ]
