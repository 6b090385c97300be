"""The kubeconfig of a cluster that exists already, looked at before anything is made."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from modelport.errors import BadInput, Unavailable

_SECONDS = 5.0


@dataclass(frozen=True)
class Kubeconfig:
    """Where a kubeconfig leads."""

    path: Path
    context: str
    server: str
    """URL of the API server."""


def find(path: str | None, context: str | None) -> Kubeconfig:
    """The context that a stack means.

    Args:
        path: File; ``$KUBECONFIG``'s first, then ``~/.kube/config``, if None.
        context: Name of the context; the file's current one if None.

    Raises:
        BadInput: there is no such file or context, or it makes no sense.
    """
    named = path or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or "~/.kube/config"
    file = Path(named).expanduser()
    key, remedy = "modelport:cluster.kubeconfig", "name the file that `kubectl config view` reads"
    try:
        data: Any = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise BadInput("there is no kubeconfig", file=file, key=key, remedy=remedy) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"is no kubeconfig: {error}", file=file, key=key, remedy=remedy) from None
    if not isinstance(data, dict):
        raise BadInput("is no kubeconfig", file=file, key=key, remedy=remedy)
    contexts = _by_name(data, "contexts", "context")
    wanted = context or data.get("current-context")
    if wanted not in contexts:
        raise BadInput(
            f"there is no context {wanted!r}" if wanted else "it has no current context",
            file=file,
            key="modelport:cluster.context",
            remedy=f"contexts there: {', '.join(sorted(contexts)) or 'none'}",
        )
    cluster = _by_name(data, "clusters", "cluster").get(contexts[wanted].get("cluster", ""), {})
    server = cluster.get("server")
    if not isinstance(server, str) or not urlsplit(server).hostname:
        raise BadInput(f"context {wanted!r} names no API server", file=file, key="modelport:cluster.context")
    return Kubeconfig(file, wanted, server)


def reach(config: Kubeconfig) -> None:
    """See that somebody listens at the API server's address.

    Raises:
        Unavailable: nobody does.
    """
    url = urlsplit(config.server)
    assert url.hostname is not None
    try:
        with socket.create_connection((url.hostname, url.port or 443), timeout=_SECONDS):
            pass
    except OSError as error:
        raise Unavailable(
            f"the API server {config.server} of context {config.context!r} does not answer: {error}",
            file=config.path,
            key="modelport:cluster",
            remedy="start the cluster, or name another context; `kubectl cluster-info` must work first",
        ) from None


def _by_name(data: dict[str, Any], plural: str, singular: str) -> dict[str, dict[str, Any]]:
    entries: Any = data.get(plural) or []
    return {
        entry["name"]: entry.get(singular) or {} for entry in entries if isinstance(entry, dict) and "name" in entry
    }
