"""A Kubernetes cluster with the rights of whoever runs this command, by his kubeconfig."""

import base64
import json
import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from modelport.errors import BadInput, Conflict, ModelportError, Refused, Unavailable

_TIMEOUT_S = 20
_LOGIN = "log in to the cluster again; `kubectl get --raw /version` must work first"


class Forbidden(Refused):
    """The cluster knows this user, and does not let him."""


class NotThere(ModelportError):
    """The cluster has no such object."""


@dataclass(frozen=True)
class Pod:
    """A pod that can be asked."""

    name: str
    ports: Mapping[str, int]
    """Its named ports."""


@dataclass(frozen=True)
class Target:
    """Pods behind a port of a Service."""

    namespace: str
    selector: str
    port: int | str
    """Of the pods; a name is that of one of their ports."""


def own_kubeconfig(file: str | None) -> Path | None:
    """The file to name; None where it is what is taken anyway."""
    return None if file is None or file == _file(None) else Path(file)


def contexts(kubeconfig: Path | None) -> tuple[list[str], str | None]:
    """Names of a kubeconfig's contexts, and the one that is current, if any.

    Raises:
        BadInput: there is no kubeconfig, or it makes no sense.
    """
    import yaml
    from kubernetes.config import ConfigException
    from kubernetes.config.kube_config import KubeConfigMerger

    file = _file(kubeconfig)
    remedy = "log in to the cluster (`pulumi stack output cluster` says how), or name a file with --kubeconfig"
    try:
        merged: Any = KubeConfigMerger(file).config
    except (ConfigException, OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise BadInput(f"is no kubeconfig: {error}", file=file, remedy=remedy) from None
    if merged is None:
        raise BadInput("no cluster is to be found: there is no kubeconfig", file=file, remedy=remedy)
    entries: list[dict[str, Any]] = merged.value.get("contexts") or []
    return [entry["name"] for entry in entries], merged.value.get("current-context") or None


class KubernetesCluster:
    """Objects that commands read and make. Every method raises the errors of `_explained`."""

    def __init__(self, kubeconfig: Path | None, context: str) -> None:
        """Nothing is sent yet.

        Raises:
            BadInput: the kubeconfig has no such context, or it makes no sense.
        """
        from kubernetes import client, config
        from kubernetes.config import ConfigException

        self.kubeconfig = kubeconfig
        self.context = context
        known, _ = contexts(kubeconfig)
        if context not in known:
            raise BadInput(
                f"there is no context {context!r}",
                file=_file(kubeconfig),
                key="--context",
                remedy=f"contexts there: {', '.join(sorted(known)) or 'none'}",
            )
        settings = client.Configuration()
        try:
            config.load_kube_config(_file(kubeconfig), context, client_configuration=settings, persist_config=False)
        except (ConfigException, OSError, ValueError) as error:
            raise Refused(f"context {context!r} gives no credentials: {error}", remedy=_LOGIN) from None
        settings.retries = 1
        self._client = client.ApiClient(settings)
        self._core: Any = client.CoreV1Api(self._client)
        self._custom: Any = client.CustomObjectsApi(self._client)

    @property
    def file(self) -> str:
        """The kubeconfig, or several as ``KUBECONFIG`` names them."""
        return _file(self.kubeconfig)

    def arguments(self) -> list[str]:
        """Arguments of kubectl that mean this cluster."""
        file = [] if self.kubeconfig is None else [f"--kubeconfig={self.file}"]
        return [*file, f"--context={self.context}"]

    def config_map(self, namespace: str, name: str) -> tuple[dict[str, str], dict[str, str]]:
        """Data and labels of a ConfigMap."""
        with self._explained("read", f"ConfigMap {namespace}/{name}"):
            found: Any = self._core.read_namespaced_config_map(name, namespace, _request_timeout=_TIMEOUT_S)
        return dict(found.data or {}), dict(found.metadata.labels or {})

    def secret(self, namespace: str, name: str, key: str) -> str:
        """One value of a Secret."""
        place = f"Secret {namespace}/{name}"
        with self._explained("read", place):
            found: Any = self._core.read_namespaced_secret(name, namespace, _request_timeout=_TIMEOUT_S)
        value = (found.data or {}).get(key)
        if value is None:
            raise NotThere(f"has no key {key}", key=place, remedy="it is `pulumi up` that writes it: run it again")
        return base64.b64decode(value).decode()

    def target(self, namespace: str, name: str, port: int) -> Target:
        """The pods behind a port of a Service."""
        place = f"Service {namespace}/{name}"
        with self._explained("read", place):
            found: Any = self._core.read_namespaced_service(name, namespace, _request_timeout=_TIMEOUT_S)
        selector = ",".join(f"{key}={value}" for key, value in (found.spec.selector or {}).items())
        to = next((each.target_port for each in found.spec.ports or () if each.port == port), None)
        if to is None or not selector:
            raise NotThere(f"has no pods behind port {port}", key=place)
        # The client gives this as a number, or as a name, or as a box of either.
        plain = getattr(to, "actual_instance", to)
        return Target(namespace, selector, int(plain) if str(plain).isdigit() else str(plain))

    def ready_pods(self, target: Target) -> list[Pod]:
        """Pods that take connections now, by name."""
        with self._explained("list", f"pods in namespace {target.namespace}"):
            found: Any = self._core.list_namespaced_pod(
                target.namespace, label_selector=target.selector, _request_timeout=_TIMEOUT_S
            )
        return [
            Pod(pod.metadata.name, _ports(pod))
            for pod in sorted(found.items, key=lambda pod: pod.metadata.name)
            if pod.metadata.deletion_timestamp is None and _condition(pod, "Ready") == "True"
        ]

    # Trainings

    def ray_jobs(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """RayJobs with these labels."""
        with self._explained("list", f"rayjobs.ray.io in namespace {namespace}"):
            found: Any = self._custom.list_namespaced_custom_object(**_ray(namespace), label_selector=selector)
        return cast(list[dict[str, Any]], found["items"])

    def ray_job(self, namespace: str, name: str) -> dict[str, Any]:
        """One RayJob."""
        with self._explained("read", f"RayJob {namespace}/{name}"):
            return self._custom.get_namespaced_custom_object(**_ray(namespace), name=name)

    def create_ray_job(self, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create one; raises `Conflict` where there is one of this name."""
        with self._explained("create", f"RayJob {namespace}/{body['metadata']['name']}"):
            return self._custom.create_namespaced_custom_object(**_ray(namespace), body=body)

    def service_account(self, namespace: str, name: str) -> dict[str, Any]:
        """A service account as the API server writes it."""
        with self._explained("read", f"ServiceAccount {namespace}/{name}"):
            found: Any = self._core.read_namespaced_service_account(name, namespace, _request_timeout=_TIMEOUT_S)
        return cast(dict[str, Any], self._client.sanitize_for_serialization(found))

    def create_config_map(self, namespace: str, body: Mapping[str, Any]) -> None:
        """Create a ConfigMap; raises `Conflict` where there is one of this name."""
        with self._explained("create", f"ConfigMap {namespace}/{body['metadata']['name']}"):
            self._core.create_namespaced_config_map(namespace, body, _request_timeout=_TIMEOUT_S)

    def config_map_owners(self, namespace: str, name: str) -> list[str]:
        """UIDs of the objects that a ConfigMap goes with."""
        with self._explained("read", f"ConfigMap {namespace}/{name}"):
            found: Any = self._core.read_namespaced_config_map(name, namespace, _request_timeout=_TIMEOUT_S)
        return [owner.uid for owner in found.metadata.owner_references or ()]

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """Pods with these labels as the API server writes them, the oldest first."""
        with self._explained("list", f"pods in namespace {namespace}"):
            found: Any = self._core.list_namespaced_pod(namespace, label_selector=selector, _request_timeout=_TIMEOUT_S)
        items = [cast(dict[str, Any], self._client.sanitize_for_serialization(pod)) for pod in found.items]
        return sorted(items, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def log(self, namespace: str, pod: str, seconds: int | None) -> list[str]:
        """Lines of a pod's one container, each with its time in front; of the last `seconds`, or all."""
        with self._explained("read", f"log of pod {namespace}/{pod}"):
            text: Any = self._core.read_namespaced_pod_log(
                pod,
                namespace,
                timestamps=True,
                _request_timeout=_TIMEOUT_S,
                **({} if seconds is None else {"since_seconds": seconds}),
            )
        # At newlines alone: what follows a progress bar's carriage return has no time in front.
        return [line for line in str(text or "").split("\n") if line]

    @contextmanager
    def _explained(self, action: str, what: str) -> Generator[None]:
        """Translate errors.

        Raises:
            Forbidden: this user may not do that.
            Refused: the cluster does not know this user any more.
            NotThere: there is no such object.
            Conflict: there is one already.
            BadInput: the object is refused.
            Unavailable: the cluster does not answer.
        """
        from kubernetes.client import ApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            raise self._translated(error, action, what) from None
        except ConfigException as error:
            raise Refused(f"context {self.context!r} gives no credentials: {error}", remedy=_LOGIN) from None
        except (HTTPError, OSError) as error:
            raise Unavailable(
                f"the cluster of context {self.context!r} does not answer: {_reason(error)}",
                remedy="see that it is up and can be reached from here, then run the same command again",
            ) from None

    def _translated(self, error: Any, action: str, what: str) -> ModelportError:
        said = _message(error)
        if error.status == 401:
            why = f"the cluster does not take the credentials of context {self.context!r}: expired, or wrong"
            return Refused(why, remedy=_LOGIN)
        if error.status == 403:
            remedy = "modelport:access of the stack says which groups may; docs/connect.md lists the rights"
            return Forbidden(f"you may not {action} it: {said}", key=what, remedy=remedy)
        if error.status == 404:
            return NotThere("there is none", key=what)
        if error.status == 409:
            return Conflict(said, key=what)
        if error.status in (400, 422):
            return BadInput(f"is refused: {said}", key=what)
        return Unavailable(f"could not {action} it: {said}", key=what, remedy="the same command can be run again")


def _file(kubeconfig: Path | None) -> str:
    # The client's own default is what the environment said when it was imported.
    return str(kubeconfig.absolute()) if kubeconfig is not None else os.environ.get("KUBECONFIG") or "~/.kube/config"


def _ray(namespace: str) -> dict[str, Any]:
    place = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
    return {**place, "namespace": namespace, "_request_timeout": _TIMEOUT_S}


def _condition(pod: Any, kind: str) -> str:
    conditions: Iterable[Any] = pod.status.conditions or ()
    return next((condition.status for condition in conditions if condition.type == kind), "")


def _ports(pod: Any) -> dict[str, int]:
    return {
        port.name: port.container_port
        for container in pod.spec.containers
        for port in container.ports or ()
        if port.name
    }


def _message(error: Any) -> str:
    try:
        body: Any = json.loads(error.body)
        return str(body["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or error.status)


def _reason(error: Exception) -> str:
    """The cause, without the address and the object's representation that urllib3 puts around it."""
    cause: Any = getattr(error, "reason", None) or error
    return str(cause).rpartition(": ")[2] or type(error).__name__
