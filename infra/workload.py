"""What one model folder becomes: a training capability with its trigger, its place on a Triton pool, its monitoring."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components import gateway, mlflow, object_args, postgres, versions
from components.charts import cert_manager_values, keda_values, requested
from components.kuberay import HEAD, NodePlacement, Training, TrainingArgs, operator_values
from components.labels import MODEL, OWNER, label_value
from components.load_test import LoadTest, LoadTestArgs
from components.monitoring import ModelMonitoring, ModelMonitoringArgs, stack_values
from components.pods import Resources, sized
from components.triton import AGENT, TritonPool, TritonPoolArgs
from infra.capacity import Demand, Placed, Shape, Use, bytes_of
from infra.models import Model
from infra.network import Namespace
from infra.platform import Platform, asked
from infra.settings import ExistingSettings, Settings, Sized, TritonPoolSettings
from modelport.contract import duration_seconds

PLATFORM = "(platform)"
"""How the table calls what is no model's."""

QUEUE_MS = 20.0
"""Milliseconds that requests may wait in Triton's queue before another replica is started."""


@dataclass(frozen=True)
class Served:
    """What people are told of one model."""

    version: str
    """Pinned digest, or where the desired version comes from."""
    pool: str
    train_again: pulumi.Output[str]
    """Command that submits a training."""


def demands(models: Sequence[Model], settings: Settings) -> list[Demand]:
    """What the models ask for, and what shared pools ask for. Pure."""
    found: list[Demand] = []
    for model in models:
        workers = model.spec.train.workers
        key = f"models/{model.name}/model.yaml: train.workers"
        cpus, memory = head(model)
        found.append(Demand(model.name, "train head", Use.TRAINING, 1, cpus, bytes_of(memory), key=key))
        found.append(
            Demand(
                model.name,
                "train worker",
                Use.TRAINING,
                workers.count,
                workers.cpus,
                bytes_of(workers.memory),
                workers.gpus,
                bytes_of(workers.gpu_memory) if workers.gpu_memory else 0,
                workers.accelerator,
                key,
            )
        )
        if not model.spec.serve.pool:
            found.append(_served(model.name, "serve", own_pool(model), f"models/{model.name}/model.yaml: serve"))
    if isinstance(settings.cluster, ExistingSettings):
        # On GKE the platform has nodes of its own.
        found += [
            Demand(PLATFORM, part, Use.SERVING, pods, cpus, bytes_of(memory), key="modelport:cluster.nodes")
            for part, pods, cpus, memory in platform_pods(settings)
        ]
    for name, pool in settings.triton_pools.items():
        found.append(_served(name, "shared pool", pool, f"modelport:triton_pools.{name}"))
    return found


def head(model: Model) -> tuple[float, str]:
    """Cores and memory of the pod that drives a model's training. Pure."""
    train = model.settings.train
    return train.head_cpus or HEAD["cpus"], train.head_memory or HEAD["memory"]


def own_pool(model: Model) -> TritonPoolSettings:
    """The pool of a model that shares none."""
    serve = model.spec.serve
    return TritonPoolSettings(
        replicas=serve.replicas,
        maximum_replicas=model.settings.serve.maximum_replicas,
        cpus=serve.cpus,
        memory=serve.memory,
        gpus=serve.gpus,
        gpu_memory=serve.gpu_memory,
        accelerator=serve.accelerator,
    )


def _served(name: str, part: str, pool: TritonPoolSettings, key: str) -> Demand:
    """What the servers of a pool ask for, the agent beside each of them too."""
    return Demand(
        name,
        part,
        Use.SERVING,
        pool.replicas,
        pool.cpus + AGENT.cpu,
        bytes_of(pool.memory) + bytes_of(AGENT.memory),
        pool.gpus,
        bytes_of(pool.gpu_memory) if pool.gpu_memory else 0,
        pool.accelerator,
        key,
    )


def platform_pods(settings: Settings) -> list[tuple[str, int, float, str]]:
    """What the platform itself asks for: part, pods, cores and memory of each. Pure.

    By the components' defaults and the charts' values; the pods of a chart count as one.
    """
    own: list[tuple[str, int, Sized, Resources]] = [
        ("object store", settings.store.replicas, settings.store, object_args.RESOURCES),
        ("PostgreSQL", 1, settings.database, postgres.RESOURCES),
        ("MLflow", settings.tracking.replicas, settings.tracking, mlflow.RESOURCES),
        ("gateway", settings.gateway.replicas, settings.gateway, gateway.RESOURCES),
    ]
    found = [(part, pods, sized(asked(said), default)) for part, pods, said, default in own]
    operators, watched = settings.operators, settings.monitoring.enabled
    if operators.kuberay:
        found.append(("KubeRay", 1, requested(operator_values([Namespace.TRAINING]))))
    if operators.keda and watched:
        found.append(("KEDA", 1, requested(keda_values({}))))
    if operators.cert_manager:
        found.append(("cert-manager", 1, requested(cert_manager_values("", {}))))
    if watched:
        values = stack_values("monitoring", {"namespace": "", "target_namespaces": [], "owner": ""}, "1")
        found.append(("Prometheus", 1, requested(values.pop("prometheus"))))
        found.append(("Grafana and others", 1, requested(values)))
    return [(part, pods, each.cpu, each.memory) for part, pods, each in found]


