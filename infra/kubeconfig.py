"""The cluster of a kubeconfig that exists already, looked at before anything is made.

The kubeconfig is read as kubectl reads it: several files, proxies, programs that log in.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

from components.labels import STACK
from components.versions import KUBERNETES_MINIMUM
from infra.connections import DIRECTORY
from infra.network import Namespace
from modelport.errors import BadInput, Refused, Unavailable

_SECONDS = 5.0
_MUST_WORK = "`kubectl cluster-info` must work first"


@dataclass(frozen=True)
class Kubeconfig:
    """Where a kubeconfig leads."""

    file: str
    """The file, or several as ``$KUBECONFIG`` names them."""
    context: str


def find(path: str | None, context: str | None) -> Kubeconfig:
    """The context that a stack means.

    Args:
        path: File; ``$KUBECONFIG``'s, else ``~/.kube/config``, if None.
        context: Name of the context. None is refused: the current one changes with what somebody looked at last, and
            the stack would be made anew in another cluster and deleted in its own.

    Raises:
        BadInput: the context is not set, or there is no such file or context, or it makes no sense.
    """
    import yaml
    from kubernetes.config import ConfigException
    from kubernetes.config.kube_config import KubeConfigMerger

    file = path or os.environ.get("KUBECONFIG") or "~/.kube/config"
    key, remedy = "modelport:cluster.kubeconfig", "name the file that `kubectl config view` reads"
    try:
        merged: Any = KubeConfigMerger(file).config
        contexts = [str(entry["name"]) for entry in merged["contexts"].value] if merged is not None else []
    except (ConfigException, OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise BadInput(f"is no kubeconfig: {error}", file=file, key=key, remedy=remedy) from None
    if merged is None:
        raise BadInput("there is no kubeconfig", file=file, key=key, remedy=remedy)
    key, there = "modelport:cluster.context", f"contexts there: {', '.join(sorted(contexts)) or 'none'}"
    if context is None:
        current = merged.safe_get("current-context") or None
        said = f"is not set; the current one is {current!r}" if current else "is not set"
        raise BadInput(said, file=file, key=key, remedy=f"pulumi config set --path {key} {current or 'NAME'}; {there}")
    if context not in contexts:
        raise BadInput(f"there is no context {context!r}", file=file, key=key, remedy=there)
    return Kubeconfig(file, context)


def look(config: Kubeconfig, stack: str) -> None:
    """See that the API server answers, is new enough, and has no other stack.

    Raises:
        BadInput: the context makes no sense, the cluster is too old, or another stack is there.
        Refused: it does not take the kubeconfig's credentials.
        Unavailable: it does not answer.
    """
    from kubernetes import client
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException, load_kube_config
    from urllib3.exceptions import HTTPError

    settings = client.Configuration()
    key = "modelport:cluster.context"
    try:
        load_kube_config(config.file, config.context, client_configuration=settings, persist_config=False)
    except (ConfigException, OSError, ValueError) as error:
        said = f"context {config.context!r} cannot be used: {error}"
        raise BadInput(said, file=config.file, key=key, remedy=_MUST_WORK) from None
    settings.retries = 1
    api = client.ApiClient(settings)
    place = f"the API server {settings.host} of context {config.context!r}"
    directory = f"ConfigMap {Namespace.REGISTRY}/{DIRECTORY}"
    try:
        version: Any = client.VersionApi(api).get_code(_request_timeout=_SECONDS)
        found = _stack(client.CoreV1Api(api))
    except ApiException as error:
        if error.status not in (401, 403):
            raise Unavailable(f"{place} does not work: {error.status} {error.reason}", file=config.file) from None
        raise Refused(
            f"{place} does not let you read {directory}: {error.status} {error.reason}",
            file=config.file,
            remedy=f"log in to the cluster as its administrator; {_MUST_WORK}",
        ) from None
    except (HTTPError, OSError) as error:
        raise Unavailable(
            f"{place} does not answer: {error}",
            file=config.file,
            key="modelport:cluster",
            remedy=f"start the cluster, or name another context; {_MUST_WORK}",
        ) from None
    numbers = re.match(r"v?(\d+)\.(\d+)", version.git_version)
    if numbers and (int(numbers[1]), int(numbers[2])) < KUBERNETES_MINIMUM:
        wanted = ".".join(map(str, KUBERNETES_MINIMUM))
        raise BadInput(
            f"{place} is Kubernetes {version.git_version}", key=key, remedy=f"upgrade it to {wanted} or newer"
        )
    if found not in (None, stack):
        raise BadInput(
            f"the cluster of context {config.context!r} has stack {found!r} already, as {directory} says",
            key=key,
            remedy=f"name the context of the cluster of stack {stack!r}: a cluster holds one stack",
        )


def _stack(core: Any) -> str | None:
    """Name of the stack that a cluster has."""
    from kubernetes.client import ApiException

    try:
        made: Any = core.read_namespaced_config_map(DIRECTORY, Namespace.REGISTRY.value, _request_timeout=_SECONDS)
    except ApiException as error:
        if error.status == 404:
            return None
        raise
    return (made.metadata.labels or {}).get(STACK)
