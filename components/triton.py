"""Serving: a pool of like Triton servers, each with the agent that makes it serve the desired versions."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as kubernetes

from components import labels, pods, ports
from components.connection import FILE as CONNECTION_FILE
from components.connection import MOUNT
from components.labels import Component
from components.placement import NodePlacement, placement_of
from components.pods import Manifest, typed

DESIRED_FILE = "desired.json"
ADMIN_KEY = "admin-key"
"""Key of the Secret that holds the value of Triton's restricted header."""

AGENT = pods.Resources(0.1, "512Mi", cpu_limit=1.0)
"""What the agent takes of a node beside what the server is given; its disk is the pool's."""

_REPOSITORY, _CACHE = "/models", "/cache"
_STORAGE, _SHARED_MEMORY = "4Gi", "1Gi"
_RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
_ADMIN_VARIABLE = "TRITON_ADMIN_KEY"
_MALLOC = "glibc.malloc.mmap_threshold=268435456:glibc.malloc.trim_threshold=536870912:glibc.malloc.top_pad=67108864"

# The end of a replica: clients find it in DNS for as long as answers are cached, which is 30 s in most clusters, and
# look again only after that; the server then finishes what it works on; the agent goes last.
_DRAIN_SECONDS = 40
_EXIT_SECONDS = 15
_AGENT_SECONDS = 15
_SLOWEST_SECONDS = 60
"""How long a server keeps a superseded release, where there are others: the gateway changes over when the slowest of
them has the new one, and until then asks each for the old one."""
_CPU_START_SECONDS, _GPU_START_SECONDS = 180, 900
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}


class TritonReplicas(TypedDict):
    """How many servers there are."""

    min: int
    """At least, and without `autoscaling` always."""
    max: int
    """At most."""


class TritonAutoscaling(TypedDict):
    """When KEDA adds servers."""

    prometheus_url: pulumi.Input[str]
    """Prometheus that has Triton's metrics, http://host:port."""
    queue_ms: float
    """Milliseconds that requests may wait in the longest of the pool's queues, on average of two minutes."""


class TritonPoolArgs(TypedDict):
    """What `TritonPool` needs."""

    namespace: pulumi.Input[str]
    """Namespace of serving."""
    pool: str
    """Name of the pool as a DNS name; objects are called ``triton-<pool>``."""
    models: list[str]
    """Models that it serves, as the command line knows them."""
    image: pulumi.Input[str]
    """Triton's image; it has ``tritonserver`` on its path."""
    platform_image: pulumi.Input[str]
    """The platform image, for the agent."""
    connection_secret: pulumi.Input[str]
    """Secret whose key ``connection.json`` is the agent's connection; its Triton is 127.0.0.1."""
    admin_key_secret: pulumi.Input[str]
    """Secret whose key ``admin-key`` changes Triton; the agent's connection has the same."""
    desired: dict[str, str]
    """Pinned release by model; empty, or missing, follows the model's promotion log."""
    precision: NotRequired[dict[str, str]]
    """Arithmetic of the network by model (fp32, fp16 or int8); missing takes what the release itself says."""
    replicas: TritonReplicas
    """How many servers there are."""
    cpus: float
    """Processor cores of each."""
    memory: str
    """Memory of each in ``Mi`` or ``Gi``, shared memory included; the agent comes on top."""
    gpus: int
    """GPUs of each; 0 serves on the processor."""
    shared_memory: NotRequired[str]
    """Size of /dev/shm, in ``Mi`` or ``Gi``, at most half of `memory` [default: 1Gi]."""
    storage: NotRequired[str]
    """Local disk for loaded releases, and as much again for fetched ones, in ``Mi`` or ``Gi`` [default: 4Gi]."""
    placement: NotRequired[NodePlacement]
    """Nodes that it may run on [default: any]."""
    autoscaling: NotRequired[TritonAutoscaling]
    """Needed where `replicas` has a range."""
    surge: NotRequired[bool]
    """Whether an update starts a new server before it ends an old one; where no GPU is free for that, say no
    [default: true]."""
    drain_seconds: NotRequired[int]
    """How long a server that is to go still answers, while clients forget it [default: 40]."""
    labels: NotRequired[dict[str, str]]
    """Labels beyond the standard ones, such as stack and owner."""


