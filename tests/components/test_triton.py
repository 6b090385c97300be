"""What a pool of servers makes in a cluster, and what a change of it touches."""

import json
import re
from pathlib import Path

import pytest

from components.triton import (
    TritonPool,
    desired_document,
    disruption_budget,
    mebibytes,
    pool_pod,
    queue_query,
    rolling_update,
    server_arguments,
)
from modelport.contract import Precision
from modelport.serving.agent.source import Entry, parse_versions
from tests.components.recording import record

DIGEST = "ab" * 32

ARGS = {
    "namespace": "serving",
    "pool": "polyp-seg",
    "models": ["polyp_seg"],
    "image": "nvcr.io/nvidia/tritonserver:25.09-py3",
    "platform_image": "registry.example/platform:1.0.0",
    "connection_secret": "connection-agent-1",
    "admin_key_secret": "triton-admin-1",
    "desired": {"polyp_seg": ""},
    "replicas": {"min": 2, "max": 2},
    "cpus": 2,
    "memory": "4Gi",
    "gpus": 0,
    "labels": {"modelport.dev/owner": "gastro", "modelport.dev/stack": "dev"},
}
SCALED = {
    "replicas": {"min": 1, "max": 5},
    "autoscaling": {"prometheus_url": "http://prometheus.monitoring.svc:9090", "queue_ms": 50},
}
GPU = {
    "gpus": 1,
    "placement": {
        "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
}


def pool(**changes):
    return record(lambda: TritonPool("polyp-seg", {**ARGS, **changes}))


def only(resources, kind):
    (found,) = [r for r in resources if r.kind == kind]
    return found.inputs


def pod(**changes):
    return only(pool(**changes), "Deployment")["spec"]["template"]


def server(template):
    (container,) = template["spec"]["containers"]
    return container


def agent(template):
    (container,) = template["spec"]["initContainers"]
    return container


def desired(resources):
    return json.loads(only(resources, "ConfigMap")["data"]["desired.json"])


def test_the_agent_understands_what_it_is_told():
    document = desired_document(["a", "b", "c"], {"a": DIGEST}, {"c": "int8"})
    expected = {"a": Entry(DIGEST), "b": Entry(None), "c": Entry(None, Precision.INT8)}
    assert parse_versions(document, Path("desired.json")) == expected


@pytest.mark.parametrize(
    ("models", "pins", "document"),
    [
        (["polyp_seg"], {}, {"polyp_seg": None}),
        (["polyp_seg"], {"polyp_seg": ""}, {"polyp_seg": None}),
        (["b", "a"], {"a": DIGEST}, {"a": DIGEST, "b": None}),
        ([], {}, {}),
    ],
)
def test_each_model_is_pinned_or_follows_its_promotion_log(models, pins, document):
    assert json.loads(desired_document(models, pins, {})) == document


def test_a_pin_of_a_model_that_the_pool_does_not_have_is_refused():
    with pytest.raises(ValueError, match="cxr_detect"):
        desired_document(["polyp_seg"], {"cxr_detect": DIGEST}, {})
    with pytest.raises(ValueError, match="precisions are desired of cxr_detect"):
        desired_document(["polyp_seg"], {}, {"cxr_detect": "int8"})


@pytest.mark.parametrize(
    "change",
    [
        {"desired": {"polyp_seg": DIGEST}},
        {"models": ["polyp_seg", "cxr_detect"], "desired": {}},
        {"precision": {"polyp_seg": "int8"}},
    ],
    ids=["promotion", "one model more", "another precision"],
)
def test_what_is_served_changes_without_a_restart(change):
    before, after = pool(), pool(**change)
    assert desired(before) != desired(after)
    untouched = [
        {r.name: r.inputs for r in side if r.kind not in ("ConfigMap", "TritonPool")} for side in (before, after)
    ]
    assert untouched[0] == untouched[1]


def test_the_agent_reads_what_is_desired_from_the_mounted_object():
    resources = pool()
    template = only(resources, "Deployment")["spec"]["template"]
    sources = [
        source for volume in template["spec"]["volumes"] for source in volume.get("projected", {}).get("sources", [])
    ]
    (mounted,) = [source["configMap"] for source in sources if "configMap" in source]
    (mount,) = [m["mountPath"] for m in agent(template)["volumeMounts"] if m["name"] == "modelport"]
    assert mounted["name"] == only(resources, "ConfigMap")["metadata"]["name"]
    assert f"--source={mount}/{mounted['items'][0]['path']}" in agent(template)["command"]
    # A file mounted by itself would never follow its object.
    assert not any("subPath" in m for m in agent(template)["volumeMounts"])


def test_both_work_on_one_repository():
    template = pod()
    folders = [
        [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "repository"]
        for container in (server(template), agent(template))
    ]
    assert folders[0] == folders[1]
    assert f"--model-repository={folders[0][0]}" in server(template)["args"]
    assert f"--repository={folders[1][0]}" in agent(template)["command"]


def test_the_admin_key_is_only_ever_referred_to():
    template = pod()
    (key,) = [variable for variable in server(template)["env"] if variable["name"] == "TRITON_ADMIN_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": "triton-admin-1", "key": "admin-key"}}
    protected = [argument for argument in server(template)["args"] if "restricted" in argument]
    assert len(protected) == 2
    assert all(argument.endswith("=$(TRITON_ADMIN_KEY)") for argument in protected)
    for endpoint in ("model-repository", "model-config", "shared-memory", "statistics", "trace", "logging"):
        assert all(endpoint in argument for argument in protected)


