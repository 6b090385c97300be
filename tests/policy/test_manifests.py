"""Manifests of what Pulumi knows, as tools of others read them."""

import json

from tests.policy.manifests import HIDDEN, for_checkov, namespaces, objects, pods, resources_of

RAYJOB = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "train", "namespace": "training"},
    "spec": {
        "submitterPodTemplate": {"spec": {"containers": [{"name": "submit"}]}},
        "rayClusterSpec": {
            "headGroupSpec": {"template": {"spec": {"containers": [{"name": "head"}]}}},
            "workerGroupSpecs": [
                {
                    "template": {
                        "metadata": {"labels": {"a": "b"}},
                        "spec": {"containers": [{"name": "worker", "ports": [{"containerPort": 8080.0}]}]},
                    }
                }
            ],
        },
    },
}


def record(kind, inputs):
    module, name = kind.rsplit(":", 1)
    version = module.split(":")[1].removeprefix("core/")
    return {"type": kind, "urn": f"urn:x::{name}", "inputs": {"apiVersion": version, "kind": name, **inputs}}


RESOURCES = resources_of(
    [
        {"type": "pulumi:providers:kubernetes", "urn": "urn:x::p", "inputs": {"kubeconfig": "secret"}},
        {"type": "kubernetes:helm.sh/v3:Release", "urn": "urn:x::r", "inputs": {"chart": "keda"}},
        record("kubernetes:core/v1:Namespace", {"metadata": {"name": "training", "labels": {"l": "m"}}}),
        record(
            "kubernetes:core/v1:Secret",
            {"metadata": {"name": "s", "namespace": "training"}, "stringData": {"password": "hunter2"}},
        ),
        record(
            "kubernetes:core/v1:ConfigMap",
            {"metadata": {"name": "job", "namespace": "training"}, "data": {"rayjob.json": json.dumps(RAYJOB)}},
        ),
        record(
            "kubernetes:apps/v1:Deployment",
            {
                "metadata": {"name": "d", "namespace": "serving", "annotations": None},
                "spec": {"replicas": 2.0, "template": {"spec": {"containers": [{"name": "c"}]}}},
            },
        ),
    ]
)


def test_objects_are_what_an_api_server_would_get():
    found = {manifest["kind"]: manifest for manifest in objects(RESOURCES)}
    assert set(found) == {"Namespace", "Secret", "ConfigMap", "Deployment"}
    assert found["Secret"]["stringData"] == {"password": HIDDEN}
    assert found["Deployment"]["spec"]["replicas"] == 2
    assert isinstance(found["Deployment"]["spec"]["replicas"], int)
    assert "annotations" not in found["Deployment"]["metadata"]


def test_pods_inside_of_a_rayjob_that_a_config_map_carries():
    found = {pod["metadata"]["name"]: pod for pod in pods(RESOURCES)}
    assert set(found) == {
        "d-spec-template",
        "job-data-rayjob-json-spec-submitterpodtemplate",
        "job-data-rayjob-json-spec-rayclusterspec-headgroupspec-template",
        "job-data-rayjob-json-spec-rayclusterspec-workergroupspecs-0-template",
    }
    worker = found["job-data-rayjob-json-spec-rayclusterspec-workergroupspecs-0-template"]
    assert worker["metadata"]["namespace"] == "training"
    assert worker["metadata"]["labels"] == {"a": "b"}
    assert worker["spec"]["containers"][0]["ports"] == [{"containerPort": 8080}]


def test_checkov_gets_a_pod_only_where_it_would_not_look():
    assert sorted(manifest["metadata"]["name"] for manifest in for_checkov(RESOURCES) if manifest["kind"] == "Pod") == [
        "job-data-rayjob-json-spec-rayclusterspec-headgroupspec-template",
        "job-data-rayjob-json-spec-rayclusterspec-workergroupspecs-0-template",
        "job-data-rayjob-json-spec-submitterpodtemplate",
    ]


def test_namespaces_have_the_label_that_policies_select_by():
    assert [manifest["metadata"]["labels"] for manifest in namespaces(RESOURCES)] == [
        {"l": "m", "kubernetes.io/metadata.name": "training"}
    ]
