"""Which table of nftables a set of NetworkPolicies becomes."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.policies import TABLE, render, replacing, selects

HOME, AWAY = "home", "away"


def pod(address: str, app: str, namespace: str = HOME, **more: Any) -> dict[str, Any]:
    container = {"name": "main", "ports": more.pop("ports", [])}
    return {
        "metadata": {"namespace": namespace, "name": app, "labels": {"app": app}},
        "spec": {"containers": [container], **more.pop("spec", {})},
        "status": {"podIP": address, "phase": "Running", **more},
    }


WEB = pod("10.0.0.1", "web", ports=[{"name": "http", "containerPort": 8080}])
API = pod("10.0.0.2", "api", ports=[{"name": "http", "containerPort": 9090}])
FAR = pod("10.0.1.1", "far", AWAY, ports=[{"name": "http", "containerPort": 7070}])
NAMESPACES = [{"metadata": {"name": name, "labels": {"room": name}}} for name in (HOME, AWAY)]


def policy(selector: dict[str, Any] | None = None, *types: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": HOME, "name": "p"},
        "spec": {"podSelector": selector or {}, "policyTypes": list(types), **spec},
    }


def app(name: str) -> dict[str, Any]:
    return {"matchLabels": {"app": name}}


def table(*policies: dict[str, Any], pods: tuple[dict[str, Any], ...] = (WEB, API, FAR)) -> dict[str, list[str]]:
    """Rules of each chain."""
    return {name: list(rules) for name, rules in render(policies, pods, NAMESPACES).items()}


def allowed(chain: list[str]) -> list[str]:
    """What a pod's chain lets through, without the pod itself; the rest is rejected."""
    assert chain[0].startswith("ip ")
    assert chain[-1].startswith("reject")
    assert all(rule.endswith("return") for rule in chain[:-1])
    return [rule.removesuffix("return").strip() for rule in chain[1:-1]]


def test_without_policies_everything_passes() -> None:
    chains = table()
    assert set(chains) == {"forward", "input"}
    assert not any("jump" in rule for rules in chains.values() for rule in rules)


def test_one_table_becomes_another_in_one_step_in_which_the_hooks_stay(machine: None, tmp_path: Path) -> None:
    closed = policy(app("web"), "Ingress")
    before, after = table(closed), table(closed, pods=(API, FAR))
    (tmp_path / "before").write_text(replacing({}, before))
    (tmp_path / "after").write_text(replacing(before, after))
    steps = f"nft -f before && nft -a list table {TABLE} && echo --- && nft -f after && nft -a list table {TABLE}"
    command = ["unshare", "--net", "sh", "-c", steps]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    then, now = done.stdout.split("---\n")

    assert "ip daddr 10.0.0.1 jump ingress-10-0-0-1" in then
    assert "10-0-0-1" not in now
    for hook in ("forward", "input"):
        (handle,) = re.findall(rf"chain {hook} {{ (# handle \d+)", then)
        assert f"chain {hook} {{ {handle}\n" in now, "a packet can meet two chains of a hook, and the rules of neither"


