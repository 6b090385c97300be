"""The matrix of who may talk to whom, as rules and as a page."""

from pathlib import Path

from infra import network
from infra.network import Namespace

PROJECT = Path(__file__).resolve().parents[2]
FLOWS = network.matrix(["0.0.0.0/0"])


def test_both_ends_of_every_flow_get_a_rule():
    for flow in FLOWS:
        for party, other, direction in ((flow.source, flow.target, "egress"), (flow.target, flow.source, "ingress")):
            if party.namespace is None:
                continue
            peers = [
                peer
                for rule in network.rules(FLOWS, party.namespace)
                if rule["direction"] == direction
                and rule["subject"] == dict(party.labels)
                and [port["port"] for port in rule["ports"]]
                == [port if isinstance(port, int) else port[0] for port in flow.ports]
                for peer in rule["peers"]
            ]
            if other.namespace:
                assert {
                    "namespace": other.namespace,
                    **({"labels": dict(other.labels)} if other.labels else {}),
                } in peers
            else:
                assert {"cidr": other.cidrs[0]} in peers


def test_rules_of_a_namespace_have_names_of_their_own():
    for namespace in Namespace:
        names = [rule["name"] for rule in network.rules(FLOWS, namespace)]
        assert len(names) == len(set(names))


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


def test_the_page_in_docs_is_the_matrix():
    assert (PROJECT / "docs" / "network.md").read_text() == network.document(FLOWS), "run `make network-docs`"
