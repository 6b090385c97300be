"""NetworkPolicies as a table of nftables. Pure: from policies, pods and namespaces to text for ``nft -f``.

A pod that a policy selects in a direction has a chain of its own for it, in which every allowed connection returns and
the rest is rejected. Addresses and ports are those behind a Service: it has been resolved before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

Manifest = Mapping[str, Any]
Chains = Mapping[str, Sequence[str]]
"""The rules of each chain of the table, by its name."""

TABLE = "inet modelport-policies"

_REJECT = "reject with icmpx admin-prohibited"


@dataclass(frozen=True)
class Pod:
    """What policies see of a pod."""

    namespace: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    ports: tuple[tuple[str, str, int], ...] = ()
    """Name, protocol and number of each port that has a name."""


@dataclass(frozen=True)
class _Direction:
    policy_type: str
    rules: str
    peers: str
    other: str
    """Address of the other end in a packet."""


_INGRESS = _Direction("Ingress", "ingress", "from", "saddr")
_EGRESS = _Direction("Egress", "egress", "to", "daddr")


def replacing(before: Chains, after: Chains) -> str:
    """What ``nft -f`` makes one table of another by, in one step; the first one of nothing.

    The chains of the hooks stay, and get other rules. A hook that is replaced, too, is there twice for a moment: a
    packet that meets the new one before its rules count and the old one after its rules were taken away has met none.
    """
    body = "".join(
        f"\tchain {name} {{\n" + "".join(f"\t\t{rule}\n" for rule in rules) + "\t}\n" for name, rules in after.items()
    )
    gone = "".join(f"delete chain {TABLE} {name}\n" for name in before if name not in after)
    return f"add table {TABLE}\nflush table {TABLE}\ntable {TABLE} {{\n{body}}}\n{gone}"


def render(policies: Sequence[Manifest], pods: Sequence[Manifest], namespaces: Sequence[Manifest]) -> Chains:
    """The chains of exactly these policies.

    Args:
        policies: NetworkPolicy objects.
        pods: Pod objects; those without an address of their own count for nothing.
        namespaces: Namespace objects.
    """
    known = [found for pod in pods if (found := read_pod(pod)) is not None]
    labels = {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in namespaces}
    chains: dict[str, list[str]] = {}
    jumps: dict[str, list[str]] = {"forward": [], "input": []}
    for direction, own in ((_EGRESS, "saddr"), (_INGRESS, "daddr")):
        for address, allowed in sorted(_isolated(policies, known, labels, direction).items()):
            chain = f"{direction.rules}-{address.replace('.', '-')}"  # names of chains hold no dots
            # Nobody keeps a pod from talking to itself.
            chains[chain] = [
                f"ip {direction.other} {address} return",
                *(f"{rule} return".lstrip() for rule in allowed),
                _REJECT,
            ]
            jumps["forward"].append(f"ip {own} {address} jump {chain}")
            if direction is _EGRESS:
                jumps["input"].append(f"ip {own} {address} jump {chain}")
    for hook, to in jumps.items():
        kind = f"type filter hook {hook} priority -5; policy accept;"
        chains[hook] = [kind, "ct state established,related accept", *to]
    return chains


def read_pod(pod: Manifest) -> Pod | None:
    """What policies see of a Pod object; None where it has no address of its own, or has it no longer."""
    status, spec = pod.get("status", {}), pod["spec"]
    address = status.get("podIP")
    if not address or spec.get("hostNetwork") or status.get("phase") not in ("Pending", "Running"):
        return None
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    ports = tuple(
        (port["name"], port.get("protocol", "TCP"), port["containerPort"])
        for container in containers
        for port in container.get("ports", [])
        if "name" in port
    )
    metadata = pod["metadata"]
    return Pod(metadata["namespace"], address, metadata.get("labels") or {}, ports)


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects an object with these labels."""
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions") or []
    )


def _holds(expression: Manifest, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case operator:
            raise ValueError(f"a selector has the unknown operator {operator!r}")


def _isolated(
    policies: Sequence[Manifest], pods: Sequence[Pod], labels: Mapping[str, Manifest], direction: _Direction
) -> dict[str, list[str]]:
    """The matches that are allowed for each pod, by its address, that some policy selects in a direction."""
    found: dict[str, dict[str, None]] = {}
    for policy in policies:
        spec, home = policy["spec"], policy["metadata"]["namespace"]
        if direction.policy_type not in _types(spec):
            continue
        for pod in pods:
            if pod.namespace == home and selects(spec.get("podSelector") or {}, pod.labels):
                mine = found.setdefault(pod.address, {})
                for rule in spec.get(direction.rules) or []:
                    mine |= dict.fromkeys(_matches(rule, pod, home, pods, labels, direction))
    return {address: list(matches) for address, matches in found.items()}


def _types(spec: Manifest) -> Sequence[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]


def _matches(
    rule: Manifest,
    subject: Pod,
    home: str,
    pods: Sequence[Pod],
    labels: Mapping[str, Manifest],
    direction: _Direction,
) -> Iterator[str]:
    """What a rule of a policy lets through for one pod."""
    ports: Sequence[Manifest] = rule.get("ports") or []
    for text, others in _peers(rule, home, pods, labels, direction):
        if not ports:
            yield text
        for port in ports:
            if not isinstance(port.get("port"), str):
                yield f"{text} {_port(port)}".strip()
                continue
            # A name means what the pod that is called understands by it.
            called = [subject] if direction is _INGRESS else others
            for pod in called:
                for number in _named(pod, port):
                    match = {**port, "port": number}
                    at = text if direction is _INGRESS else f"ip daddr {pod.address}"
                    yield f"{at} {_port(match)}".strip()


def _peers(
    rule: Manifest, home: str, pods: Sequence[Pod], labels: Mapping[str, Manifest], direction: _Direction
) -> Iterator[tuple[str, Sequence[Pod]]]:
    """Matches of the other ends that a rule names, and the pods among them."""
    peers: Sequence[Manifest] = rule.get(direction.peers) or []
    if not peers:
        yield "", pods
    for peer in peers:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            if ip_network(block["cidr"]).version == 4:
                outside = "".join(f" ip {direction.other} != {cidr}" for cidr in block.get("except") or [])
                yield f"ip {direction.other} {block['cidr']}{outside}", ()
            continue
        others = [pod for pod in pods if _is_peer(peer, pod, home, labels)]
        if others:
            addresses = ", ".join(sorted(pod.address for pod in others))
            yield f"ip {direction.other} {{ {addresses} }}", others


def _is_peer(peer: Manifest, pod: Pod, home: str, labels: Mapping[str, Manifest]) -> bool:
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"] or {}, labels.get(pod.namespace, {})):
            return False
    elif pod.namespace != home:
        return False
    return selects(peer.get("podSelector") or {}, pod.labels)


def _port(port: Manifest) -> str:
    protocol = port.get("protocol", "TCP").lower()
    if "port" not in port:
        return f"meta l4proto {protocol}"
    last = f"-{port['endPort']}" if "endPort" in port else ""
    return f"{protocol} dport {port['port']}{last}"


def _named(pod: Pod, port: Manifest) -> Iterator[int]:
    for name, protocol, number in pod.ports:
        if name == port["port"] and protocol == port.get("protocol", "TCP"):
            yield number
