"""What a stack may say, and what is told when it says something else."""

from pathlib import Path

import pytest
import yaml

from components import gateway, mlflow, object_args, postgres
from infra.models import load_models
from infra.platform import asked, key_generations
from infra.settings import GkeSettings, gcp_settings, parse
from infra.workload import head, platform_pods, precisions
from modelport.errors import BadInput

PROJECT = Path(__file__).resolve().parents[2]

RIGHT = {
    "owner": "platform",
    "image": "registry.example.org/modelport/platform:0.1.0",
    "cluster": {"kind": "existing", "nodes": {"all": {"cpus": 4, "memory": "8Gi"}}},
}


def changed(**changes):
    return {**RIGHT, **changes}


def gke(**changes):
    return changed(
        cluster={"kind": "gke", "node_pools": {"gpu": {"accelerator": "nvidia-l4", "maximum": 1, **changes}}}
    )


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_stacks_in_the_repository_are_valid(stack):
    config = yaml.safe_load((PROJECT / "stacks" / f"Pulumi.{stack}.yaml").read_text())["config"]
    settings = parse({key.removeprefix("modelport:"): value for key, value in config.items()}, stack)
    assert isinstance(settings.cluster, GkeSettings)
    assert settings.protect == (stack == "prod")


@pytest.mark.parametrize(
    ("values", "key", "said"),
    [
        ({k: v for k, v in RIGHT.items() if k != "owner"}, "modelport:owner", "is not set"),
        (changed(ownr="x"), "modelport:ownr", "is not a known key"),
        (changed(image="platform"), "modelport:image", "pattern"),
        (changed(triton_image="tritonserver"), "modelport:triton_image", "pattern"),
        (changed(image="registry.example.org:5000/platform"), "modelport:image", "pattern"),
        (changed(cluster={"kind": "eks"}), "modelport:cluster", "tag"),
        (changed(cluster={"nodes": {}}), "modelport:cluster", "is not set"),
        (changed(cluster={"kind": "existing", "nodes": {}}), "modelport:cluster.nodes", "at least 1"),
        (changed(store={"engine": "ceph"}), "modelport:store.engine", "minio"),
        (changed(store={"engine": "gcs"}), "modelport", "needs cluster.kind: gke"),
        (changed(database={"engine": "cloud-sql"}), "modelport", "needs cluster.kind: gke"),
        (changed(gateway={"hostname": "a.example.org"}), "modelport:gateway", "missing: gateway_class, issuer"),
        ({k: v for k, v in RIGHT.items() if k != "image"}, "modelport", "image is not set"),
        (gke(sharing="mps"), "modelport:cluster.node_pools.gpu.sharing", "time-sharing"),
        (changed(gateway={"callers": []}), "modelport:gateway.callers", "at least 1"),
        (changed(versions={"polyp_seg": "v7"}), "modelport:versions.polyp_seg", "pattern"),
        (changed(rotation={"everything": 2}), "modelport:rotation", "there is no 'everything'; there are: reader"),
        (changed(rotation={"gateway/nobody": 2}), "modelport", "rotation.gateway/nobody: gateway.callers has default"),
        (changed(access={"admin": ["a"]}), "modelport:access", "there is no 'admin'; there are: reader, trainer"),
        (changed(access={"gateway/nobody": ["a"]}), "modelport", "access.gateway/nobody: gateway.callers has"),
        (
            changed(cluster={"kind": "gke"}, access={"trainer": ["system:serviceaccounts:a", "people@example.org"]}),
            "modelport",
            "access.trainer: GKE knows no group people@example.org without cluster.security_group",
        ),
        (changed(models={"polyp_seg": {"serve": {"replica": 2}}}), "modelport:models.polyp_seg.serve.replica", "known"),
        (
            changed(models={"polyp_seg": {"serve": {"precision": "int4"}}}),
            "modelport:models.polyp_seg.serve.precision",
            "int8",
        ),
        (
            changed(monitoring={"receivers": {"default": "hooks.example.org/secret"}}),
            "modelport:monitoring.receivers.default",
            "is no address such as https://",
        ),
        (changed(monitoring={"receivers": "https://x.org/secret"}), "modelport:monitoring.receivers", "dictionary"),
        (
            changed(models={"polyp_seg": {"load_test": {"rat": 2}}}),
            "modelport:models.polyp_seg.load_test.rat",
            "known here: rate, seconds, users",
        ),
        (gke(accelerator="nvidia-b9000"), "modelport:cluster.node_pools.gpu.accelerator", "nvidia-l4"),
        (gke(maximum=0), "modelport:cluster.node_pools.gpu.maximum", "greater"),
        (gke(use=["everything"]), "modelport:cluster.node_pools.gpu.use.0", "'training'"),
    ],
)
def test_a_wrong_key_is_named_with_how_to_set_it(values, key, said):
    with pytest.raises(BadInput) as caught:
        parse(values, "dev")
    assert caught.value.key == key
    assert said in str(caught.value)
    assert caught.value.file == "stacks/dev/Pulumi.dev.yaml"
    assert caught.value.remedy
    assert "secret" not in str(caught.value), "who knows where alerts go can write there"


