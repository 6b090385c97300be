"""What a namespace allows: nothing that was not said."""

import copy

import pytest

from components.namespace import (
    Direction,
    NetworkPeer,
    NetworkRule,
    SecureNamespace,
    check,
    limit_range,
    network_policy,
)
from tests.components.recording import Recorded, record

RULE = NetworkRule(
    name="mlflow-ingress",
    subject={"app.kubernetes.io/component": "mlflow"},
    direction=Direction.INGRESS,
    peers=[NetworkPeer(namespace="modelport-training", labels={"app.kubernetes.io/component": "ray"})],
    ports=[{"port": 5000}],
)


def rule(**changes) -> NetworkRule:
    return {**copy.deepcopy(RULE), **changes}


def build(**more) -> list[Recorded]:
    return record(lambda: SecureNamespace("registry", {"namespace": "modelport-registry", "rules": [RULE], **more}))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            RULE,
            {
                "podSelector": {"matchLabels": {"app.kubernetes.io/component": "mlflow"}},
                "policyTypes": ["Ingress"],
                "ingress": [
                    {
                        "from": [
                            {
                                "namespaceSelector": {
                                    "matchLabels": {"kubernetes.io/metadata.name": "modelport-training"}
                                },
                                "podSelector": {"matchLabels": {"app.kubernetes.io/component": "ray"}},
                            }
                        ],
                        "ports": [{"port": 5000, "protocol": "TCP"}],
                    }
                ],
            },
        ),
        (
            rule(
                subject={},
                direction=Direction.EGRESS,
                peers=[{"cidr": "10.0.0.0/8", "except_cidrs": ["10.1.0.0/16"]}, {"namespace": "other"}],
                ports=[{"port": 1024.0, "end_port": 65535.0, "protocol": "UDP"}],
            ),
            {
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [
                    {
                        "to": [
                            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}},
                        ],
                        "ports": [{"port": 1024, "protocol": "UDP", "endPort": 65535}],
                    }
                ],
            },
        ),
        (
            rule(peers=[{"labels": {"a": "b"}}]),
            {
                "podSelector": {"matchLabels": {"app.kubernetes.io/component": "mlflow"}},
                "policyTypes": ["Ingress"],
                "ingress": [
                    {
                        "from": [{"podSelector": {"matchLabels": {"a": "b"}}}],
                        "ports": [{"port": 5000, "protocol": "TCP"}],
                    }
                ],
            },
        ),
        (
            rule(subject={}, direction=Direction.EGRESS, peers=[{"anywhere": True}]),
            {
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [{"ports": [{"port": 5000, "protocol": "TCP"}]}],
            },
        ),
    ],
    ids=["pods of another namespace", "addresses and a range", "pods of its own namespace", "anywhere"],
)
def test_a_rule_becomes_a_policy(given, expected):
    assert network_policy(given) == expected


def test_a_rule_without_peers_lets_nobody_through():
    # Kubernetes reads an empty list of peers as everybody.
    assert network_policy(rule(peers=[]))["ingress"] == []


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ([RULE, RULE], "more than one policy of the name mlflow-ingress"),
        ([rule(name="default-deny")], "more than one policy of the name default-deny"),
        ([rule(ports=[])], "names no port"),
        ([rule(peers=[{}])], "would be everybody"),
        ([rule(peers=[{"cidr": "10.0.0.0/8", "namespace": "x"}])], "both addresses and pods"),
        ([rule(peers=[{"anywhere": False}])], "would be everybody"),
        ([rule(peers=[{"anywhere": True, "namespace": "x"}])], "is anywhere, and says more"),
        ([rule(peers=[{"anywhere": True}, {"namespace": "x"}])], "is anywhere, and says more"),
        ([rule(peers=[{"namespace": "x", "except_cidrs": ["10.0.0.0/8"]}])], "except_cidrs and no cidr"),
    ],
)
def test_what_kubernetes_would_take_for_more_than_was_meant_is_refused(rules, complaint):
    with pytest.raises(ValueError, match=complaint):
        check({"namespace": "x", "rules": rules})


def test_pods_are_restricted_and_the_network_starts_at_deny():
    found = {(each.kind, each.name): each.inputs for each in build()}
    labels = found["Namespace", "registry"]["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert labels[f"pod-security.kubernetes.io/{mode}-version"] == "latest"

    deny = found["NetworkPolicy", "registry-default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (dns,) = found["NetworkPolicy", "registry-allow-dns"]["spec"]["egress"]
    assert dns["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    policies = [inputs["metadata"]["name"] for (kind, _), inputs in found.items() if kind == "NetworkPolicy"]
    assert sorted(policies) == ["allow-dns", "default-deny", "mlflow-ingress"]


def test_quota_is_there_when_it_is_asked_for_and_labels_are_on_everything():
    plain = build()
    assert not [each for each in plain if each.kind == "ResourceQuota"]
    found = build(quota={"requests.memory": "8Gi"}, labels={"modelport.dev/stack": "dev"})
    (quota,) = [each for each in found if each.kind == "ResourceQuota"]
    assert quota.inputs["spec"]["hard"] == {"requests.memory": "8Gi"}
    objects = [each for each in found if each.kind != "SecureNamespace"]
    assert len(objects) == 6
    for each in objects:
        assert each.inputs["metadata"]["labels"]["modelport.dev/stack"] == "dev", each.name


def test_containers_that_say_nothing_get_requests_and_limits():
    (limits,) = limit_range({"memory_limit": "2Gi"})["limits"]
    assert limits["type"] == "Container"
    assert limits["default"]["memory"] == "2Gi"
    assert set(limits["default"]) == set(limits["defaultRequest"]) == {"cpu", "memory", "ephemeral-storage"}
