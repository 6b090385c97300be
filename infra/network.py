"""Who may talk to whom: the one matrix that network policies and ``docs/network.md`` are made from. Pure.

It speaks of what pods are for, never of a model, so that a new model changes no policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from components import ports
from components.labels import COMPONENT, NAME, Component
from components.namespace import Direction, NetworkPeer, NetworkRule, PortRange


class Namespace(StrEnum):
    """Namespaces of a stack. Training, registry and serving are apart."""

    REGISTRY = "modelport-registry"
    """Object store, PostgreSQL, MLflow."""
    TRAINING = "modelport-training"
    SERVING = "modelport-serving"
    OPERATORS = "modelport-operators"
    """KubeRay's operator, KEDA, cert-manager."""
    MONITORING = "modelport-monitoring"


@dataclass(frozen=True)
class Party:
    """Pods of a namespace, addresses outside of the cluster, or anywhere."""

    name: str
    """As the matrix shows it."""
    namespace: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    """Labels that the pods have; none means every pod of the namespace."""
    cidrs: tuple[str, ...] = ()
    anywhere: bool = False
    """Whether nothing narrower names it: nodes, which Cilium (GKE's Dataplane V2) matches by no address."""


@dataclass(frozen=True)
class Flow:
    """Connections that one party may open to another."""

    source: Party
    target: Party
    ports: tuple[int | tuple[int, int], ...]
    """TCP ports, or (first, last)."""
    why: str


def _component(namespace: Namespace, component: Component) -> Party:
    return Party(component.value, namespace, ((COMPONENT, component.value),))


OBJECT_STORE = _component(Namespace.REGISTRY, Component.OBJECT_STORE)
OBJECT_STORE_SETUP = _component(Namespace.REGISTRY, Component.OBJECT_STORE_SETUP)
POSTGRES = _component(Namespace.REGISTRY, Component.POSTGRES)
POSTGRES_SETUP = _component(Namespace.REGISTRY, Component.POSTGRES_SETUP)
POSTGRES_BACKUP = _component(Namespace.REGISTRY, Component.POSTGRES_BACKUP)
MLFLOW = _component(Namespace.REGISTRY, Component.MLFLOW)
MLFLOW_SETUP = _component(Namespace.REGISTRY, Component.MLFLOW_SETUP)
RAY = _component(Namespace.TRAINING, Component.RAY)
RAY_SUBMITTER = _component(Namespace.TRAINING, Component.RAY_SUBMITTER)
TRAINING_TRIGGER = _component(Namespace.TRAINING, Component.TRAINING_TRIGGER)
TRITON = _component(Namespace.SERVING, Component.TRITON)
GATEWAY = _component(Namespace.SERVING, Component.GATEWAY)
LOAD_TEST = _component(Namespace.SERVING, Component.LOAD_TEST)
OPERATORS = Party("operators", Namespace.OPERATORS)
CERT_MANAGER = Party("cert-manager", Namespace.OPERATORS, ((NAME, "cert-manager"),))
MONITORING = Party("monitoring", Namespace.MONITORING)
TUNNEL = Party("konnectivity-agent", "kube-system", (("k8s-app", "konnectivity-agent"),))
"""Through which a managed cluster's API server calls webhooks; a range of addresses does not match its pods."""
PROMETHEUS = Party("prometheus", Namespace.MONITORING, ((NAME, "prometheus"),))
ALERTMANAGER = Party("alertmanager", Namespace.MONITORING, ((NAME, "alertmanager"),))


