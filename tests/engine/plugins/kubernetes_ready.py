"""When a Kubernetes object is ready, as far as its own status tells: what Pulumi's provider waits for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]

POD_SECURITY = "violates PodSecurity"
"""What admission says about a pod that no waiting will make acceptable."""


@dataclass(frozen=True)
class Pending:
    """The object is not ready."""

    reason: str
    hopeless: bool = False
    """Whether waiting cannot help."""


def pending(item: Object) -> Pending | None:
    """Why an object is not ready, or None when it is, or when its kind is not waited for."""
    waiting = _WAITING.get((str(item["apiVersion"]), str(item["kind"])))
    if waiting is None:
        return None
    return waiting(item) if observed(item) else Pending("its controller has not seen it yet")


def observed(item: Object) -> bool:
    """Whether an object's status is about the object as it is now; True for kinds that do not tell."""
    if item["kind"] not in _OBSERVED:
        return True
    return _status(item).get("observedGeneration", 0) >= item["metadata"].get("generation", 0)


def _deployment(item: Object) -> Pending | None:
    failure, progress = _condition(item, "ReplicaFailure"), _condition(item, "Progressing")
    replicas, status = _spec(item).get("replicas", 1), _status(item)
    if failure.get("status") == "True":
        reason = f"{failure.get('reason')}: {failure.get('message')}"
        # It is told of the template before, too, until the present one's pods are there: then progress is the newer.
        of_before = str(failure.get("lastUpdateTime", "")) < str(progress.get("lastUpdateTime", ""))
        return Pending(reason, hopeless=POD_SECURITY in reason and not of_before)
    if progress.get("reason") == "ProgressDeadlineExceeded":
        return Pending(str(progress.get("message")), hopeless=True)
    return _replicas(status.get("readyReplicas", 0), status.get("updatedReplicas", 0), replicas)


def _stateful_set(item: Object) -> Pending | None:
    status, replicas = _status(item), _spec(item).get("replicas", 1)
    rolling = _spec(item).get("updateStrategy", {}).get("type") != "OnDelete"
    updated = status.get("updatedReplicas", 0) if rolling else replicas
    return _replicas(status.get("readyReplicas", 0), updated, replicas)


def _daemon_set(item: Object) -> Pending | None:
    status = _status(item)
    wanted = status.get("desiredNumberScheduled", 0)
    return _replicas(status.get("numberReady", 0), status.get("updatedNumberScheduled", 0), wanted)


def _replicas(ready: int, updated: int, wanted: int) -> Pending | None:
    if ready >= wanted and updated >= wanted:
        return None
    return Pending(f"{ready} of {wanted} pods are ready, {updated} of the present template")


def _job(item: Object) -> Pending | None:
    failed = _condition(item, "Failed")
    if failed.get("status") == "True":
        return Pending(f"{failed.get('reason')}: {failed.get('message')}", hopeless=True)
    return None if _condition(item, "Complete").get("status") == "True" else Pending("the job is not complete")


def _pod(item: Object) -> Pending | None:
    phase = _status(item).get("phase")
    if phase == "Succeeded" or _condition(item, "Ready").get("status") == "True":
        return None
    return Pending(f"the pod is {phase}", hopeless=phase == "Failed")


def _claim(item: Object) -> Pending | None:
    phase = _status(item).get("phase")
    return None if phase == "Bound" else Pending(f"the claim is {phase}", hopeless=phase == "Lost")


def _definition(item: Object) -> Pending | None:
    refused = _condition(item, "NamesAccepted")
    if refused.get("status") == "False":
        return Pending(f"{refused.get('reason')}: {refused.get('message')}", hopeless=True)
    return None if _condition(item, "Established").get("status") == "True" else Pending("it is not established")


def _spec(item: Object) -> dict[str, Any]:
    return item.get("spec") or {}


def _status(item: Object) -> dict[str, Any]:
    return item.get("status") or {}


def _condition(item: Object, name: str) -> dict[str, Any]:
    return next((entry for entry in _status(item).get("conditions") or [] if entry["type"] == name), {})


_WAITING = {
    ("apps/v1", "Deployment"): _deployment,
    ("apps/v1", "StatefulSet"): _stateful_set,
    ("apps/v1", "DaemonSet"): _daemon_set,
    ("batch/v1", "Job"): _job,
    ("v1", "Pod"): _pod,
    ("v1", "PersistentVolumeClaim"): _claim,
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): _definition,
}

_OBSERVED = ("Deployment", "StatefulSet", "DaemonSet")
