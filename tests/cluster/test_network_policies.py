"""NetworkPolicies between pods that really ask each other, on the cluster of one node or on the user's own.

Its own it is where ``MODELPORT_TEST_KUBECONFIG`` says so: see ``docs/cluster-on-one-machine.md``.
"""

import secrets
from typing import Any

import pytest

from tests.cluster.client import Client
from tests.cluster.existing import Existing, existing_kubeconfig
from tests.cluster.probes import PORT, ask, get_pod, pod, probe, reaches, run, service

DENIED = ("permission denied", "no route to host", "connection refused", "prohibited", "Timeout", "deadline exceeded")
"""What a connection that is not allowed ends with: rejected here, with most enforcers never answered."""


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Any:
    """The user's cluster where one is named, otherwise one of our own."""
    named = existing_kubeconfig()
    if named is None:
        yield request.getfixturevalue("one_node")
        return
    with Existing(named) as existing:
        yield existing


@pytest.fixture
def guarded(cluster: Client, room: str) -> str:
    """A namespace where nothing is allowed but DNS, with pods `web`, `friend` and `stranger`."""
    cluster.apply(service(room, "web"))
    run(cluster, room, *(pod(room, name, probe("serve", str(PORT))) for name in ("web", "friend", "stranger")))
    reaches(cluster, room, "stranger", "http://web/")
    dns = {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        "ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")],
    }
    cluster.apply(policy(room, "closed", {}, ingress=[], egress=[dns]))
    cluster.wait_for("enforcer", "closes the namespace", lambda: is_denied(cluster, room, "stranger", "http://web/"))
    return room


def test_only_the_declared_pair_passes(cluster: Client, guarded: str) -> None:
    entry = {"from": [{"podSelector": app("friend")}], "ports": [{"port": "http"}]}
    way = {"to": [{"podSelector": app("web")}], "ports": [{"port": PORT}]}
    cluster.apply(
        policy(guarded, "in", app("web"), ingress=[entry]), policy(guarded, "out", app("friend"), egress=[way])
    )
    reaches(cluster, guarded, "friend", "http://web/")

    web, friend = (get_pod(cluster, guarded, name)["status"]["podIP"] for name in ("web", "friend"))
    for who, url in (
        ("stranger", "http://web/"),
        ("stranger", f"http://{web}:{PORT}/"),
        ("web", f"http://{friend}:{PORT}/"),
        ("stranger", f"http://{friend}:{PORT}/"),
    ):
        assert is_denied(cluster, guarded, who, url), f"{who} at {url}"


def test_a_pod_of_another_namespace_comes_in_by_its_labels(cluster: Client, guarded: str) -> None:
    other = f"{guarded}-{secrets.token_hex(2)}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other, "labels": {"may": "in"}}})
    try:
        run(cluster, other, pod(other, "caller", probe("serve", str(PORT))))
        url = f"http://web.{guarded}/"
        assert is_denied(cluster, other, "caller", url)

        selected = {"namespaceSelector": {"matchExpressions": [{"key": "may", "operator": "In", "values": ["in"]}]}}
        cluster.apply(policy(guarded, "in", app("web"), ingress=[{"from": [selected]}]))
        reaches(cluster, other, "caller", url)
    finally:
        cluster.request("DELETE", f"/api/v1/namespaces/{other}")


def test_the_api_server_is_reached_by_who_may(cluster: Client, guarded: str) -> None:
    url = "https://kubernetes.default/"
    assert is_denied(cluster, guarded, "friend", url)

    cluster.apply(policy(guarded, "out", app("friend"), egress=[to_the_api_server(cluster)]))

    cluster.wait_for(
        "enforcer", "lets it reach the API server", lambda: "certificate" in ask(cluster, guarded, "friend", url)
    )
    assert is_denied(cluster, guarded, "stranger", url)


def test_a_pod_that_comes_later_is_under_the_policies(cluster: Client, guarded: str) -> None:
    run(cluster, guarded, pod(guarded, "late", probe("serve", str(PORT))))

    cluster.wait_for("enforcer", "closes it", lambda: is_denied(cluster, guarded, "late", "http://web/"))


def to_the_api_server(cluster: Client) -> dict[str, Any]:
    """A rule for where the API server really is, behind its Service."""
    slices = cluster.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")["items"]
    (found,) = (item for item in slices if item["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes")
    addresses = [address for endpoint in found["endpoints"] for address in endpoint["addresses"]]
    return {
        "to": [{"ipBlock": {"cidr": f"{address}/32"}} for address in addresses],
        "ports": [{"port": port["port"]} for port in found["ports"]],
    }


def is_denied(cluster: Client, namespace: str, name: str, url: str) -> bool:
    """Whether a pod's connection does not come about."""
    answer = ask(cluster, namespace, name, url)
    return any(text in answer for text in DENIED)


def app(name: str) -> dict[str, Any]:
    return {"matchLabels": {"app": name}}


def policy(namespace: str, name: str, subject: dict[str, Any], **rules: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": subject, "policyTypes": [rule.capitalize() for rule in rules], **rules},
    }
