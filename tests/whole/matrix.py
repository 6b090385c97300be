"""The declared matrix of connections, tried for real: from a pod of each kind, and of none, to every service."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components import pods, ports
from components.labels import COMPONENT, Component
from infra.network import Flow, Namespace, Party, matrix
from tests.cluster.one_node import OneNode
from tests.whole.stack import PLATFORM_IMAGE

_API_PORT = 6443
"""Of the API server, behind its Service."""
_OPERATOR_METRICS = 8080
_NAMED: Sequence[tuple[str, Namespace, Component, tuple[int, ...]]] = (
    ("object-store", Namespace.REGISTRY, Component.OBJECT_STORE, (ports.OBJECT_STORE,)),
    ("postgres", Namespace.REGISTRY, Component.POSTGRES, (ports.POSTGRES,)),
    ("mlflow", Namespace.REGISTRY, Component.MLFLOW, (ports.MLFLOW,)),
    ("gateway", Namespace.SERVING, Component.GATEWAY, (ports.GATEWAY,)),
    (
        "triton-replicas",
        Namespace.SERVING,
        Component.TRITON,
        (ports.TRITON_GRPC, ports.TRITON_HTTP, ports.TRITON_METRICS, ports.AGENT),
    ),
)
"""Services, whose pods answer, and on which ports they do."""
_RAY_PORTS = (ports.RAY_DASHBOARD, ports.RAY_GCS, ports.RAY_DASHBOARD_AGENT, ports.RAY_METRICS)
_STRANGERS = ("default",)
"""Namespaces beside the stack's, where no policy keeps anybody in."""

_PROGRAM = """
import json, socket, sys, time
found, began = {}, time.monotonic()
def address_of(host):
    for attempt in range(20):
        try:
            return socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0]
        except OSError:
            time.sleep(0.5)
    return None
for host, port in json.loads(sys.argv[1]):
    address = address_of(host)
    told = found[f"{host}:{port}"] = {"address": address, "made": None, "failed": []}
    for attempt in range(3 if address else 0):
        try:
            with socket.create_connection((address, port), timeout=3) as made:
                ends = made.getsockname()[0], made.getpeername()[0]
            told["made"] = f"{ends[0]} to {ends[1]}, {time.monotonic() - began:.1f} s after it began"
            break
        except OSError as error:
            told["failed"].append(f"{error} {time.monotonic() - began:.1f} s after it began")
            time.sleep(0.2)
print(json.dumps(found))
"""
_WAIT_S = 240.0


@dataclass(frozen=True)
class Place:
    """What policies see of a pod."""

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()

    def is_of(self, party: Party) -> bool:
        """Whether it is one of a party's pods."""
        return self.namespace == party.namespace and set(party.labels) <= set(self.labels)


@dataclass(frozen=True)
class Target:
    """What can be asked for, and the pod that answers."""

    host: str
    port: int
    place: Place | None
    """None: the API server."""


@dataclass(frozen=True)
class Pair:
    """A connection that was tried."""

    source: Place
    target: Target
    allowed: bool
    """By the matrix."""
    address: str | None
    """What the source took the target's name for; None: it has none."""
    made: str | None
    """From which address to which, and when; None: it was not."""
    failed: tuple[str, ...] = ()
    """How each attempt that made none ended, and when."""

    @property
    def right(self) -> bool:
        """Whether what happened is what the matrix says. A name that is not known shows nothing."""
        return self.address is not None and self.allowed == (self.made is not None)

    def __str__(self) -> str:
        by_matrix = "allowed" if self.allowed else "denied"
        tried = f"made, {self.made}" if self.made else f"not made: {'; '.join(self.failed)}"
        place = f"{self.source.namespace}/{self.source.name}"
        return f"{place} -> {self.target.host}:{self.target.port} ({self.address}): {by_matrix} by the matrix, {tried}"


def sources(flows: Sequence[Flow], namespaces: Sequence[str]) -> list[Place]:
    """A pod of each party, one of no party in each of the stack's namespaces, and strangers. Pure.

    Args:
        flows: the matrix.
        namespaces: that the cluster has.
    """
    ours = [name.value for name in Namespace if name.value in namespaces]
    parties = {party for flow in flows for party in (flow.source, flow.target) if party.namespace in ours}
    labelled = [Place(party.name, str(party.namespace), party.labels) for party in parties if party.labels]
    nobody = [Place("nobody", name, ((COMPONENT, "probe"),)) for name in (*ours, *_STRANGERS)]
    return sorted([*labelled, *nobody], key=lambda one: (one.namespace, one.name))


