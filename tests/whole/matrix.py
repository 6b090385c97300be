"""The declared matrix of connections, tried for real: from a pod of each party to every service."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components import pods, ports
from components.labels import COMPONENT
from infra.network import (
    GATEWAY,
    MLFLOW,
    OBJECT_STORE,
    POSTGRES,
    TRITON,
    Flow,
    Namespace,
    Party,
    matrix,
)
from tests.cluster.one_node import OneNode
from tests.whole.stack import PLATFORM_IMAGE

_API = Party("API server", cidrs=("0.0.0.0/0",))
SERVICES: Mapping[tuple[str, int], Party] = {
    (f"object-store.{Namespace.REGISTRY}.svc", ports.OBJECT_STORE): OBJECT_STORE,
    (f"postgres.{Namespace.REGISTRY}.svc", ports.POSTGRES): POSTGRES,
    (f"mlflow.{Namespace.REGISTRY}.svc", ports.MLFLOW): MLFLOW,
    (f"gateway.{Namespace.SERVING}.svc", ports.GATEWAY): GATEWAY,
    (f"triton-replicas.{Namespace.SERVING}.svc", ports.TRITON_GRPC): TRITON,
    (f"triton-replicas.{Namespace.SERVING}.svc", ports.TRITON_HTTP): TRITON,
    (f"triton-replicas.{Namespace.SERVING}.svc", ports.AGENT): TRITON,
    ("kubernetes.default.svc", ports.HTTPS): _API,
}
"""What can be asked for, and whose pods answer."""

_PROGRAM = """
import json, socket, sys, time
found, began = {}, time.monotonic()
for host, port in json.loads(sys.argv[1]):
    for attempt in range(3):
        try:
            with socket.create_connection((host, port), timeout=2) as made:
                ends = made.getsockname()[0], made.getpeername()[0]
            found[f"{host}:{port}"] = f"{ends[0]} to {ends[1]}, {time.monotonic() - began:.1f} s after it began"
            break
        except OSError as error:
            found[f"{host}:{port}"] = None
            time.sleep(0.5)  # a policy takes a moment to know a pod
print(json.dumps(found))
"""
_WAIT_S = 180.0


@dataclass(frozen=True)
class Pair:
    """A connection that was tried."""

    source: str
    target: str
    allowed: bool
    """By the matrix."""
    made: str | None
    """From which address to which, and when; None: it was not."""

    def __str__(self) -> str:
        by_matrix, tried = "allowed" if self.allowed else "denied", f"made, {self.made}" if self.made else "not made"
        return f"{self.source} -> {self.target}: {by_matrix} by the matrix, {tried}"


def parties(flows: Sequence[Flow]) -> list[Party]:
    """Everybody in the matrix who is a kind of pod in a namespace of the stack's own. Pure."""
    every = {party for flow in flows for party in (flow.source, flow.target) if party.namespace in set(Namespace)}
    return sorted(
        (one for one in every if one.namespace != Namespace.MONITORING), key=lambda one: (one.name, one.labels)
    )


def is_allowed(flows: Sequence[Flow], source: Party, target: Party, port: int) -> bool:
    """Whether the matrix has a connection. Pure."""
    wanted = 6443 if target is _API else port

    def has(allowed: Sequence[int | tuple[int, int]]) -> bool:
        return any(one == wanted if isinstance(one, int) else one[0] <= wanted <= one[1] for one in allowed)

    return any(
        flow.source == source
        and (flow.target == target or (target is _API and flow.target.name == target.name))
        and has(flow.ports)
        for flow in flows
    )


def tried(cluster: OneNode) -> list[Pair]:
    """Every pair, tried from a pod of each party.

    Raises:
        TimeoutError: the pods did not end.
    """
    flows = matrix(["0.0.0.0/0"])
    sources = parties(flows)
    names = {source: f"probe-{number}" for number, source in enumerate(sources)}
    for source in sources:
        cluster.apply(_pod(names[source], source))
    deadline, pairs = time.monotonic() + _WAIT_S, list[Pair]()
    for source in sources:
        place = f"/api/v1/namespaces/{source.namespace}/pods/{names[source]}"
        while cluster.get(place)["status"]["phase"] not in ("Succeeded", "Failed"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{names[source]} of {source.name} did not end\n{cluster.report()}")
            time.sleep(0.5)
        made: dict[str, str | None] = json.loads(cluster.kubectl("-n", str(source.namespace), "logs", names[source]))
        cluster.request("DELETE", place)
        for (host, port), target in SERVICES.items():
            allowed = is_allowed(flows, source, target, port)
            pairs.append(Pair(source.name, f"{host}:{port}", allowed, made[f"{host}:{port}"]))
    return pairs


def _pod(name: str, party: Party) -> dict[str, Any]:
    """A pod that is of a party, as far as policies see: without the name that Services select by."""
    container = pods.Container(
        "probe",
        PLATFORM_IMAGE,
        pods.Resources(0.01, "64Mi"),
        command=["python", "-c", _PROGRAM, json.dumps(list(SERVICES))],
    )
    labels = dict(party.labels) or {COMPONENT: "probe"}
    template = pods.pod_template([container], labels=labels, service_account="default", restart_policy="Never")
    metadata = {"name": name, "namespace": str(party.namespace), "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