def build_pools(
    models: Sequence[Model],
    placed: Sequence[Placed],
    settings: Settings,
    platform: Platform,
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> None:
    """A Triton pool for each model of its own, and for each shared pool."""
    where = {(p.demand.model, p.demand.part): p.shape for p in placed}
    for model in models:
        if model.spec.serve.pool:
            continue
        own = own_pool(model)
        _pool(model.dns, [model], own, where[model.name, "serve"], settings, platform, _labels(model, labels), opts)
    for name, pool in settings.triton_pools.items():
        members = [model for model in models if model.pool == name]
        _pool(name, members, pool, where[name, "shared pool"], settings, platform, labels, opts)


def build(
    model: Model,
    placed: Sequence[Placed],
    settings: Settings,
    platform: Platform,
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> Served:
    """Everything of one model but its server pool."""
    spec, mine = model.spec, _labels(model, labels)
    where = {p.demand.part: p.shape for p in placed if p.demand.model == model.name}
    workers_at, head_at = where["train worker"], where["train head"]
    head_cpus, head_memory = head(model)
    training_args: TrainingArgs = {
        "namespace": platform.training,
        "model": model.dns,
        "model_name": model.name,
        "image": _image(settings),
        "bundle": base64.b64encode(model.bundle.to_bytes()).decode(),
        "code_version": model.bundle.digest,
        "connection_secret": platform.trainer_connection,
        "data_uri": f"s3://{platform.endpoints.bucket}/datasets/{spec.data.name}",
        "workers": {
            "count": spec.train.workers.count,
            "cpus": spec.train.workers.cpus,
            "gpus": spec.train.workers.gpus,
            "memory": spec.train.workers.memory,
        },
        "head": {"cpus": head_cpus, "memory": head_memory},
        "placement": _placement(workers_at),
        "head_placement": _placement(head_at),
        "spot": workers_at.spot or head_at.spot,
        "time_limit_seconds": duration_seconds(spec.train.time_limit),
        "max_failures": spec.train.max_failures,
        "ray_version": versions.RAY,
        "labels": mine,
    }
    if spec.train.schedule:
        training_args["schedule"] = spec.train.schedule
    training = Training(f"{model.dns}-training", training_args, opts)
    if platform.monitored is not None:
        watched: ModelMonitoringArgs = {
            "namespace": platform.monitored,
            "model": model.name,
            "owner": spec.owner,
            "latency_ms": spec.serve.latency_ms,
            "requests_per_second": spec.serve.requests_per_second,
            "labels": mine,
        }
        if settings.monitoring.runbooks:
            watched["runbooks"] = settings.monitoring.runbooks
        ModelMonitoring(f"{model.dns}-monitoring", watched, opts)
    if load := model.settings.load_test:
        load_args: LoadTestArgs = {
            "namespace": platform.serving,
            "image": _image(settings),
            "model": model.name,
            "target_url": platform.gateway.url,
            "connection_secret": platform.server_connection,
            "key_secret": platform.gateway.api_key_secrets[settings.gateway.callers[0]],
            "users": load.users,
            "workers": 1,
            "duration_seconds": load.seconds,
            "labels": mine,
        }
        if load.rate:
            load_args["rate"] = load.rate
        LoadTest(f"{model.dns}-load-test", load_args, opts)
    return Served(model.version or "follows the promotion log", model.pool, training.submit_command)


def _pool(
    name: str,
    models: Sequence[Model],
    pool: TritonPoolSettings,
    shape: Shape,
    settings: Settings,
    platform: Platform,
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> None:
    maximum = max(pool.replicas, pool.maximum_replicas or pool.replicas)
    args: TritonPoolArgs = {
        "namespace": platform.scaled if maximum > pool.replicas else platform.serving,
        "pool": name,
        "models": [model.name for model in models],
        "image": settings.triton_image or versions.reference(versions.Image.TRITON),
        "platform_image": _image(settings),
        "connection_secret": platform.agent_connection,
        "admin_key_secret": platform.admin_key,
        "desired": {model.name: model.version or "" for model in models},
        "replicas": {"min": pool.replicas, "max": maximum},
        "cpus": pool.cpus,
        "memory": pool.memory,
        "gpus": pool.gpus,
        "placement": _placement(shape),
        "labels": dict(labels),
    }
    if precision := precisions(models):
        args["precision"] = precision
    if pool.gpus:
        # There may be no GPU to spare for a moment of two servers.
        args["surge"] = False
    if maximum > pool.replicas and platform.monitoring is not None:
        args["autoscaling"] = {"prometheus_url": platform.monitoring.prometheus_url, "queue_ms": QUEUE_MS}
    TritonPool(f"{name}-pool", args, opts)


def precisions(models: Sequence[Model]) -> dict[str, str]:
    """Arithmetic by model where the stack says it. Pure.

    What ``model.yaml`` says comes with each release, and this checkout's may be another one than the release's.
    """
    return {model.name: said.value for model in models if (said := model.settings.serve.precision) is not None}


def _labels(model: Model, labels: Mapping[str, str]) -> dict[str, str]:
    return {**labels, MODEL: model.dns, OWNER: label_value(model.spec.owner)}


def _image(settings: Settings) -> str:
    assert settings.image is not None
    return settings.image


def _placement(shape: Shape) -> NodePlacement:
    return {"node_selector": dict(shape.node_selector), "tolerations": [dict(t) for t in shape.tolerations]}