def test_who_is_selected_gets_a_chain_for_the_direction_and_nobody_else() -> None:
    chains = table(policy(app("web"), "Ingress", "Egress"))

    assert set(chains) == {"forward", "input", "ingress-10-0-0-1", "egress-10-0-0-1"}
    assert chains["ingress-10-0-0-1"] == ["ip saddr 10.0.0.1 return", "reject with icmpx admin-prohibited"]
    assert allowed(chains["egress-10-0-0-1"]) == []
    assert chains["forward"][1:] == [
        "ct state established,related accept",
        "ip saddr 10.0.0.1 jump egress-10-0-0-1",
        "ip daddr 10.0.0.1 jump ingress-10-0-0-1",
    ]
    assert chains["input"][2:] == ["ip saddr 10.0.0.1 jump egress-10-0-0-1"], "the node, and the API server on it"


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        pytest.param({}, [""], id="everybody, everything"),
        pytest.param({"from": [{"podSelector": {}}]}, ["ip saddr { 10.0.0.1, 10.0.0.2 }"], id="own namespace"),
        pytest.param({"from": [{"podSelector": app("api")}]}, ["ip saddr { 10.0.0.2 }"], id="by label"),
        pytest.param({"from": [{"podSelector": app("far")}]}, [], id="a label that only other namespaces have"),
        pytest.param({"from": [{"namespaceSelector": {}}]}, ["ip saddr { 10.0.0.1, 10.0.0.2, 10.0.1.1 }"], id="all"),
        pytest.param(
            {"from": [{"namespaceSelector": {"matchLabels": {"room": AWAY}}, "podSelector": app("far")}]},
            ["ip saddr { 10.0.1.1 }"],
            id="both",
        ),
        pytest.param(
            {"from": [{"namespaceSelector": {"matchLabels": {"room": AWAY}}, "podSelector": app("api")}]},
            [],
            id="both have to hold",
        ),
        pytest.param(
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}]},
            ["ip saddr 10.0.0.0/8 ip saddr != 10.1.0.0/16 ip saddr != 10.2.0.0/16"],
            id="addresses but some",
        ),
        pytest.param({"from": [{"ipBlock": {"cidr": "fd00::/8"}}]}, [], id="no pod has such an address"),
        pytest.param({"ports": [{"port": 80}]}, ["tcp dport 80"], id="port"),
        pytest.param({"ports": [{"port": 80, "endPort": 90}]}, ["tcp dport 80-90"], id="ports"),
        pytest.param({"ports": [{"protocol": "UDP"}]}, ["meta l4proto udp"], id="protocol"),
        pytest.param({"ports": [{"port": "http"}]}, ["tcp dport 8080"], id="port by name"),
        pytest.param({"ports": [{"port": "http", "protocol": "UDP"}]}, [], id="a name of another protocol"),
        pytest.param({"ports": [{"port": "grpc"}]}, [], id="a name that it does not have"),
        pytest.param(
            {
                "from": [{"podSelector": app("api")}, {"ipBlock": {"cidr": "10.9.0.0/16"}}],
                "ports": [{"port": 1}, {"port": 2}],
            },
            [
                "ip saddr { 10.0.0.2 } tcp dport 1",
                "ip saddr { 10.0.0.2 } tcp dport 2",
                "ip saddr 10.9.0.0/16 tcp dport 1",
                "ip saddr 10.9.0.0/16 tcp dport 2",
            ],
            id="each with each",
        ),
    ],
)
def test_what_a_rule_lets_in(rule: dict[str, Any], matches: list[str]) -> None:
    chains = table(policy(app("web"), "Ingress", ingress=[rule]))

    assert allowed(chains["ingress-10-0-0-1"]) == matches


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        pytest.param({"to": [{"podSelector": app("api")}]}, ["ip daddr { 10.0.0.2 }"], id="pods"),
        pytest.param(
            {"to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}], "ports": [{"port": 6443}]},
            ["ip daddr 192.0.2.10/32 tcp dport 6443"],
            id="the API server, where it really is",
        ),
        pytest.param(
            {"to": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]},
            [
                "ip daddr 10.0.0.1 tcp dport 8080",
                "ip daddr 10.0.0.2 tcp dport 9090",
                "ip daddr 10.0.1.1 tcp dport 7070",
            ],
            id="a name means what the called one understands by it",
        ),
    ],
)
def test_what_a_rule_lets_out(rule: dict[str, Any], matches: list[str]) -> None:
    chains = table(policy(app("web"), "Egress", egress=[rule]))

    assert allowed(chains["egress-10-0-0-1"]) == matches


def test_policies_of_one_pod_add_up_and_say_nothing_twice() -> None:
    first = policy(None, "Ingress", ingress=[{"ports": [{"port": 1}]}])
    second = policy(app("web"), "Ingress", ingress=[{"ports": [{"port": 1}, {"port": 2}]}])
    chains = table(first, second)

    assert allowed(chains["ingress-10-0-0-1"]) == ["tcp dport 1", "tcp dport 2"]
    assert allowed(chains["ingress-10-0-0-2"]) == ["tcp dport 1"]
    assert "ingress-10-0-1-1" not in chains, "it is in another namespace"


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        (pod("10.0.0.3", "new", phase="Pending"), True),
        (pod("10.0.0.3", "done", phase="Succeeded"), False),
        (pod("10.0.0.3", "failed", phase="Failed"), False),
        (pod("10.0.0.3", "node", spec={"hostNetwork": True}), False),
        (pod("", "starting", phase="Pending"), False),
    ],
    ids=["starting", "succeeded", "failed", "on the node's network", "without an address"],
)
def test_only_pods_with_an_address_of_their_own_count(other: dict[str, Any], counts: bool) -> None:
    rules = allowed(
        table(policy(app("web"), "Ingress", ingress=[{"from": [{"podSelector": {}}]}]), pods=(WEB, other))[
            "ingress-10-0-0-1"
        ]
    )

    assert ("10.0.0.3" in rules[0]) is counts


def test_a_policy_that_names_no_types_is_about_what_it_has_rules_for() -> None:
    nameless = policy(app("web"), egress=[])
    del nameless["spec"]["policyTypes"]

    assert {"ingress-10-0-0-1", "egress-10-0-0-1"} <= set(table(nameless))
    del nameless["spec"]["egress"]
    assert "egress-10-0-0-1" not in table(nameless)


@pytest.mark.parametrize(
    ("expression", "yes"),
    [
        ({"key": "tier", "operator": "In", "values": ["a", "b"]}, True),
        ({"key": "tier", "operator": "In", "values": ["b"]}, False),
        ({"key": "tier", "operator": "NotIn", "values": ["b"]}, True),
        ({"key": "none", "operator": "NotIn", "values": ["b"]}, True),
        ({"key": "tier", "operator": "Exists"}, True),
        ({"key": "none", "operator": "Exists"}, False),
        ({"key": "none", "operator": "DoesNotExist"}, True),
        ({"key": "tier", "operator": "DoesNotExist"}, False),
    ],
)
def test_expressions(expression: dict[str, Any], yes: bool) -> None:
    assert selects({"matchExpressions": [expression]}, {"tier": "a"}) is yes
    assert not selects({"matchLabels": {"tier": "z"}, "matchExpressions": [expression]}, {"tier": "a"})


def test_an_operator_that_nobody_knows_is_told() -> None:
    with pytest.raises(ValueError, match="'Like'"):
        selects({"matchExpressions": [{"key": "a", "operator": "Like"}]}, {})