@pytest.mark.parametrize(
    ("rotation", "generations"),
    [
        ({}, (1, 1)),
        ({"gateway": 2}, (2, 2)),
        ({"gateway/hospital": 2}, (2, 1)),
        ({"gateway": 2, "gateway/hospital": 2}, (3, 2)),
    ],
)
def test_one_callers_key_is_rotated_without_the_others(rotation, generations):
    settings = parse(changed(gateway={"callers": ["hospital", "road"]}, rotation=rotation), "dev")
    found = key_generations(settings.gateway.callers, settings.rotation)
    assert found == dict(zip(("hospital", "road"), generations, strict=True))


@pytest.mark.parametrize(
    ("group", "cluster"),
    [
        ("people@example.org", {"kind": "gke", "security_group": "gke-security-groups@example.org"}),
        ("system:serviceaccounts:a", {"kind": "gke"}),
        ("people", RIGHT["cluster"]),
    ],
)
def test_a_group_that_the_cluster_knows_may_have_access(group, cluster):
    assert parse(changed(cluster=cluster, access={"reader": [group]}), "dev").access == {"reader": (group,)}


def test_only_a_precision_that_the_stack_says_reaches_the_servers():
    names = {"polyp_seg": {"serve": {"precision": "int8"}}}
    for models, said in ((names, {"polyp_seg": "int8"}), ({}, {})):
        loaded = load_models(PROJECT, parse(changed(models=models), "dev"))
        assert precisions(loaded) == said
    (model,) = [model for model in load_models(PROJECT, parse(changed(models=names), "dev")) if model.name in names]
    assert model.spec.serve.precision == "int8"


def test_a_misspelt_key_lists_the_known_ones():
    with pytest.raises(BadInput) as caught:
        parse(changed(models={"polyp_seg": {"serve": {"replica": 2}}}), "dev")
    assert "replicas" in (caught.value.remedy or "")


def test_every_wrong_key_is_told_at_once():
    with pytest.raises(BadInput) as caught:
        parse(changed(owner="", protect="perhaps"), "dev")
    assert "modelport:owner" in str(caught.value)
    assert "modelport:protect" in str(caught.value)


@pytest.mark.parametrize(
    ("project", "region", "key"),
    [(None, "europe-west4", "gcp:project"), ("p", None, "gcp:region"), ("", "r", "gcp:project")],
)
def test_project_and_region_must_be_set(project, region, key):
    with pytest.raises(BadInput) as caught:
        gcp_settings(project, region)
    assert caught.value.key == key
    assert f"pulumi config set {key}" in str(caught.value)


def test_a_small_cluster_says_what_each_part_asks_for_and_the_capacity_is_reckoned_with_it():
    small = {"cpus": 0.1, "memory": "512Mi"}
    settings = parse(changed(store=small, database=small, tracking=small, gateway={**small, "replicas": 2}), "here")
    said = {part: (pods, cpus, memory) for part, pods, cpus, memory in platform_pods(settings)}
    assert [said[part] for part in ("object store", "PostgreSQL", "MLflow")] == [(1, 0.1, "512Mi")] * 3
    assert said["gateway"] == (2, 0.1, "512Mi")
    assert asked(settings.store) == {"cpu": 0.1, "memory": "512Mi"}
    assert asked(parse(RIGHT, "here").store) == {}, "what is not said is the component's to decide"


def test_the_capacity_is_reckoned_with_what_components_and_charts_ask_for():
    def reckoned(**changes):
        return {part: (cpus, memory) for part, _, cpus, memory in platform_pods(parse(changed(**changes), "here"))}

    found = reckoned(operators={"cert_manager": True})
    for part, default in (
        ("object store", object_args.RESOURCES),
        ("PostgreSQL", postgres.RESOURCES),
        ("MLflow", mlflow.RESOURCES),
        ("gateway", gateway.RESOURCES),
    ):
        assert found[part] == (default.cpu, default.memory)
    assert found["KEDA"] == (0.25, "896Mi"), "operator, metrics server and webhooks"
    assert {"KubeRay", "cert-manager", "Prometheus", "Grafana and others"} <= set(found)
    assert not {"KEDA", "Prometheus", "cert-manager"} & set(reckoned(monitoring={"enabled": False}))


@pytest.mark.parametrize(
    ("said", "load"),
    [
        (True, (4, None, 60)),
        ({}, (4, None, 60)),
        ({"rate": 20, "seconds": 600}, (4, 20, 600)),
        (False, None),
        (None, None),
    ],
)
def test_a_load_test_is_as_usual_or_as_the_stack_says(said, load):
    found = parse(changed(models={"polyp_seg": {"load_test": said}}), "here").models["polyp_seg"].load_test
    assert (found and (found.users, found.rate, found.seconds)) == load


def test_the_pod_that_drives_a_training_can_be_smaller():
    override = {"polyp_seg": {"train": {"head_cpus": 0.2, "head_memory": "3Gi"}}}
    settings = parse(changed(models=override), "here")
    sizes = {model.name: head(model) for model in load_models(PROJECT, settings)}
    assert sizes["polyp_seg"] == (0.2, "3Gi")
    assert sizes["dry_wet"] == (1.0, "4Gi")