def matrix(
    api_server: Sequence[str],
    *,
    public: Sequence[str] = (),
    database: Sequence[str] = (),
    objects: Sequence[str] = (),
    receivers: Sequence[int] = (),
    certificates: Sequence[str] = (),
    metadata: Sequence[str] = (),
) -> list[Flow]:
    """Every connection that is allowed; nothing else is.

    Args:
        api_server: Addresses of the Kubernetes API server.
        public: Addresses that the public entry's load balancer comes from; none keeps the gateway inside.
        database: Addresses of a database outside of the cluster.
        objects: Addresses of an object store outside of the cluster.
        receivers: Ports that alerts are sent to.
        certificates: Addresses of the certificate authority, and of the DNS service that proves the name.
        metadata: Addresses of the cloud's metadata server, which tells cert-manager who it is.
    """
    api = Party("API server", cidrs=tuple(api_server))
    api_ports = (ports.HTTPS, 6443)
    if objects:
        store, store_ports = Party("object store", cidrs=tuple(objects)), (ports.HTTPS,)
    else:
        store, store_ports = OBJECT_STORE, (ports.OBJECT_STORE,)
    postgres = Party("database", cidrs=tuple(database)) if database else POSTGRES
    flows = [
        Flow(MLFLOW, postgres, (ports.POSTGRES,), "runs, registered versions, users"),
        Flow(MLFLOW, store, store_ports, "artifacts"),
        Flow(MLFLOW_SETUP, postgres, (ports.POSTGRES,), "migrations, users and their passwords"),
        Flow(POSTGRES_SETUP, postgres, (ports.POSTGRES,), "roles, passwords, databases"),
        Flow(POSTGRES_BACKUP, postgres, (ports.POSTGRES,), "dumps"),
        Flow(POSTGRES_BACKUP, store, store_ports, "storing dumps"),
        Flow(RAY, RAY, (_RAY_PORTS,), "one Ray cluster; each has a token of its own"),
        Flow(RAY, store, store_ports, "datasets, checkpoints, staging"),
        Flow(RAY, MLFLOW, (ports.MLFLOW,), "tracking"),
        Flow(RAY_SUBMITTER, RAY, (ports.RAY_DASHBOARD, ports.RAY_GCS), "submitting a job and following it"),
        Flow(TRAINING_TRIGGER, store, store_ports, "which data there is, which pair was trained"),
        Flow(TRAINING_TRIGGER, api, api_ports, "submitting a RayJob"),
        Flow(OPERATORS, RAY, (ports.RAY_DASHBOARD, ports.RAY_DASHBOARD_AGENT), "KubeRay's operator follows jobs"),
        Flow(GATEWAY, TRITON, (ports.TRITON_GRPC, ports.AGENT), "inference; which replica has which release"),
        Flow(GATEWAY, store, store_ports, "prediction records"),
        Flow(TRITON, store, store_ports, "releases, promotion logs, heartbeats"),
        Flow(LOAD_TEST, GATEWAY, (ports.GATEWAY,), "load tests"),
        Flow(LOAD_TEST, store, store_ports, "golden files: which answers are right"),
        Flow(LOAD_TEST, LOAD_TEST, (ports.LOCUST,), "Locust's master and workers"),
        Flow(PROMETHEUS, TRITON, (ports.TRITON_METRICS, ports.AGENT), "metrics"),
        Flow(PROMETHEUS, GATEWAY, (ports.GATEWAY,), "metrics"),
        Flow(PROMETHEUS, RAY, (ports.RAY_METRICS,), "metrics"),
        Flow(OPERATORS, PROMETHEUS, (_PROMETHEUS,), "KEDA scales by queue time"),
        Flow(OPERATORS, OPERATORS, (_ANY,), "operators and their webhooks"),
        Flow(OPERATORS, api, api_ports, "operators watch and change what is theirs"),
        Flow(api, OPERATORS, _WEBHOOKS, "admission webhooks, external metrics"),
        Flow(TUNNEL, OPERATORS, _WEBHOOKS, "the same on managed clusters, whose API server comes through a tunnel"),
        Flow(MONITORING, MONITORING, (_ANY,), "Prometheus, Alertmanager, Grafana"),
        Flow(MONITORING, api, api_ports, "discovery of targets"),
        Flow(
            PROMETHEUS, Party("nodes, and anywhere", anywhere=True), (_KUBELET,), "the kubelets' metrics: volumes, pods"
        ),
    ]
    if not objects:
        flows.append(Flow(OBJECT_STORE_SETUP, OBJECT_STORE, (ports.OBJECT_STORE,), "buckets, users, rights"))
        flows.append(Flow(OBJECT_STORE, OBJECT_STORE, (ports.OBJECT_STORE,), "replicas of one store"))
    if certificates:
        issuing = Party("certificate authority, DNS service", cidrs=tuple(certificates))
        flows.append(Flow(CERT_MANAGER, issuing, (ports.HTTPS,), "certificates of the public entry"))
    if metadata:
        server = Party("metadata server", cidrs=tuple(metadata))
        flows.append(Flow(CERT_MANAGER, server, _METADATA, "its identity at the DNS service"))
    if receivers:
        flows.append(
            Flow(ALERTMANAGER, Party("anywhere", anywhere=True), tuple(receivers), "alerts to their receivers")
        )
    if public:
        flows.append(Flow(Party("load balancer", cidrs=tuple(public)), GATEWAY, (ports.GATEWAY,), "the public API"))
    return flows