def is_allowed(flows: Sequence[Flow], source: Place, target: Target) -> bool:
    """Whether the matrix has a connection; strangers are kept in by nobody, but kept out. Pure."""
    if target.place is None:
        stranger = source.namespace not in set(Namespace)
        return stranger or any(source.is_of(flow.source) and _is_api(flow) for flow in flows)
    return any(
        source.is_of(flow.source) and target.place.is_of(flow.target) and _has(flow.ports, target.port)
        for flow in flows
    )


def _is_api(flow: Flow) -> bool:
    return flow.target.name == "API server" and _has(flow.ports, _API_PORT)


def _has(allowed: Sequence[int | tuple[int, int]], port: int) -> bool:
    return any(one == port if isinstance(one, int) else one[0] <= port <= one[1] for one in allowed)


def targets(cluster: OneNode) -> list[Target]:
    """Every service of the stack, the heads and workers of trainings that go on, and the operators."""
    found = [Target("kubernetes.default.svc", ports.HTTPS, None)]
    for service, namespace, component, answering in _NAMED:
        place = Place(component.value, namespace.value, ((COMPONENT, component.value),))
        found += [Target(f"{service}.{namespace}.svc", port, place) for port in answering]
    found += _pods(cluster, Namespace.TRAINING, _RAY_PORTS, f"{COMPONENT}={Component.RAY}")
    found += _pods(cluster, Namespace.OPERATORS, (_OPERATOR_METRICS,), "app.kubernetes.io/name=kuberay-operator")
    return found


def _pods(cluster: OneNode, namespace: Namespace, answering: Sequence[int], selector: str) -> Iterator[Target]:
    query = selector.replace("/", "%2F").replace("=", "%3D")
    for pod in cluster.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={query}")["items"]:
        labels = tuple(sorted(pod["metadata"]["labels"].items()))
        place = Place(pod["metadata"]["name"], namespace.value, labels)
        # A worker answers on fewer ports than a head: what is not there cannot be allowed.
        is_worker = pod["metadata"]["labels"].get("ray.io/node-type") == "worker"
        for port in answering:
            if not (is_worker and port in (ports.RAY_DASHBOARD, ports.RAY_GCS)):
                yield Target(pod["status"]["podIP"], port, place)


def tried(cluster: OneNode) -> list[Pair]:
    """Every pair, tried from a pod of each kind.

    Raises:
        TimeoutError: the pods did not end.
    """
    flows = matrix(["0.0.0.0/0"])
    known = [one["metadata"]["name"] for one in cluster.get("/api/v1/namespaces")["items"]]
    asking, asked = sources(flows, known), targets(cluster)
    for number, source in enumerate(asking):
        cluster.apply(_pod(f"probe-{number}", source, asked))
    deadline, pairs = time.monotonic() + _WAIT_S, list[Pair]()
    for number, source in enumerate(asking):
        name = f"probe-{number}"
        place = f"/api/v1/namespaces/{source.namespace}/pods/{name}"
        while cluster.get(place)["status"]["phase"] not in ("Succeeded", "Failed"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} of {source.name} did not end\n{cluster.report()}")
            time.sleep(0.5)
        found: Mapping[str, Mapping[str, Any]] = json.loads(cluster.kubectl("-n", source.namespace, "logs", name))
        cluster.request("DELETE", place)
        for target in asked:
            told = found[f"{target.host}:{target.port}"]
            allowed = is_allowed(flows, source, target)
            pairs.append(Pair(source, target, allowed, told["address"], told["made"], tuple(told["failed"])))
    return pairs


def _pod(name: str, source: Place, asked: Sequence[Target]) -> dict[str, Any]:
    """A pod that is of a party, as far as policies see.

    No Service leads to it: it has not the name that most select by, and is never ready. A name that stands for all pods
    of a component would else be taken for the address of one that answers nobody.
    """
    container = pods.Container(
        "probe",
        PLATFORM_IMAGE,
        pods.Resources(0.01, "64Mi"),
        command=["python", "-c", _PROGRAM, json.dumps([(target.host, target.port) for target in asked])],
    )
    labels = dict(source.labels)
    template = pods.pod_template([container], labels=labels, service_account="default", restart_policy="Never")
    metadata = {"name": name, "namespace": source.namespace, "labels": labels}
    spec = {**template["spec"], "readinessGates": [{"conditionType": "modelport.dev/never"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
