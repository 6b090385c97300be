"""The tools answer offline, and what they answer is understood."""

import pytest

from tests.policy.checks import Connection, network_matrix, parse_matrix, promql_errors, run_checkov


def namespace(name):
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
    }


def pod(namespace, name, image="example.org/image:1"):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }


def policy(namespace, name, spec):
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def test_policies_evaluate_to_what_both_ends_allow():
    serving, registry = {"matchLabels": {"app": "gateway"}}, {"matchLabels": {"app": "store"}}
    across = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "registry"}}}
    back = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "serving"}}, "podSelector": serving}
    found = network_matrix(
        [
            policy("serving", "deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
            policy("registry", "deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
            policy(
                "serving",
                "out",
                {
                    "podSelector": serving,
                    "policyTypes": ["Egress"],
                    "egress": [
                        {
                            "to": [across],
                            "ports": [
                                {"port": 9000, "protocol": "TCP"},
                                {"port": 80, "endPort": 90, "protocol": "TCP"},
                            ],
                        }
                    ],
                },
            ),
            policy(
                "registry",
                "in",
                {
                    "podSelector": registry,
                    "policyTypes": ["Ingress"],
                    "ingress": [{"from": [back], "ports": [{"port": 9000}, {"port": 80, "endPort": 85}, {"port": 22}]}],
                },
            ),
        ],
        [namespace("serving"), namespace("registry")],
        [pod("serving", "gateway"), pod("serving", "triton"), pod("registry", "store"), pod("registry", "mlflow")],
    )
    assert found == {
        Connection("serving/gateway", "registry/store", "TCP", 9000, 9000),
        Connection("serving/gateway", "registry/store", "TCP", 80, 85),
    }


def test_without_policies_everything_is_allowed():
    deny = policy("a", "nobody", {"podSelector": {"matchLabels": {"app": "nobody"}}, "policyTypes": ["Ingress"]})
    found = network_matrix([deny], [namespace("a")], [pod("a", "one"), pod("a", "two")])
    assert Connection("a/one", "a/two", "TCP", 1, 65535) in found


def test_a_line_that_nobody_knows_is_not_passed_over():
    with pytest.raises(ValueError, match="not understood"):
        parse_matrix("a/one => a/two : {protocols:all but ICMP}")


def test_checkov_finds_what_is_wrong_and_keeps_to_the_explained_skips():
    failed = run_checkov([pod("a", "one", image="example.org/image:latest")], {})
    assert {"CKV_K8S_14", "CKV_K8S_20"} <= {failure.check for failure in failed}  # tag; privilege escalation
    assert all(failure.resource == "Pod.a.one" for failure in failed if failure.check == "CKV_K8S_14")
    skipped = run_checkov(
        [pod("a", "one", image="example.org/image:latest")],
        {"CKV_K8S_14": "this test wants the other failures", "CKV_K8S_1": "nothing here is a policy"},
    )
    assert "CKV_K8S_14" not in {failure.check for failure in skipped}
    assert [failure.name for failure in skipped if failure.check == "CKV_K8S_1"] == ["is skipped, but nothing fails it"]


def test_a_skip_needs_a_reason():
    with pytest.raises(AssertionError, match="say why"):
        run_checkov([pod("a", "one")], {"CKV_K8S_14": ""})


def test_promql_is_parsed():
    assert promql_errors(["sum by (a) (rate(x_total[5m])) > 1", "up == 0"]) == []
    assert len(promql_errors(["sum by (a (rate(x[5m]))", "up"])) == 1
