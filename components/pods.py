"""Pods as this platform runs them: restricted, with requests and limits, writable only where it is said.

Pure functions that render manifests in Kubernetes' own spelling (camelCase). The same rendering goes into typed
Pulumi resources and into templates that an operator makes pods from, such as a RayJob's. Values may be Pulumi outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi

Manifest = dict[str, Any]

USER = 1000
"""User and group of every container; each image has it or does not care."""

NVIDIA_GPU = "nvidia.com/gpu"

_SCRATCH_LIMIT = "2Gi"


@dataclass(frozen=True)
class Resources:
    """What a container asks for and may use. Memory is both: what is over it would be taken from a neighbour."""

    cpu: float
    """Processor cores that it is sure to have."""
    memory: str
    """Kubernetes quantity, such as ``512Mi``; request and limit."""
    cpu_limit: float | None = None
    """Processor cores that it may use when they are free [default: four times `cpu`, at least 1]."""
    gpus: int = 0
    storage: str = "1Gi"
    """Local disk that it may fill: logs and emptyDir volumes; request and limit."""

    def manifest(self) -> Manifest:
        """As a container's ``resources``."""
        limit = self.cpu_limit if self.cpu_limit is not None else max(1.0, 4 * self.cpu)
        devices = {NVIDIA_GPU: str(self.gpus)} if self.gpus else {}
        return {
            "requests": {"cpu": cores(self.cpu), "memory": self.memory, "ephemeral-storage": self.storage, **devices},
            "limits": {"cpu": cores(limit), "memory": self.memory, "ephemeral-storage": self.storage, **devices},
        }


def sized(wanted: Mapping[str, Any], default: Resources) -> Resources:
    """What a component's ``resources`` argument says of ``cpu`` and ``memory``; the rest is its default."""
    cpu, memory = wanted.get("cpu", default.cpu), wanted.get("memory", default.memory)
    return replace(default, cpu=float(cpu), memory=memory)


@dataclass(frozen=True)
class Mount:
    """A volume and where a container sees it."""

    name: str
    path: str
    source: Manifest
    """The volume's source, such as ``{"emptyDir": {}}`` or ``{"secret": {"secretName": ...}}``."""
    read_only: bool = False


def scratch(path: str = "/tmp", size: str = _SCRATCH_LIMIT, name: str = "tmp") -> Mount:  # noqa: S108
    """A writable folder that lives as long as the pod."""
    return Mount(name, path, {"emptyDir": {"sizeLimit": size}})


def shared_memory(size: str) -> Mount:
    """Memory-backed /dev/shm; it counts against the memory limit of the container that fills it."""
    return Mount("shm", "/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": size}})  # noqa: S108


def secret_volume(name: str, secret: pulumi.Input[str], path: str, *, mode: int = 0o440) -> Mount:
    """A Secret as a read-only folder; its files follow the Secret without a restart."""
    return Mount(name, path, {"secret": {"secretName": secret, "defaultMode": mode}}, read_only=True)


def config_volume(name: str, config_map: pulumi.Input[str], path: str) -> Mount:
    """A ConfigMap as a read-only folder; its files follow the ConfigMap without a restart."""
    return Mount(name, path, {"configMap": {"name": config_map, "defaultMode": 0o444}}, read_only=True)


def variable(name: str, value: pulumi.Input[str]) -> Manifest:
    """An environment variable whose value anybody may read."""
    return {"name": name, "value": value}


def secret_variable(name: str, secret: pulumi.Input[str], key: str) -> Manifest:
    """An environment variable from a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def http_probe(path: str, port: int, *, period: int = 10, failures: int = 3, timeout: int = 5) -> Manifest:
    """A probe that asks over HTTP; seconds."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }


