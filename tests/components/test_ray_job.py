"""The RayJob as KubeRay and the API server's admission will see it."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from components.pods import Placement
from components.ray_job import RayJobPlan, RayPods, ray_job

GPU_NODES = Placement(
    {"cloud.google.com/gke-accelerator": "nvidia-l4"},
    [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
)

PLAN = RayJobPlan(
    model="polyp-seg",
    model_name="polyp_seg",
    namespace="training",
    image="registry.example/platform:1.0.0",
    service_account="polyp-seg-ray",
    connection_secret="connection-trainer-1",
    bundle="polyp-seg-bundle-0123456789",
    data_uri="s3://modelport/datasets/polyps",
    head=RayPods(1, "4Gi"),
    workers=RayPods(2.5, "8Gi", gpus=1, count=3, placement=GPU_NODES),
    spot=True,
    wait_seconds=3600,
    time_limit_seconds=7200,
    max_failures=2,
    ray_version="2.60.0",
    labels={"modelport.dev/owner": "gastro", "modelport.dev/stack": "dev", "modelport.dev/model": "polyp_seg"},
)


def pod_templates(job):
    cluster = job["spec"]["rayClusterSpec"]
    return {
        "submitter": job["spec"]["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        "worker": cluster["workerGroupSpecs"][0]["template"],
    }


def main_container(template):
    (container,) = template["spec"]["containers"]
    return container


@pytest.mark.parametrize("pod", ["submitter", "head", "worker"])
def test_every_pod_of_the_job_is_restricted(pod):
    template = pod_templates(ray_job(PLAN))[pod]
    spec, container = template["spec"], main_container(template)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    # The operator copies this one into the init container that it adds to workers.
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert all(volume.keys() & {"emptyDir", "projected"} for volume in spec["volumes"])
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert environment["HOME"] == "/tmp"
    assert writable == ["/tmp"]


def test_only_pods_that_train_hold_the_connection():
    sources = {
        pod: [
            source["secret"]["name"]
            for volume in template["spec"]["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
            if "secret" in source
        ]
        for pod, template in pod_templates(ray_job(PLAN)).items()
    }
    assert sources == {"submitter": [], "head": ["connection-trainer-1"], "worker": ["connection-trainer-1"]}


def test_the_bundle_and_the_connection_are_where_the_command_looks():
    template = pod_templates(ray_job(PLAN))["head"]
    container = main_container(template)
    (given,) = [volume for volume in template["spec"]["volumes"] if "projected" in volume]
    (folder,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == given["name"]]
    files = {
        str(Path(folder) / item["path"]): (kind, content["name"], item["key"])
        for source in given["projected"]["sources"]
        for kind, content in source.items()
        for item in content["items"]
    }
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    command = shlex.split(ray_job(PLAN)["spec"]["entrypoint"])
    assert files[environment["MODELPORT_CONNECTION"]] == ("secret", "connection-trainer-1", "connection.json")
    assert files[command[command.index("--bundle") + 1]] == ("configMap", PLAN.bundle, "bundle.tar.gz")


def test_the_training_asks_for_the_workers_that_there_are_pods_for():
    job = ray_job(PLAN)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[:3] == ["modelport", "train", "polyp_seg"]
    assert command[command.index("--data") + 1] == "s3://modelport/datasets/polyps"
    assert command[command.index("--checkpoints") + 1] == "s3"
    assert command[command.index("--workers") + 1] == "3"
    assert {"train.workers.cpus=2.5", "train.workers.gpus=1"} <= set(command)
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 3


@pytest.mark.parametrize(("cpus", "offered"), [(0.5, "1"), (1, "1"), (2.5, "2"), (8, "8")])
def test_a_worker_offers_ray_what_one_training_process_takes(cpus, offered):
    job = ray_job(replace(PLAN, workers=RayPods(cpus, "4Gi")))
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["rayStartParams"]["num-cpus"] == offered


def test_no_training_process_runs_on_the_head():
    assert ray_job(PLAN)["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_gpus_and_gpu_nodes_are_the_workers_alone():
    templates = pod_templates(ray_job(PLAN))
    with_gpus = {pod for pod, t in templates.items() if "nvidia.com/gpu" in main_container(t)["resources"]["limits"]}
    placed = {pod for pod, t in templates.items() if t["spec"].get("nodeSelector")}
    assert with_gpus == placed == {"worker"}
    assert templates["worker"]["spec"]["tolerations"] == GPU_NODES.tolerations
    assert main_container(templates["worker"])["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_job_without_gpus_names_none():
    assert "nvidia.com/gpu" not in str(ray_job(replace(PLAN, workers=RayPods(1, "4Gi"))))


@pytest.mark.parametrize(("spot", "begun_again"), [(True, 2), (False, 0)])
def test_a_failed_job_begins_again_only_where_nodes_are_taken_away(spot, begun_again):
    assert ray_job(replace(PLAN, spot=spot))["spec"]["backoffLimit"] == begun_again


def test_a_job_that_waited_for_its_nodes_still_has_its_whole_time():
    spec = ray_job(PLAN)["spec"]
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] + PLAN.time_limit_seconds


def test_the_cluster_asks_for_a_token_and_ends_with_its_job():
    spec = ray_job(PLAN)["spec"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["rayVersion"] == "2.60.0"
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] == "K8sJobMode"


def test_pods_say_whose_they_are_and_keep_the_name_that_kuberays_services_select():
    job = ray_job(PLAN)
    for pod, template in pod_templates(job).items():
        found = template["metadata"]["labels"]
        assert PLAN.labels.items() <= found.items()
        assert "app.kubernetes.io/name" not in found, pod
    components = {pod: t["metadata"]["labels"]["app.kubernetes.io/component"] for pod, t in pod_templates(job).items()}
    assert components == {"submitter": "ray-submitter", "head": "ray", "worker": "ray"}


def test_the_autoscaler_takes_no_node_from_a_training():
    for pod in ("head", "worker"):
        annotations = pod_templates(ray_job(PLAN))[pod]["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