class TritonPool(pulumi.ComponentResource):
    """Triton servers that serve the same models.

    Other desired versions, and models more or less, change one ConfigMap and restart no pod. Pulumi does not wait for
    replicas to be ready: that may take a node, or a pinned release that somebody has yet to bring into the new store.
    """

    service: pulumi.Output[str]
    """Name of the headless Service, which resolves to every ready replica."""
    http: pulumi.Output[str]
    """host:port of the HTTP API."""
    grpc: pulumi.Output[str]
    """host:port of the gRPC API."""
    agent_url: pulumi.Output[str]
    """URL of the agents, http://host:port; each answer is one replica's."""
    deployment: pulumi.Output[str]
    """Name of the Deployment."""

    def __init__(self, name: str, args: TritonPoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        # Whatever is wrong with the arguments shows before anything is made.
        least, most = replica_range(args)
        document = desired_document(args["models"], args["desired"], args.get("precision", {}))
        template = pool_pod(args)
        super().__init__("modelport:index:TritonPool", name, {**args}, opts)
        pool, full, namespace = args["pool"], f"triton-{args['pool']}", args["namespace"]
        extra = {labels.POOL: pool, **args.get("labels", {})}
        selector = labels.selector_for(full, Component.TRITON)
        mine = pulumi.ResourceOptions(parent=self)

        def metadata(object_name: str) -> Manifest:
            return {
                "name": object_name,
                "namespace": namespace,
                "labels": labels.labels_for(full, Component.TRITON, extra),
            }

        kubernetes.core.v1.ConfigMap(
            f"{name}-desired",
            metadata=typed(metadata(_desired_map(pool))),
            data={DESIRED_FILE: document},
            opts=mine,
        )
        kubernetes.core.v1.ServiceAccount(
            f"{name}-account", metadata=typed(metadata(full)), automount_service_account_token=False, opts=mine
        )
        kubernetes.core.v1.Service(
            f"{name}-service",
            metadata=typed({**metadata(full), "annotations": _SKIP_AWAIT}),
            spec=typed(
                {
                    # Clients spread their requests over the replicas: one gRPC connection would pin one of them.
                    "clusterIP": "None",
                    "selector": selector,
                    "ports": [
                        {"name": port, "port": number, "targetPort": port, "protocol": "TCP"}
                        for port, number in {**_SERVER_PORTS, **_AGENT_PORTS}.items()
                    ],
                }
            ),
            opts=mine,
        )
        scaled = most > least
        deployment = kubernetes.apps.v1.Deployment(
            f"{name}-deployment",
            metadata=typed({**metadata(full), "annotations": _SKIP_AWAIT}),
            spec=typed(
                {
                    # What KEDA sets is not set back by the next `up`.
                    **({} if scaled else {"replicas": least}),
                    "revisionHistoryLimit": 3,
                    "selector": {"matchLabels": selector},
                    "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling_update(args.get("surge", True))},
                    "template": template,
                }
            ),
            opts=mine,
        )
        kubernetes.policy.v1.PodDisruptionBudget(
            f"{name}-disruption",
            metadata=typed(metadata(full)),
            spec=typed({**disruption_budget(least), "selector": {"matchLabels": selector}}),
            opts=mine,
        )
        autoscaling = args.get("autoscaling")
        if scaled and autoscaling:
            kubernetes.apiextensions.CustomResource(
                f"{name}-scaling",
                api_version="keda.sh/v1alpha1",
                kind="ScaledObject",
                metadata=typed(metadata(full)),
                spec=scaled_object(full, namespace, least, most, autoscaling),
                opts=pulumi.ResourceOptions(parent=self, depends_on=[deployment]),
            )
        host = pulumi.Output.concat(full, ".", namespace, ".svc")
        self.service = pulumi.Output.from_input(full)
        self.http = pulumi.Output.concat(host, f":{ports.TRITON_HTTP}")
        self.grpc = pulumi.Output.concat(host, f":{ports.TRITON_GRPC}")
        self.agent_url = pulumi.Output.concat("http://", host, f":{ports.AGENT}")
        self.deployment = pulumi.Output.from_input(full)
        self.register_outputs(
            {
                "service": self.service,
                "http": self.http,
                "grpc": self.grpc,
                "agent_url": self.agent_url,
                "deployment": self.deployment,
            }
        )


def replica_range(args: TritonPoolArgs) -> tuple[int, int]:
    """Least and most replicas.

    Raises:
        ValueError: they make no sense, or nothing says when to go from one to the other.
    """
    least, most = int(args["replicas"]["min"]), int(args["replicas"]["max"])
    if not 1 <= least <= most:
        raise ValueError(f"pool {args['pool']}: replicas {least} to {most} is no range; the least is 1")
    if most > least and "autoscaling" not in args:
        raise ValueError(
            f"pool {args['pool']}: replicas {least} to {most} need autoscaling, or as many at most as least"
        )
    return least, most


def desired_document(models: Sequence[str], desired: Mapping[str, str], precision: Mapping[str, str]) -> str:
    """What the agents are told to serve: a JSON object {model: digest}, or null for the promotion log's latest.

    A model whose precision is given has ``{"release": digest or null, "precision": ...}`` instead.

    Raises:
        ValueError: a release or a precision is desired of a model that the pool does not have.
    """
    for what, names in (("releases are", desired), ("precisions are", precision)):
        if strangers := sorted(set(names) - set(models)):
            raise ValueError(f"{what} desired of {', '.join(strangers)}, which the pool does not have")
    document: dict[str, object] = {}
    for model in sorted(models):
        release = desired.get(model) or None
        document[model] = {"release": release, "precision": precision[model]} if model in precision else release
    return json.dumps(document, indent=1)


def server_arguments() -> list[str]:
    """Triton's command line: models are loaded when the agent says so, and a broken one never stops the server.

    It is the same with and without a GPU: what runs where is in each release's own configuration.
    """
    return [
        "tritonserver",
        f"--model-repository={_REPOSITORY}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--exit-timeout-secs={_EXIT_SECONDS}",
        "--http-address=0.0.0.0",
        "--grpc-address=0.0.0.0",
        "--metrics-address=0.0.0.0",
        f"--http-port={ports.TRITON_HTTP}",
        f"--grpc-port={ports.TRITON_GRPC}",
        f"--metrics-port={ports.TRITON_METRICS}",
        f"--http-restricted-api={_RESTRICTED}:triton-grpc-protocol-admin=$({_ADMIN_VARIABLE})",
        f"--grpc-restricted-protocol={_RESTRICTED}:admin=$({_ADMIN_VARIABLE})",
        # A region of the Python backend grows in these steps up to the largest request.
        "--backend-config=python,shm-default-byte-size=16777216",
        "--backend-config=python,shm-growth-byte-size=16777216",
    ]


def pool_pod(args: TritonPoolArgs) -> Manifest:
    """A replica: the server, and the agent beside it. It does not depend on which models and versions are served.

    Raises:
        ValueError: /dev/shm would leave the server less than half of its memory.
    """
    gpus = int(args["gpus"])
    memory, shared = args["memory"], args.get("shared_memory", _SHARED_MEMORY)
    if 2 * mebibytes(shared) > mebibytes(memory):
        raise ValueError(f"pool {args['pool']}: shared_memory {shared} is more than half of memory {memory}")
    storage = args.get("storage", _STORAGE)
    repository = pods.scratch(_REPOSITORY, storage, "repository")
    drain = int(args.get("drain_seconds", _DRAIN_SECONDS))
    server = pods.Container(
        name="triton",
        image=args["image"],
        resources=pods.Resources(args["cpus"], memory, gpus=gpus, storage="2Gi"),
        # Not as the command: NVIDIA's entrypoint makes the driver's libraries known first.
        args=server_arguments(),
        env=[
            pods.secret_variable(_ADMIN_VARIABLE, args["admin_key_secret"], ADMIN_KEY),
            pods.variable("HOME", "/tmp"),  # noqa: S108
            pods.variable("ORT_DISABLE_TELEMETRY", "1"),
            pods.variable("OMP_NUM_THREADS", "1"),
            # Keep the memory of large tensors in the process instead of mapping and zeroing it for every request.
            pods.variable("GLIBC_TUNABLES", _MALLOC),
        ],
        mounts=[repository, pods.shared_memory(shared), pods.scratch(size="1Gi")],
        ports=_SERVER_PORTS,
        startup=pods.http_probe(
            "/v2/health/live",
            ports.TRITON_HTTP,
            period=5,
            failures=(_GPU_START_SECONDS if gpus else _CPU_START_SECONDS) // 5,
        ),
        readiness=pods.http_probe("/v2/health/ready", ports.TRITON_HTTP, period=5),
        liveness=pods.http_probe("/v2/health/live", ports.TRITON_HTTP, failures=6),
        pre_stop={"sleep": {"seconds": drain}},
    )
    return pods.pod_template(
        [_agent(args, repository, storage, gpu=gpus > 0), server],
        labels=labels.labels_for(
            f"triton-{args['pool']}", Component.TRITON, {labels.POOL: args["pool"], **args.get("labels", {})}
        ),
        service_account=f"triton-{args['pool']}",
        placement=placement_of(args.get("placement")),
        grace_seconds=drain + _EXIT_SECONDS + _AGENT_SECONDS,
        spread_by=labels.selector_for(f"triton-{args['pool']}", Component.TRITON),
    )


def _agent(args: TritonPoolArgs, repository: pods.Mount, storage: str, *, gpu: bool) -> pods.Container:
    told = {
        "projected": {
            "defaultMode": 0o440,
            "sources": [
                {
                    "secret": {
                        "name": args["connection_secret"],
                        "items": [{"key": CONNECTION_FILE, "path": CONNECTION_FILE}],
                    }
                },
                {
                    "configMap": {
                        "name": _desired_map(args["pool"]),
                        "items": [{"key": DESIRED_FILE, "path": f"desired/{DESIRED_FILE}"}],
                    }
                },
            ],
        }
    }
    return pods.Container(
        name="agent",
        image=args["platform_image"],
        # Its disk: the repository, the cache, and logs.
        resources=pods.Resources(
            AGENT.cpu, AGENT.memory, AGENT.cpu_limit, storage=f"{2 * mebibytes(storage) + 1024}Mi"
        ),
        command=[
            "modelport",
            "agent",
            f"--repository={_REPOSITORY}",
            f"--cache={_CACHE}",
            f"--source={MOUNT}/desired/{DESIRED_FILE}",
            f"--listen=0.0.0.0:{ports.AGENT}",
            *(["--gpu"] if gpu else []),
            *([f"--grace={_SLOWEST_SECONDS}"] if replica_range(args)[1] > 1 else []),
        ],
        env=[
            pods.variable("MODELPORT_CONNECTION", f"{MOUNT}/{CONNECTION_FILE}"),
            pods.variable("HOME", "/tmp"),  # noqa: S108
            pods.variable("ORT_DISABLE_TELEMETRY", "1"),
            pods.variable("GLIBC_TUNABLES", _MALLOC),
        ],
        mounts=[
            repository,
            pods.scratch(_CACHE, storage, "cache"),
            pods.scratch(size="512Mi", name="agent-tmp"),
            pods.Mount("modelport", MOUNT, told, read_only=True),
        ],
        ports=_AGENT_PORTS,
        # A replica is ready when what it has to serve has answered its golden files.
        readiness=pods.http_probe("/readyz", ports.AGENT, period=5, failures=2),
        liveness=pods.http_probe("/healthz", ports.AGENT, failures=6),
        # So that it outlives the server while that drains.
        sidecar=True,
    )


def rolling_update(surge: bool) -> Manifest:
    """How an update replaces servers: one more meanwhile, or one less."""
    return {"maxSurge": 1, "maxUnavailable": 0} if surge else {"maxSurge": 0, "maxUnavailable": 1}


def disruption_budget(least: int) -> Manifest:
    """What a drain of nodes may take at once: one server. The only one may go too, or its node could never be drained.

    Servers that are not ready, for want of a release say, hold up no drain.
    """
    budget = {"minAvailable": least - 1} if least > 1 else {"maxUnavailable": 1}
    return {**budget, "unhealthyPodEvictionPolicy": "AlwaysAllow"}


def scaled_object(
    deployment: str, namespace: pulumi.Input[str], least: int, most: int, autoscaling: TritonAutoscaling
) -> Manifest:
    """Spec of KEDA's ScaledObject: replicas in proportion to how long requests wait."""
    return {
        "scaleTargetRef": {"name": deployment},
        "minReplicaCount": least,
        "maxReplicaCount": most,
        "pollingInterval": 15,
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                "behavior": {
                    "scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
                    "scaleDown": {
                        "stabilizationWindowSeconds": 600,
                        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
                    },
                }
            }
        },
        "triggers": [
            {
                "type": "prometheus",
                # A time, not an amount that more replicas share.
                "metricType": "Value",
                "metadata": {
                    "serverAddress": autoscaling["prometheus_url"],
                    "query": pulumi.Output.from_input(namespace).apply(lambda space: queue_query(deployment, space)),
                    "threshold": f"{autoscaling['queue_ms']:g}",
                },
            }
        ],
    }