def test_inference_and_health_are_not_behind_the_admin_key():
    protected = " ".join(argument for argument in server_arguments() if "restricted" in argument)
    assert not re.search(r"\b(inference|health|metadata)\b", protected)


@pytest.mark.parametrize(("drain", "grace"), [(None, 70), (0, 30), (120, 150)])
def test_there_is_time_to_drain_to_exit_and_for_the_agent(drain, grace):
    template = pod(**({} if drain is None else {"drain_seconds": drain}))
    asleep = server(template)["lifecycle"]["preStop"]["sleep"]["seconds"]
    (exit_argument,) = [a for a in server(template)["args"] if a.startswith("--exit-timeout-secs=")]
    leaving = int(exit_argument.split("=")[1])
    assert asleep == (40 if drain is None else drain)
    assert template["spec"]["terminationGracePeriodSeconds"] == grace
    assert grace - asleep - leaving >= 10


def test_the_agent_starts_first_ends_last_and_says_when_the_replica_is_ready():
    container = agent(pod())
    assert container["restartPolicy"] == "Always"
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8090}
    # Triton starts after it: waiting here for a release that Triton has to load first would never end.
    assert "startupProbe" not in container


@pytest.mark.parametrize(("gpus", "at_least"), [(0, 120), (1, 600)])
def test_a_server_may_take_its_time_to_start(gpus, at_least):
    probe = server(pod(gpus=gpus))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= at_least


def test_a_pool_on_processors_asks_for_no_gpu():
    template = pod()
    assert "nvidia.com/gpu" not in json.dumps(template)
    assert "--gpu" not in agent(template)["command"]


def test_where_there_are_others_a_server_keeps_what_was_superseded_until_the_slowest_has_the_new_one():
    scaling = {"prometheus_url": "http://prometheus:9090", "queue_ms": 20.0}
    assert not [word for word in agent(pod(replicas={"min": 1, "max": 1}))["command"] if word.startswith("--grace")]
    for replicas in ({"min": 2, "max": 2}, {"min": 1, "max": 4}):
        assert "--grace=60" in agent(pod(replicas=replicas, autoscaling=scaling))["command"]


def test_a_pool_on_gpus_asks_for_them_where_they_are():
    template = pod(**GPU)
    assert server(template)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in agent(template)["resources"]["limits"]
    assert template["spec"]["nodeSelector"] == GPU["placement"]["node_selector"]
    assert template["spec"]["tolerations"] == GPU["placement"]["tolerations"]
    assert "--gpu" in agent(template)["command"]


