"""The RayJob that trains a model, rendered. Every pod that KubeRay makes of it is under the restricted standard.

KubeRay adds to what is rendered here: probes, /dev/shm, the token of the cluster, and an init container of the workers
that takes image, environment and security context from the worker itself.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components import labels, pods
from components.connection import FILE as CONNECTION_FILE
from components.connection import MOUNT
from components.labels import Component
from components.pods import Manifest

BUNDLE_FILE = "bundle.tar.gz"
TEMPLATE_FILE = "rayjob.json"
BUNDLE_PATH = f"{MOUNT}/bundle/{BUNDLE_FILE}"
TEMPLATE_PATH = f"{MOUNT}/template/{TEMPLATE_FILE}"

RELEASE_SECONDS = 900
"""For the export of the release, which comes after the training's own time limit."""

_OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Small messages only: examples and checkpoints are files."""
_KEEP_CLUSTER_SECONDS = 30
_NO_EVICTION = "cluster-autoscaler.kubernetes.io/safe-to-evict"


@dataclass(frozen=True)
class RayPods:
    """Like pods of one Ray cluster."""

    cpus: float
    """Processor cores of each."""
    memory: str
    """Kubernetes quantity."""
    gpus: int = 0
    count: int = 1
    storage: str = "8Gi"
    """Local disk of each, for datasets and Ray's own files; a Kubernetes quantity."""
    placement: pods.Placement = field(default_factory=pods.Placement)


@dataclass(frozen=True)
class RayJobPlan:
    """What a training is made of."""

    model: str
    """As a DNS name."""
    model_name: str
    """As Python and the command line know it."""
    namespace: pulumi.Input[str]
    image: pulumi.Input[str]
    service_account: pulumi.Input[str]
    connection_secret: pulumi.Input[str]
    bundle: pulumi.Input[str]
    """Name of the ConfigMap with the bundle."""
    data_uri: str
    head: RayPods
    workers: RayPods
    spot: bool
    wait_seconds: int
    """How long a training may wait for its nodes, behind others or while the pool grows."""
    time_limit_seconds: int
    """How long it may train; the command ends itself then, and KubeRay ends what hangs."""
    max_failures: int
    ray_version: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Beyond the standard ones: model, owner, stack."""


def ray_job(plan: RayJobPlan) -> Manifest:
    """The RayJob, complete but for its name, which is for whoever creates it to choose.

    Lost workers are replaced and go on from the last checkpoint. On machines that may be taken away the head can be
    lost too: then, and only then, a failed job begins again with a new cluster, as often as workers may be lost.
    """
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "namespace": plan.namespace,
            "labels": labels.labels_for(plan.model, Component.RAY, plan.labels),
        },
        "spec": {
            "entrypoint": entrypoint(plan),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEEP_CLUSTER_SECONDS,
            "backoffLimit": plan.max_failures if plan.spot else 0,
            "preRunningDeadlineSeconds": plan.wait_seconds,
            "activeDeadlineSeconds": plan.wait_seconds + plan.time_limit_seconds + RELEASE_SECONDS,
            "submitterPodTemplate": _submitter(plan),
            "rayClusterSpec": {
                "rayVersion": plan.ray_version,
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": False,
                "headGroupSpec": {
                    # No training worker is ever put beside the driver.
                    "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0", **_ray_memory()},  # noqa: S104
                    "template": _ray_pod(plan, "ray-head", plan.head),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": plan.workers.count,
                        "minReplicas": plan.workers.count,
                        "maxReplicas": plan.workers.count,
                        # What a worker asks of Ray, and no more, so that each gets a pod of its own.
                        "rayStartParams": {"num-cpus": str(max(1, int(plan.workers.cpus))), **_ray_memory()},
                        "template": _ray_pod(plan, "ray-worker", plan.workers),
                    }
                ],
            },
        },
    }


def entrypoint(plan: RayJobPlan) -> str:
    """What Ray runs on the head; the workers that it asks for are those that there are pods for."""
    return shlex.join(
        [
            "modelport",
            "train",
            plan.model_name,
            "--bundle",
            BUNDLE_PATH,
            "--data",
            plan.data_uri,
            "--checkpoints",
            "s3",
            "--workers",
            str(plan.workers.count),
            "--set",
            f"train.workers.cpus={plan.workers.cpus:g}",
            "--set",
            f"train.workers.gpus={plan.workers.gpus}",
        ]
    )


def given(
    connection_secret: pulumi.Input[str],
    bundle: pulumi.Input[str] | None = None,
    template: pulumi.Input[str] | None = None,
) -> pods.Mount:
    """One read-only folder with the connection, the bundle and the template; the latter two from ConfigMaps."""
    sources: list[Manifest] = [
        {"secret": {"name": connection_secret, "items": [{"key": CONNECTION_FILE, "path": CONNECTION_FILE}]}}
    ]
    for name, file, path in ((bundle, BUNDLE_FILE, BUNDLE_PATH), (template, TEMPLATE_FILE, TEMPLATE_PATH)):
        if name is not None:
            item = {"key": file, "path": path.removeprefix(f"{MOUNT}/")}
            sources.append({"configMap": {"name": name, "items": [item]}})
    return pods.Mount("modelport", MOUNT, {"projected": {"sources": sources, "defaultMode": 0o440}}, read_only=True)


def environment(*, connection: bool = True) -> Sequence[Manifest]:
    """Environment of every process of the platform image, with or without the platform's connection."""
    common = [pods.variable("HOME", "/tmp"), pods.variable("ORT_DISABLE_TELEMETRY", "1")]  # noqa: S108
    if not connection:
        return common
    return [*common, pods.variable("MODELPORT_CONNECTION", f"{MOUNT}/{CONNECTION_FILE}")]


def _ray_memory() -> dict[str, str]:
    return {"object-store-memory": str(_OBJECT_STORE_BYTES)}


def _ray_pod(plan: RayJobPlan, name: str, group: RayPods) -> Manifest:
    container = pods.Container(
        name=name,
        image=plan.image,
        resources=pods.Resources(group.cpus, group.memory, gpus=group.gpus, storage=group.storage),
        env=[*environment(), pods.variable("RAY_USAGE_STATS_ENABLED", "0")],
        mounts=[pods.scratch(size=group.storage), given(plan.connection_secret, plan.bundle)],
    )
    return pods.pod_template(
        [container],
        labels=_pod_labels(plan, Component.RAY),
        service_account=plan.service_account,
        # An autoscaler that tidies up nodes would take a training away.
        annotations={_NO_EVICTION: "false"},
        placement=group.placement,
    )


def _submitter(plan: RayJobPlan) -> Manifest:
    container = pods.Container(
        name="ray-job-submitter",
        image=plan.image,
        resources=pods.Resources(0.1, "512Mi"),
        env=[*environment(connection=False), pods.variable("RAY_USAGE_STATS_ENABLED", "0")],
        mounts=[pods.scratch()],
    )
    return pods.pod_template(
        [container],
        labels=_pod_labels(plan, Component.RAY_SUBMITTER),
        service_account=plan.service_account,
        placement=plan.head.placement,
        restart_policy="Never",
    )


def _pod_labels(plan: RayJobPlan, component: Component) -> dict[str, str]:
    # KubeRay's Services select heads by the name that it gives to its pods itself.
    return {
        key: value for key, value in labels.labels_for(plan.model, component, plan.labels).items() if key != labels.NAME
    }