def queue_query(deployment: str, namespace: str) -> str:
    """PromQL: milliseconds that a request waited, on average of two minutes, in the slowest queue of the pool."""
    pods_of_pool = f'namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"'
    waited = f"sum by (model) (rate(nv_inference_queue_duration_us{{{pods_of_pool}}}[2m]))"
    requests = f"sum by (model) (rate(nv_inference_request_success{{{pods_of_pool}}}[2m]))"
    return f"max({waited} / clamp_min({requests}, 0.001)) / 1000"


def mebibytes(quantity: str) -> int:
    """A Kubernetes quantity in ``Mi`` or ``Gi`` as mebibytes.

    Raises:
        ValueError: it is written in another way.
    """
    match = re.fullmatch(r"([0-9]+)(Mi|Gi)", quantity)
    if not match:
        raise ValueError(f"{quantity!r} is not a quantity such as 512Mi or 4Gi")
    return int(match[1]) * (1024 if match[2] == "Gi" else 1)


def _desired_map(pool: str) -> str:
    return f"triton-{pool}-desired"


_SERVER_PORTS: dict[str, int] = {
    "http": ports.TRITON_HTTP,
    "grpc": ports.TRITON_GRPC,
    "metrics": ports.TRITON_METRICS,
}
_AGENT_PORTS: dict[str, int] = {"agent": ports.AGENT}