GOOGLE_LOAD_BALANCERS = ("35.191.0.0/16", "130.211.0.0/22")
"""Google's proxies and health checks (https://cloud.google.com/load-balancing/docs/firewall-rules)."""

PRIVATE = ("10.0.0.0/8",)
"""Where a managed database answers: a private address in the cluster's network."""
GOOGLE_APIS = ("0.0.0.0/0",)
"""Google's object store answers on public addresses, which change."""
INTERNET = ("0.0.0.0/0",)
"""Certificate authorities do not say where they answer."""
GOOGLE_METADATA = ("169.254.169.254/32",)
"""GKE's metadata server as network policies of Dataplane V2 see it, on `_METADATA`
(https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity)."""

_KUBELET = 10250
_METADATA = (80, 8080)
_ANY = (1, 65535)
_RAY_PORTS = (1024, 65535)
"""Ray picks ports for its workers, object managers and agents."""
_PROMETHEUS = 9090
_WEBHOOKS = (ports.HTTPS, 6443, 8443, 9443, 10250)


def rules(flows: Sequence[Flow], namespace: Namespace) -> list[NetworkRule]:
    """Both ends of the flows that begin or end in a namespace, one rule for each party and direction."""
    sides: dict[tuple[Party, Direction, tuple[int | tuple[int, int], ...]], list[Party]] = {}
    for flow in flows:
        if flow.source.namespace is namespace:
            sides.setdefault((flow.source, Direction.EGRESS, flow.ports), []).append(flow.target)
        if flow.target.namespace is namespace:
            sides.setdefault((flow.target, Direction.INGRESS, flow.ports), []).append(flow.source)
    found: list[NetworkRule] = []
    for (party, direction, allowed), others in sides.items():
        found.append(
            NetworkRule(
                name=f"{party.name}-{direction.value}-{_port_name(allowed)}",
                subject=dict(party.labels),
                direction=direction,
                peers=[peer for other in others for peer in _peers(other)],
                ports=[_port_range(port) for port in allowed],
            )
        )
    return found


def document(flows: Sequence[Flow]) -> str:
    """The matrix as a page."""
    head = (
        "# Who may talk to whom\n\n"
        "Generated from `infra/network.py` by `make network-docs`; a test compares it with what the policies evaluate "
        "to. Everything\nelse is denied, in both directions, but DNS. A new model changes nothing here. A public "
        "entry, a managed database or object\nstore, receivers of alerts and cert-manager add what they need where a "
        "stack has them.\n\n"
        "| from | to | TCP ports | why |\n|---|---|---|---|\n"
    )
    rows = [
        f"| {_place(flow.source)} | {_place(flow.target)} | {', '.join(map(_port_text, flow.ports))} | {flow.why} |"
        for flow in flows
    ]
    return head + "\n".join(rows) + "\n"


def _place(party: Party) -> str:
    return f"{party.name} ({party.namespace})" if party.namespace else party.name


def _port_text(port: int | tuple[int, int]) -> str:
    return str(port) if isinstance(port, int) else f"{port[0]}-{port[1]}"


def _port_name(allowed: Sequence[int | tuple[int, int]]) -> str:
    return "-".join(_port_text(port) for port in allowed)


def _port_range(port: int | tuple[int, int]) -> PortRange:
    if isinstance(port, int):
        return PortRange(port=port)
    return PortRange(port=port[0], end_port=port[1])


def _peers(party: Party) -> list[NetworkPeer]:
    if party.anywhere:
        return [NetworkPeer(anywhere=True)]
    if party.namespace is None:
        return [NetworkPeer(cidr=cidr) for cidr in party.cidrs]
    peer = NetworkPeer(namespace=str(party.namespace))
    if party.labels:
        peer["labels"] = dict(party.labels)
    return [peer]


if __name__ == "__main__":
    print(document(matrix(["0.0.0.0/0"])), end="")