@dataclass(frozen=True)
class Container:
    """One container of a pod."""

    name: str
    image: pulumi.Input[str]
    resources: Resources
    command: Sequence[pulumi.Input[str]] = ()
    args: Sequence[pulumi.Input[str]] = ()
    env: Sequence[Manifest] = ()
    mounts: Sequence[Mount] = ()
    ports: Mapping[str, int] = field(default_factory=dict[str, int])
    """Container port by name (at most 15 letters)."""
    readiness: Manifest | None = None
    liveness: Manifest | None = None
    startup: Manifest | None = None
    pre_stop: Manifest | None = None
    """Lifecycle handler, such as ``{"sleep": {"seconds": 5}}``."""
    sidecar: bool = False
    """Started before the pod's main containers and stopped after them (an init container that is restarted)."""

    def manifest(self) -> Manifest:
        """As an entry of ``containers``."""
        optional = {
            "command": list(self.command),
            "args": list(self.args),
            "env": list(self.env),
            "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in self.ports.items()],
            "readinessProbe": self.readiness,
            "livenessProbe": self.liveness,
            "startupProbe": self.startup,
            "lifecycle": {"preStop": self.pre_stop} if self.pre_stop else None,
            "restartPolicy": "Always" if self.sidecar else None,
            "volumeMounts": [
                {"name": mount.name, "mountPath": mount.path, **({"readOnly": True} if mount.read_only else {})}
                for mount in self.mounts
            ],
        }
        return {
            "name": self.name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "resources": self.resources.manifest(),
            "securityContext": container_security(),
            **{key: value for key, value in optional.items() if value},
        }


@dataclass(frozen=True)
class Placement:
    """Which nodes a pod may run on."""

    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: Sequence[Manifest] = ()


def pod_template(
    containers: Sequence[Container],
    *,
    labels: Mapping[str, str],
    service_account: pulumi.Input[str],
    init: Sequence[Container] = (),
    annotations: Mapping[str, pulumi.Input[str]] | None = None,
    placement: Placement | None = None,
    api_access: bool = False,
    restart_policy: str | None = None,
    grace_seconds: int | None = None,
    spread_by: Mapping[str, str] | None = None,
    user: int = USER,
) -> Manifest:
    """A PodTemplateSpec under the restricted Pod Security Standard.

    Args:
        containers: Main containers; those marked `sidecar` become init containers that are restarted.
        labels: Labels of the pod.
        service_account: Its service account, one for each workload.
        init: Containers that run to their end beforehand, in order.
        annotations: Annotations of the pod.
        placement: Which nodes it may run on.
        api_access: Mount the service account's token. Only what talks to the API server needs it.
        restart_policy: ``OnFailure`` or ``Never`` for jobs.
        grace_seconds: Seconds between the signal to stop and the kill.
        spread_by: Labels of pods that should not share a node or zone with this one, where that is possible.
        user: User and group that the pod's processes have.
    """
    early = [*init, *(container for container in containers if container.sidecar)]
    main = [container for container in containers if not container.sidecar]
    volumes = {mount.name: mount.source for container in (*early, *main) for mount in container.mounts}
    place = placement or Placement()
    optional: Manifest = {
        "initContainers": [container.manifest() for container in early],
        "volumes": [{"name": name, **source} for name, source in volumes.items()],
        "nodeSelector": dict(place.node_selector),
        "tolerations": list(place.tolerations),
        "restartPolicy": restart_policy,
        "terminationGracePeriodSeconds": grace_seconds,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(spread_by)},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ]
        if spread_by
        else None,
    }
    return {
        "metadata": {"labels": dict(labels), **({"annotations": dict(annotations)} if annotations else {})},
        "spec": {
            "serviceAccountName": service_account,
            "automountServiceAccountToken": api_access,
            "enableServiceLinks": False,
            "securityContext": pod_security(user),
            "containers": [container.manifest() for container in main],
            **{key: value for key, value in optional.items() if value},
        },
    }


def pod_security(user: int = USER) -> Manifest:
    """A pod's ``securityContext`` under the restricted standard."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """A container's ``securityContext`` under the restricted standard, with a root file system that is read-only."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def cores(cpu: float) -> str:
    """Processor cores as a Kubernetes quantity, in the spelling that the API server keeps."""
    milli = round(cpu * 1000)
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def typed(manifest: Manifest) -> Any:
    """A rendered manifest where a typed resource wants its argument class.

    Field names are checked by the API server's strict validation, in the preview already.
    """
    return manifest
