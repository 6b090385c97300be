"""What holds for every resource of dev and prod: policies, checkov, who may talk to whom, no secret in the open."""

import base64
import json
import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import permutations
from typing import Any

import pytest

from components import ports
from components.labels import NAME, Component
from components.versions import Image
from infra import platform
from infra.network import Flow, Namespace, Party
from infra.settings import Settings
from modelport.cli import cli
from policy.resources import Resource
from policy.rules import RULES, Level, violations
from tests.infra.conftest import RECEIVER, Up
from tests.policy.checks import network_matrix, run_checkov
from tests.policy.manifests import for_checkov, namespaces, objects, pods, policies, resources_of

STACKS = ("dev", "prod")
LEVELS = {rule.name: rule.level for rule in RULES}

CHECKOV_SKIPS = {
    "CKV_K8S_43": "`make pin-images` writes digests where a registry is in reach; the policy lists what has none",
    "CKV_K8S_15": "tags are immutable, and digests come; pulling always would need a registry to restart a pod",
    "CKV_K8S_40": "user 1000 is the image's own; the restricted standard keeps it apart from the host's",
    "CKV_K8S_35": "Triton, PostgreSQL and MinIO take these from the environment only",
    "CKV_K8S_38": "what submits trainings talks to the API server: may list and create RayJobs, and read their owner",
    "CKV_K8S_8": "KubeRay adds its own liveness probes to heads and workers; a submitter ends by itself",
    "CKV_K8S_9": "KubeRay adds its own readiness probes to heads and workers; nobody calls a submitter",
}


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> Up:
    return request.getfixturevalue(request.param)


@cache
def _export(engine: Any, show_secrets: bool) -> str:
    return json.dumps(engine.export(show_secrets=show_secrets))


def records(up: Up, *, show_secrets: bool = True) -> list[dict[str, Any]]:
    return json.loads(_export(up.engine, show_secrets))["deployment"]["resources"]


def resources(up: Up) -> list[Resource]:
    return resources_of(record for record in records(up) if "inputs" in record)


def test_no_policy_is_broken(stack: Up):
    broken = [str(found) for found in violations(resources(stack)) if LEVELS[found.rule] is Level.MANDATORY]
    assert broken == []


def test_what_is_not_pinned_yet_is_listed_and_nothing_else(stack: Up):
    listed = {found.message for found in violations(resources(stack)) if LEVELS[found.rule] is Level.ADVISORY}
    named = {image for image in [*Image, "modelport/platform:0.1.0"] if any(image in message for message in listed)}
    assert all(any(image in message for image in named) for message in listed), listed
    assert "modelport/platform:0.1.0" in named


def test_checkov_finds_nothing_unexplained(stack: Up):
    assert [str(failure) for failure in run_checkov(for_checkov(resources(stack)), CHECKOV_SKIPS)] == []


def test_policies_evaluate_to_the_declared_matrix(stack: Up):
    found = resources(stack)
    everyone = representatives(pods(found))
    flows = platform.flows(stack_settings(stack))
    allowed = network_matrix(policies(found), namespaces(found), everyone)
    inside = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": pod for pod in everyone}
    evaluated = {
        (one.source, one.target, port)
        for one in allowed
        if one.source in inside and one.target in inside and one.protocol == "TCP"
        for port in PROBED
        if one.first <= port <= one.last
    }
    declared = {
        (source, target, port)
        for source, target in permutations(inside, 2)
        for flow in flows
        if is_of(inside[source], flow.source) and is_of(inside[target], flow.target)
        for port in PROBED
        if allows(flow, port)
    }
    assert evaluated - declared == set(), "allowed, and not declared"
    assert declared - evaluated == set(), "declared, and not allowed"
    outward = {one.source for one in allowed if one.source in inside and one.target not in inside and one.first != 53}
    expected = {
        name
        for name, pod in inside.items()
        for flow in flows
        if flow.target.namespace is None and is_of(pod, flow.source)
    }
    assert outward == expected, "who may reach addresses outside of the cluster"


PROBED = sorted(
    {value for name, value in vars(ports).items() if name.isupper() and isinstance(value, int)}
    | {9090, 6443, 9443, 10250, 22, 12345, 60000}
)
"""Ports that are asked about: all that we know of, and some that nobody should have."""


