"""Training on Kubernetes: KubeRay's operator, and for each model what it takes to train it once, again, and regularly.

A training is an action, not a resource: Pulumi makes the RayJob's template and Jobs that submit it, never a RayJob. It
makes an account that every RayJob of the model belongs to, though, and goes with.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes

from components import labels, pods, versions
from components.charts import chart_release
from components.labels import Component
from components.placement import NodePlacement, placement_of
from components.pods import Manifest, typed
from components.ray_job import (
    BUNDLE_FILE,
    BUNDLE_PATH,
    TEMPLATE_FILE,
    TEMPLATE_PATH,
    RayJobPlan,
    RayPods,
    environment,
    given,
    ray_job,
)
from components.versions import Chart

_OPERATOR = "kuberay-operator"
_OPERATOR_USER = 65532

_WAIT_SECONDS = 6 * 3600
_POLL_MINUTES = 30
_NEVER = "0 0 1 1 *"
_SUBMIT_SECONDS = 1800
"""Submitting takes seconds; this allows for a node and an image to come first."""
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}
_WAIT_FOR_OWNED = {"pulumi.com/deletionPropagationPolicy": "foreground"}
_END_TIME = "15m"
"""How long trainings may take to end when their model goes; a node that was lost holds its pods for minutes."""
_API_GROUP = "rbac.authorization.k8s.io"


class KubeRayOperatorArgs(TypedDict):
    """What `KubeRayOperator` needs."""

    namespace: pulumi.Input[str]
    """Namespace that the operator lives in; it exists."""
    watch_namespaces: list[str]
    """Namespaces whose RayJobs it runs, at least one; they exist. It has no rights anywhere else."""
    labels: NotRequired[dict[str, str]]
    """Labels beyond the standard ones, such as stack and owner."""


class KubeRayOperator(pulumi.ComponentResource):
    """KubeRay's operator and its CRDs, from its Helm chart."""

    ready: pulumi.Output[str]
    """Name of the Helm release, known once the operator is there."""

    def __init__(self, name: str, args: KubeRayOperatorArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        values = operator_values(args["watch_namespaces"], args.get("labels"))
        super().__init__("modelport:index:KubeRayOperator", name, {**args}, opts)
        release = chart_release(self, name, Chart.KUBERAY, args["namespace"], values)
        self.ready = release.name.apply(lambda installed: installed or name)
        self.register_outputs({"ready": self.ready})


def operator_values(watch_namespaces: Sequence[str], extra: Mapping[str, str] | None = None) -> Manifest:
    """Values of the operator's chart: rights in the watched namespaces only, the restricted standard, fixed resources.

    Raises:
        ValueError: no namespace is watched, which the chart would take for all of them.
    """
    if not watch_namespaces:
        raise ValueError("watch_namespaces is empty: name the namespaces whose RayJobs the operator may run")
    repository, _, tag = versions.reference(versions.Image.KUBERAY_OPERATOR).partition(":")
    resources = pods.Resources(0.1, "512Mi", cpu_limit=1.0, storage="256Mi")
    # The chart makes the other standard labels itself, and says a label that is given twice twice.
    own = {labels.NAME, labels.COMPONENT, labels.MANAGED_BY}
    given_labels = labels.labels_for(_OPERATOR, Component.KUBERAY_OPERATOR, extra)
    return {
        "nameOverride": _OPERATOR,
        "fullnameOverride": _OPERATOR,
        "componentOverride": Component.KUBERAY_OPERATOR.value,
        "labels": {key: value for key, value in given_labels.items() if key not in own},
        "image": {"repository": repository, "tag": tag},
        "watchNamespace": list(watch_namespaces),
        "singleNamespaceInstall": True,
        "rbacEnable": True,
        "crNamespacedRbacEnable": True,
        "resources": resources.manifest(),
        "podSecurityContext": pods.pod_security(_OPERATOR_USER),
        "securityContext": pods.container_security(),
    }


class TrainingWorkers(TypedDict):
    """The pods that train."""

    count: int
    """How many there are."""
    cpus: float
    """Processor cores of each."""
    gpus: int
    """GPUs of each."""
    memory: str
    """Memory of each, a Kubernetes quantity."""
    storage: NotRequired[str]
    """Local disk of each, for datasets, a Kubernetes quantity [default: 8Gi]."""


class TrainingHead(TypedDict):
    """The pod that drives a training and exports its release."""

    cpus: float
    """Processor cores."""
    memory: str
    """Memory, a Kubernetes quantity."""


HEAD: TrainingHead = {"cpus": 1.0, "memory": "4Gi"}
"""Where nothing is said: Ray's own processes, the driver, and the export of the release."""


class TrainingArgs(TypedDict):
    """What `Training` needs."""

    namespace: pulumi.Input[str]
    """Namespace of trainings; KubeRay's operator watches it."""
    model: str
    """Name of the model as a DNS name; objects are named after it."""
    model_name: str
    """Name of the model as the command line knows it."""
    image: pulumi.Input[str]
    """The platform image."""
    bundle: str
    """The model folder's code: a gzipped tar in base64."""
    code_version: str
    """What the code is known by, in hexadecimal; a new one is trained once."""
    connection_secret: pulumi.Input[str]
    """Secret whose key ``connection.json`` is the trainer's connection."""
    data_uri: str
    """Where the dataset is, ``s3://BUCKET/datasets/NAME``."""
    workers: TrainingWorkers
    """The pods that train."""
    head: NotRequired[TrainingHead]
    """The pod that drives them [default: 1 core, 4Gi]."""
    placement: NotRequired[NodePlacement]
    """Nodes of the workers [default: any]."""
    head_placement: NotRequired[NodePlacement]
    """Nodes of the head and of what submits [default: any]; best not those that may be taken away."""
    spot: bool
    """Whether nodes may be taken away: with its head lost, a training goes on in a new cluster from its checkpoint."""
    time_limit_seconds: int
    """How long a training may take."""
    wait_seconds: NotRequired[int]
    """How long a training may wait for its nodes, behind others or while a pool grows [default: 6 hours]."""
    max_failures: int
    """With `spot`: how often a failed training begins again."""
    schedule: NotRequired[str]
    """Cron expression (UTC) of regular retraining [default: never]."""
    data_poll: NotRequired[str]
    """Cron expression of looks for new data [default: every 30 minutes]."""
    suspended: NotRequired[bool]
    """Whether nothing is submitted until somebody does it by hand [default: false]."""
    ray_version: str
    """Ray's version in the image."""
    labels: NotRequired[dict[str, str]]
    """Labels beyond the standard ones, such as stack and owner."""


class Training(pulumi.ComponentResource):
    """The capability to train one model, and the trigger that trains each version of its code once.

    Quotas are the namespace's: what all models may use together is limited there.
    """

    template_config_map: pulumi.Output[str]
    """Name of the ConfigMap whose ``rayjob.json`` is the RayJob's template."""
    trigger_job: pulumi.Output[str]
    """Name of the Job that submitted this version of the code; empty while `suspended`."""
    submit_command: pulumi.Output[str]
    """Command that trains again."""

    def __init__(self, name: str, args: TrainingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        model, namespace = args["model"], args["namespace"]
        extra = {labels.MODEL: args["model_name"], **args.get("labels", {})}
        suspended = args.get("suspended", False)
        # Whatever is wrong with the arguments shows before anything is made.
        trigger, bundle = trigger_name(model, args["code_version"]), bundle_name(model, args["bundle"])
        ray_account, template, account = f"{model}-ray", f"{model}-rayjob", f"{model}-trigger"
        job = ray_job(_plan(args, bundle=bundle, service_account=ray_account, extra=extra))
        super().__init__("modelport:index:Training", name, {**args}, opts)
        mine = pulumi.ResourceOptions(parent=self)

        def metadata(object_name: str, component: Component) -> Manifest:
            return {
                "name": object_name,
                "namespace": namespace,
                "labels": labels.labels_for(model, component, extra),
            }

        # RayJobs go with it: it is never another one as long as the stack has the model, whatever changes in what is
        # trained, and it is gone when they are, while the operator is still there to end them.
        owner = kubernetes.core.v1.ServiceAccount(
            f"{name}-ray",
            metadata=typed({**metadata(ray_account, Component.RAY), "annotations": _WAIT_FOR_OWNED}),
            automount_service_account_token=False,
            opts=pulumi.ResourceOptions(parent=self, custom_timeouts=pulumi.CustomTimeouts(delete=_END_TIME)),
        )
        # Whatever submits goes before it: nothing is trained any more for a model that goes.
        submits = pulumi.ResourceOptions(parent=self, depends_on=[owner])
        prepared: list[pulumi.Resource] = [
            owner,
            kubernetes.core.v1.ConfigMap(
                f"{name}-bundle",
                metadata=typed(metadata(bundle, Component.RAY)),
                binary_data={BUNDLE_FILE: args["bundle"]},
                immutable=True,
                opts=mine,
            ),
            kubernetes.core.v1.ConfigMap(
                f"{name}-template",
                metadata=typed(metadata(template, Component.RAY)),
                data={TEMPLATE_FILE: pulumi.Output.json_dumps(job, sort_keys=True, indent=1)},
                opts=mine,
            ),
            *_trigger_rights(f"{name}-trigger", metadata(account, Component.TRAINING_TRIGGER), ray_account, mine),
        ]

        def submission(option: str) -> Manifest:
            return submit_job(
                args["model_name"],
                option,
                image=args["image"],
                service_account=account,
                mount=given(args["connection_secret"], bundle, template),
                pod_labels=labels.labels_for(model, Component.TRAINING_TRIGGER, extra),
                # On any node: one that has to be started would take minutes for a second's work.
                placement=pods.Placement(),
            )

        if not suspended:
            # Named by the code alone. A Job that ran is never changed: a new image, connection or library is for the
            # next one, and starts no training.
            kubernetes.batch.v1.Job(
                f"{name}-trigger-{code_id(args['code_version'])}",
                metadata=typed({**metadata(trigger, Component.TRAINING_TRIGGER), "annotations": _SKIP_AWAIT}),
                spec=typed(submission("--if-new")),
                opts=pulumi.ResourceOptions(parent=self, depends_on=prepared, ignore_changes=["spec"]),
            )
        kubernetes.batch.v1.CronJob(
            f"{name}-data-poll",
            metadata=typed(metadata(f"{model}-data-poll", Component.TRAINING_TRIGGER)),
            spec=typed(
                cron_job(args.get("data_poll", data_poll(args["model"])), submission("--if-new"), suspended=suspended)
            ),
            opts=submits,
        )
        # There without a schedule too: it is what a person starts.
        schedule, again = args.get("schedule"), f"{model}-train"
        kubernetes.batch.v1.CronJob(
            f"{name}-train",
            metadata=typed(metadata(again, Component.TRAINING_TRIGGER)),
            spec=typed(cron_job(schedule or _NEVER, submission("--again"), suspended=suspended or not schedule)),
            opts=submits,
        )
        self.template_config_map = pulumi.Output.from_input(template)
        self.trigger_job = pulumi.Output.from_input("" if suspended else trigger)
        self.submit_command = pulumi.Output.format(
            "kubectl create job --namespace {0} --from=cronjob/{1} {1}-$(date +%s)", namespace, again
        )
        self.register_outputs(
            {
                "template_config_map": self.template_config_map,
                "trigger_job": self.trigger_job,
                "submit_command": self.submit_command,
            }
        )


def _trigger_rights(name: str, metadata: Manifest, owner: str, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """The one account of a model that has rights: to submit RayJobs, to see which there are, and whose they are."""
    rules: Any = [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": [owner], "verbs": ["get"]},
    ]
    subjects: Any = [{"kind": "ServiceAccount", "name": metadata["name"], "namespace": metadata["namespace"]}]
    return [
        kubernetes.core.v1.ServiceAccount(
            name, metadata=typed(metadata), automount_service_account_token=False, opts=opts
        ),
        kubernetes.rbac.v1.Role(name, metadata=typed(metadata), rules=rules, opts=opts),
        kubernetes.rbac.v1.RoleBinding(
            name,
            metadata=typed(metadata),
            role_ref=typed({"apiGroup": _API_GROUP, "kind": "Role", "name": metadata["name"]}),
            subjects=subjects,
            opts=opts,
        ),
    ]


def bundle_name(model: str, bundle: str) -> str:
    """Name of the ConfigMap of a bundle: other content, another name."""
    return f"{model}-bundle-{hashlib.sha256(bundle.encode()).hexdigest()[:10]}"


def trigger_name(model: str, code_version: str) -> str:
    """Name of the Job that trains a version of the code once.

    Raises:
        ValueError: `code_version` is not a digest.
    """
    return f"{model}-trigger-{code_id(code_version)}"


def code_id(code_version: str) -> str:
    """The start of a code version, as names have it.

    Raises:
        ValueError: `code_version` is not a digest.
    """
    if not re.fullmatch(r"[0-9a-f]{8,64}", code_version):
        raise ValueError(f"code_version {code_version!r} is not a digest in hexadecimal")
    return code_version[:8]


def data_poll(model: str) -> str:
    """Cron expression of every half hour, at minutes of the model's own: a hundred of them do not ask at once."""
    minute = int(hashlib.sha256(model.encode()).hexdigest(), 16) % _POLL_MINUTES
    return f"{minute},{minute + _POLL_MINUTES} * * * *"


def submit_job(
    model_name: str,
    option: str,
    *,
    image: pulumi.Input[str],
    service_account: pulumi.Input[str],
    mount: pods.Mount,
    pod_labels: Mapping[str, str],
    placement: pods.Placement,
) -> Manifest:
    """Spec of a Job that submits a training.

    Args:
        model_name: The model, as the command line knows it.
        option: ``--if-new`` or ``--again``.
        image: The platform image.
        service_account: Whose rights it has.
        mount: Connection, bundle and template.
        pod_labels: Labels of its pod.
        placement: Where it runs.
    """
    container = pods.Container(
        name="submit",
        image=image,
        resources=pods.Resources(0.1, "512Mi"),
        command=["modelport", "submit", model_name, "--template", TEMPLATE_PATH, "--bundle", BUNDLE_PATH, option],
        env=environment(),
        mounts=[pods.scratch(), mount],
    )
    return {
        "backoffLimit": 3,
        "activeDeadlineSeconds": _SUBMIT_SECONDS,
        "template": pods.pod_template(
            [container],
            labels=pod_labels,
            service_account=service_account,
            placement=placement,
            api_access=True,
            restart_policy="OnFailure",
        ),
    }


def cron_job(schedule: str, job: Manifest, *, suspended: bool) -> Manifest:
    """Spec of a CronJob that runs one `job` at a time, by the clock of UTC."""
    return {
        "schedule": schedule,
        "timeZone": "Etc/UTC",
        "suspend": suspended,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 600,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"metadata": {"labels": job["template"]["metadata"]["labels"]}, "spec": job},
    }


def _plan(
    args: TrainingArgs,
    *,
    bundle: pulumi.Input[str],
    service_account: pulumi.Input[str],
    extra: Mapping[str, str],
) -> RayJobPlan:
    workers = args["workers"]
    head = args.get("head") or HEAD
    return RayJobPlan(
        model=args["model"],
        model_name=args["model_name"],
        namespace=args["namespace"],
        image=args["image"],
        service_account=service_account,
        connection_secret=args["connection_secret"],
        bundle=bundle,
        data_uri=args["data_uri"],
        head=RayPods(head["cpus"], head["memory"], placement=placement_of(args.get("head_placement"))),
        workers=RayPods(
            workers["cpus"],
            workers["memory"],
            int(workers["gpus"]),
            int(workers["count"]),
            workers.get("storage", RayPods.storage),
            placement_of(args.get("placement")),
        ),
        spot=args["spot"],
        wait_seconds=int(args.get("wait_seconds", _WAIT_SECONDS)),
        time_limit_seconds=int(args["time_limit_seconds"]),
        max_failures=int(args["max_failures"]),
        ray_version=args["ray_version"],
        labels=extra,
    )