@pytest.mark.parametrize(("shared", "size"), [(None, "1Gi"), ("2Gi", "2Gi")])
def test_shared_memory_is_memory(shared, size):
    template = pod(**({"shared_memory": shared} if shared else {}))
    (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == "shm"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": size}
    assert {"name": "shm", "mountPath": "/dev/shm"} in server(template)["volumeMounts"]


def test_shared_memory_that_leaves_too_little_is_refused():
    with pytest.raises(ValueError, match="more than half"):
        pod(memory="1536Mi")


def test_volumes_fit_into_the_disk_that_is_asked_for():
    template = pod(storage="10Gi")
    disk = sum(
        mebibytes(container["resources"]["limits"]["ephemeral-storage"])
        for container in (server(template), agent(template))
    )
    volumes = [v["emptyDir"] for v in template["spec"]["volumes"] if "emptyDir" in v]
    assert sum(mebibytes(v["sizeLimit"]) for v in volumes if v.get("medium") != "Memory") < disk


def test_every_container_is_restricted():
    template = pod()
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert template["spec"]["automountServiceAccountToken"] is False
    for container in (server(template), agent(template)):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= container["resources"].keys()


@pytest.mark.parametrize(
    ("least", "budget"), [(1, {"maxUnavailable": 1}), (2, {"minAvailable": 1}), (5, {"minAvailable": 4})]
)
def test_a_drain_takes_one_server_at_a_time(least, budget):
    found = disruption_budget(least)
    assert budget.items() <= found.items()
    assert found["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize(
    ("surge", "strategy"),
    [(True, {"maxSurge": 1, "maxUnavailable": 0}), (False, {"maxSurge": 0, "maxUnavailable": 1})],
)
def test_updates_need_one_more_server_or_one_less(surge, strategy):
    assert rolling_update(surge) == strategy
    assert only(pool(surge=surge), "Deployment")["spec"]["strategy"]["rollingUpdate"] == strategy


def test_a_fixed_pool_is_not_scaled():
    resources = pool()
    assert only(resources, "Deployment")["spec"]["replicas"] == 2
    assert "ScaledObject" not in {r.kind for r in resources}


def test_a_pool_with_a_range_is_scaled_by_keda_alone():
    resources = pool(**SCALED)
    assert "replicas" not in only(resources, "Deployment")["spec"]
    spec = only(resources, "ScaledObject")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 5)
    assert spec["scaleTargetRef"]["name"] == only(resources, "Deployment")["metadata"]["name"]
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["threshold"] == "50"
    assert trigger["metadata"]["serverAddress"] == SCALED["autoscaling"]["prometheus_url"]
    assert 'namespace="serving"' in trigger["metadata"]["query"]


@pytest.mark.parametrize("replicas", [{"min": 0, "max": 1}, {"min": 3, "max": 2}, {"min": 1, "max": 4}])
def test_replicas_that_make_no_sense_are_refused(replicas):
    with pytest.raises(ValueError, match="replicas"):
        pool(replicas=replicas)


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("triton-a-6d4b9c7f5-x2x4k", True),
        ("triton-a-b-6d4b9c7f5-x2x4k", False),
        ("triton-ab-6d4b9c7f5-x2x4k", False),
    ],
)
def test_a_pool_is_scaled_by_its_own_queues(name, counted):
    (expression,) = set(re.findall(r'pod=~"([^"]+)"', queue_query("triton-a", "serving")))
    assert bool(re.fullmatch(expression, name)) is counted


def test_clients_resolve_every_replica():
    resources = pool()
    service = only(resources, "Service")["spec"]
    labels = only(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["clusterIP"] == "None"
    assert service["selector"].items() <= labels.items()
    assert {port["name"]: port["port"] for port in service["ports"]} == {
        "http": 8000,
        "grpc": 8001,
        "metrics": 8002,
        "agent": 8090,
    }


def test_two_pools_do_not_select_each_others_servers():
    mine, other = pool(), pool(pool="cxr-detect")
    selector = only(mine, "Deployment")["spec"]["selector"]["matchLabels"]
    assert selector == only(mine, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= only(other, "Deployment")["spec"]["template"]["metadata"]["labels"].items()


def test_outputs_are_addresses_inside_the_cluster():
    said = {}

    def build():
        made = TritonPool("polyp-seg", ARGS)  # pyright: ignore[reportArgumentType]
        for name in ("service", "http", "grpc", "agent_url", "deployment"):
            getattr(made, name).apply(lambda value, name=name: said.update({name: value}))

    record(build)
    assert said == {
        "service": "triton-polyp-seg",
        "http": "triton-polyp-seg.serving.svc:8000",
        "grpc": "triton-polyp-seg.serving.svc:8001",
        "agent_url": "http://triton-polyp-seg.serving.svc:8090",
        "deployment": "triton-polyp-seg",
    }


def test_pulumi_does_not_wait_for_a_release_that_is_not_there_yet():
    assert only(pool(), "Deployment")["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"


def test_everything_says_whose_it_is():
    resources = pool(**SCALED)
    for resource in resources:
        if not resource.type.startswith("modelport:"):
            assert ARGS["labels"].items() <= resource.inputs["metadata"]["labels"].items()
    found = pod()["metadata"]["labels"]
    assert ARGS["labels"].items() <= found.items()
    assert found["app.kubernetes.io/component"] == "triton"
    assert found["modelport.dev/pool"] == "polyp-seg"


def test_numbers_of_other_languages_arrive_as_floats():
    template = pool_pod({**ARGS, "gpus": 1.0, "drain_seconds": 10.0, "cpus": 2.0})
    assert server(template)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert server(template)["resources"]["requests"]["cpu"] == "2"
    assert json.loads(json.dumps(template), parse_float=pytest.fail) == template
