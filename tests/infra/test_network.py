"""The matrix of who may talk to whom, as rules and as a page."""

from pathlib import Path

import pytest

from components.charts import cert_manager_values
from components.namespace import check
from infra import network, platform
from infra.network import Namespace, Party
from infra.settings import Settings, parse

PROJECT = Path(__file__).resolve().parents[2]
FLOWS = network.matrix(["0.0.0.0/0"])
EVERY = network.matrix(
    ["0.0.0.0/0"],
    public=network.GOOGLE_LOAD_BALANCERS,
    receivers=[443, 8080],
    certificates=network.INTERNET,
    metadata=network.GOOGLE_METADATA,
)
"""With what some stacks have."""


def test_both_ends_of_every_flow_get_a_rule():
    for flow in EVERY:
        for party, other, direction in ((flow.source, flow.target, "egress"), (flow.target, flow.source, "ingress")):
            if party.namespace is None:
                continue
            peers = [
                peer
                for rule in network.rules(EVERY, party.namespace)
                if rule["direction"] == direction
                and rule["subject"] == dict(party.labels)
                and [port["port"] for port in rule["ports"]]
                == [port if isinstance(port, int) else port[0] for port in flow.ports]
                for peer in rule["peers"]
            ]
            if other.anywhere:
                assert peers == [{"anywhere": True}]
            elif other.namespace:
                assert {
                    "namespace": other.namespace,
                    **({"labels": dict(other.labels)} if other.labels else {}),
                } in peers
            else:
                assert {"cidr": other.cidrs[0]} in peers


def test_rules_of_a_namespace_have_names_of_their_own():
    for namespace in Namespace:
        rules = network.rules(EVERY, namespace)
        names = [rule["name"] for rule in rules]
        assert len(names) == len(set(names))
        check({"namespace": namespace.value, "rules": rules})


def test_training_reaches_neither_serving_nor_the_database():
    reached = {
        (flow.target.namespace, flow.target.name) for flow in FLOWS if flow.source.namespace == Namespace.TRAINING
    }
    assert not any(namespace == Namespace.SERVING for namespace, _ in reached)
    assert (Namespace.REGISTRY, "postgres") not in reached


def test_nobody_outside_reaches_the_gateway_unless_it_is_public():
    def from_outside(flows):
        return [flow for flow in flows if flow.target.name == "gateway" and flow.source.namespace is None]

    assert not from_outside(FLOWS)
    assert from_outside(network.matrix(["0.0.0.0/0"], public=network.GOOGLE_LOAD_BALANCERS))


def stack(kind: str, **more: object) -> Settings:
    nodes = {"nodes": {"all": {"cpus": 4, "memory": "8Gi"}}} if kind == "existing" else {}
    return parse(
        {"owner": "me", "image": "registry.example.org/platform:1", "cluster": {"kind": kind, **nodes}, **more}, "x"
    )


def outward(settings: Settings, source: Party) -> dict[str, tuple[tuple[str, ...], tuple[int | tuple[int, int], ...]]]:
    """Addresses and ports outside of the cluster that only this party reaches, by who is there."""
    found = [flow for flow in platform.flows(settings) if flow.source == source and flow.target.namespace is None]
    return {flow.target.name: (flow.target.cidrs, flow.ports) for flow in found}


def test_prometheus_reaches_the_kubelets_whose_nodes_cilium_matches_by_no_address():
    assert outward(stack("existing"), network.PROMETHEUS) == {"nodes, and anywhere": ((), (10250,))}


@pytest.mark.parametrize("kind", ["gke", "existing"])
def test_cert_manager_reaches_who_gives_certificates_and_on_gke_who_tells_it_its_identity(kind: str):
    assert outward(stack(kind), network.CERT_MANAGER) == {}
    reached = outward(stack(kind, operators={"cert_manager": True}), network.CERT_MANAGER)
    assert reached.pop("certificate authority, DNS service") == (("0.0.0.0/0",), (443,))
    assert reached == ({"metadata server": (("169.254.169.254/32",), (80, 8080))} if kind == "gke" else {})
    assert cert_manager_values("operators", {})["dns01RecursiveNameserversOnly"], "DNS is all that it may ask by name"


def test_alertmanager_reaches_its_receivers_and_nobody_else_does():
    told = {"default": "https://hooks.example.org/a", "me": "http://relay.alerts.svc:8080/b"}
    assert outward(stack("gke", monitoring={"receivers": told}), network.ALERTMANAGER) == {
        "anywhere": ((), (443, 8080))
    }
    assert outward(stack("gke"), network.ALERTMANAGER) == {}


def test_the_page_in_docs_is_the_matrix():
    assert (PROJECT / "docs" / "network.md").read_text() == network.document(FLOWS), "run `make network-docs`"