def representatives(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A pod of each kind, and those that charts make."""
    by_name = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": pod for pod in found}
    for namespace, name in (
        (Namespace.OPERATORS, "keda-operator"),
        (Namespace.MONITORING, "prometheus"),
        (Namespace.MONITORING, "alertmanager"),
    ):
        by_name[f"{namespace}/{name}"] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace.value, "labels": {NAME: name}},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }
    return list(by_name.values())


def is_of(pod: Mapping[str, Any], party: Party) -> bool:
    labels = pod["metadata"].get("labels", {})
    return pod["metadata"]["namespace"] == party.namespace and all(labels.get(k) == v for k, v in party.labels)


def allows(flow: Flow, port: int) -> bool:
    return any(port == one if isinstance(one, int) else one[0] <= port <= one[1] for one in flow.ports)


def stack_settings(up: Up) -> Settings:
    config = json.loads(up.engine.run("config", "--json", "--show-secrets", "--stack", up.engine.stack))
    values = {key: entry.get("objectValue", entry["value"]) for key, entry in config.items()}
    return Settings.model_validate(
        {key.removeprefix("modelport:"): value for key, value in values.items() if key.startswith("modelport:")}
    )


def test_no_credential_is_in_the_open(stack: Up):
    generated = [record["outputs"]["result"] for record in records(stack) if record["type"].endswith(":RandomPassword")]
    canaries = {json.loads(value["plaintext"]) if isinstance(value, dict) else value for value in generated}
    assert len(canaries) > 8
    if stack.engine.stack == "prod":
        canaries.add(RECEIVER)
    printed = {"preview": stack.first_preview, "up": stack.first_up}
    open_places = {
        "state": json.dumps(records(stack, show_secrets=False)),
        **{name: made.log + "\n".join(made.diagnostics) for name, made in printed.items() if made is not None},
        "outputs": json.dumps(stack.engine.outputs()),
        "manifests": json.dumps([manifest for manifest in objects(resources(stack)) if manifest["kind"] != "Secret"]),
        "cluster": json.dumps([stack.cluster.get(f"{path}?limit=500") for path in OPEN_KINDS]),
    }
    for canary in canaries:
        assert [place for place, text in open_places.items() if canary in text] == []
    # The search would find them: they are where they belong.
    secrets = [item.get("data", {}) for item in stack.cluster.get("/api/v1/secrets")["items"]]
    held = " ".join(base64.b64decode(value).decode() for data in secrets for value in data.values())
    assert sum(canary in held for canary in canaries) > 8
    assert (RECEIVER in held) == (stack.engine.stack == "prod")


OPEN_KINDS = (
    "/api/v1/configmaps",
    "/api/v1/pods",
    "/api/v1/services",
    "/api/v1/events",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/statefulsets",
    "/apis/batch/v1/jobs",
    "/apis/batch/v1/cronjobs",
    "/apis/monitoring.coreos.com/v1/podmonitors",
    "/apis/monitoring.coreos.com/v1/prometheusrules",
)


def test_every_namespace_enforces_the_restricted_standard(stack: Up):
    items = stack.cluster.get("/api/v1/namespaces")["items"]
    ours = [item["metadata"] for item in items if item["metadata"]["name"].startswith("modelport-")]
    assert len(ours) == len(Namespace)
    for metadata in ours:
        assert metadata["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_pod_of_ours_was_scheduled(stack: Up):
    pending = [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in stack.cluster.get("/api/v1/pods")["items"]
        if pod["metadata"]["namespace"].startswith("modelport-") and not pod["spec"].get("nodeName")
    ]
    assert pending == []


def test_our_own_commands_are_ones_that_our_command_line_knows(stack: Up):
    asked = 0
    for pod in pods(resources(stack)):
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            words = [*container.get("command", []), *container.get("args", [])]
            if words[:1] == ["modelport"]:
                understood(words[1:])
                asked += 1
    for manifest in objects(resources(stack)):
        for text in manifest.get("data", {}).values() if manifest["kind"] == "ConfigMap" else ():
            if '"RayJob"' in str(text):
                understood(shlex.split(json.loads(text)["spec"]["entrypoint"])[1:])
                asked += 1
    assert asked >= 5


def understood(words: list[str]) -> None:
    """Fails when the command line does not take these arguments."""
    command = cli.get_command(cli.make_context("modelport", [], resilient_parsing=True), words[0])
    assert command is not None, words[0]
    # Paths are the pod's, not ours: whether they exist is not asked.
    for parameter in command.params:
        if hasattr(parameter.type, "exists"):
            parameter.type.exists = False
    command.make_context(words[0], list(words[1:]))


def test_what_is_scraped_is_a_port_that_pods_declare(stack: Up):
    monitors = [manifest for manifest in objects(resources(stack)) if manifest["kind"] == "PodMonitor"]
    assert monitors
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"]
        scraped = {endpoint.get("portNumber") for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        matching = [
            pod for pod in pods(resources(stack)) if wanted.items() <= pod["metadata"].get("labels", {}).items()
        ]
        assert matching, monitor["metadata"]["name"]
        if Component.RAY in wanted.values():
            continue  # KubeRay adds the port to its pods: see the test of the operator
        for pod in matching:
            containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
            declared = {port["containerPort"] for container in containers for port in container.get("ports", [])}
            assert scraped <= declared, (monitor["metadata"]["name"], pod["metadata"]["name"])


def test_the_operator_makes_a_training_of_the_template(dev: Up):
    dev.cluster.start_ray_operator()
    maps = dev.cluster.get("/api/v1/namespaces/modelport-training/configmaps")["items"]
    template = next(json.loads(text) for item in maps for text in item.get("data", {}).values() if '"RayJob"' in text)
    template["metadata"].update({"name": "polyp-seg-0123456789ab", "namespace": "modelport-training"})
    path = "/apis/ray.io/v1/namespaces/modelport-training/rayjobs"
    dev.cluster.request("POST", path, template)
    job = f"{path}/polyp-seg-0123456789ab"
    try:
        cluster = dev.cluster.wait_for(
            "ray-operator",
            "makes a ready Ray cluster, all of whose pods keep the restricted standard",
            lambda: dev.cluster.get(job).get("status", {}).get("rayClusterStatus", {}).get("state") == "ready",
        )
        assert cluster
        made = dev.cluster.get("/api/v1/namespaces/modelport-training/pods?labelSelector=ray.io/cluster")["items"]
        assert {pod["metadata"]["labels"]["ray.io/node-type"] for pod in made} == {"head", "worker"}
        for pod in made:
            assert ports.RAY_METRICS in [port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]]
        dev.cluster.end_ray_jobs("SUCCEEDED")
        dev.cluster.wait_for(
            "ray-operator",
            "sees the training succeed",
            lambda: dev.cluster.get(job)["status"].get("jobDeploymentStatus") == "Complete",
        )
    finally:
        dev.cluster.request("DELETE", job)
