"""Which cluster a stack is in: as the user says, else as Pulumi's outputs say, else the kubeconfig's current context.

Whichever it is, the ConfigMap in the cluster has the last word: it says which stack it is of. Of Pulumi only outputs
are read, which hold no secret, and they are not needed.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from modelport.errors import BadInput, ModelportError
from modelport.remote import directory
from modelport.remote.cluster import Forbidden, KubernetesCluster, NotThere, contexts
from modelport.remote.directory import Directory

_PULUMI_S = 60.0
OUTPUT = "context"
"""Output of a stack that names the cluster's context, and a kubeconfig where it is not kubectl's own."""


@dataclass(frozen=True)
class Named:
    """How a stack's outputs name its cluster."""

    context: str
    kubeconfig: str | None
    login: str
    """Command that brings its context into the user's kubeconfig."""


@dataclass(frozen=True)
class Found:
    """A stack's cluster."""

    cluster: KubernetesCluster
    directory: Directory
    by: str
    """Who named it."""


def find(stack: str, kubeconfig: Path | None, context: str | None, root: Path) -> Found:
    """The cluster of a stack, and what the stack says of itself there.

    Raises:
        BadInput: there is no such context, or the cluster there is of another stack, or of none.
        Refused: the user's credentials have expired, or do not suffice.
        Unavailable: the cluster does not answer.
    """
    file, name, by = _choose(stack, kubeconfig, context, root)
    cluster = KubernetesCluster(file, name)
    place = f"ConfigMap {directory.NAMESPACE}/{directory.NAME}"
    try:
        found = directory.parse(*cluster.config_map(directory.NAMESPACE, directory.NAME))
    except NotThere:
        raise BadInput(
            f"the cluster of context {name!r} ({by}) has no stack: there is no {place}",
            remedy=f"`pulumi up -s {stack}` writes it; or name the right cluster with --context",
        ) from None
    except Forbidden as error:
        raise Forbidden(
            f"you have no role in the stack of context {name!r} ({by}): {error.message}", key=place, remedy=error.remedy
        ) from None
    if found.stack != stack:
        raise BadInput(
            f"the cluster of context {name!r} ({by}) is of stack {found.stack!r}, not {stack!r}",
            remedy="name the right cluster with --context, or the right stack",
        )
    return Found(cluster, found, by)


def outputs(stack: str, root: Path) -> Named | None:
    """What Pulumi says of the stack's cluster; None where it has nothing to say: no CLI, no login, no such stack."""
    program = shutil.which("pulumi")
    if program is None or not (root / "Pulumi.yaml").is_file():
        return None
    try:
        done = subprocess.run(
            [program, "stack", "output", "--json", "--stack", stack, "--non-interactive"],
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PULUMI_S,
            check=False,
            env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "1"},
        )
        found: Any = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return read_outputs(found)


def read_outputs(found: Any) -> Named | None:
    """The part of a stack's outputs that names its cluster. Pure."""
    if not isinstance(found, dict):
        return None
    values = cast(dict[str, Any], found)
    named: Any = values.get(OUTPUT)
    if not isinstance(named, dict):
        return None
    entry = cast(dict[str, Any], named)
    context, kubeconfig = entry.get("name"), entry.get("kubeconfig")
    if not isinstance(context, str) or not context:
        return None
    return Named(context, kubeconfig if isinstance(kubeconfig, str) else None, str(values.get("cluster") or ""))


def _choose(stack: str, kubeconfig: Path | None, context: str | None, root: Path) -> tuple[Path | None, str, str]:
    """Kubeconfig, context, and who named it."""
    if context is not None:
        return kubeconfig, context, "--context"
    named = None if kubeconfig is not None else outputs(stack, root)
    if named is None:
        current = contexts(kubeconfig)[1]
        if current is None:
            raise BadInput("the kubeconfig has no current context", key="--context", remedy="name the cluster's")
        return kubeconfig, current, "the current one"
    by = "from the stack's outputs"
    if _has(None, named.context):
        return None, named.context, by
    # As the stack's file names it.
    theirs = Path(named.kubeconfig).expanduser() if named.kubeconfig else None
    if theirs is not None and theirs.is_file() and _has(theirs, named.context):
        return theirs, named.context, by
    raise BadInput(
        f"stack {stack} is in the cluster of context {named.context!r}, which your kubeconfig does not have",
        key="--context",
        remedy=f"run `{named.login}`" if named.login else "log in to that cluster",
    )


def _has(kubeconfig: Path | None, context: str) -> bool:
    try:
        return context in contexts(kubeconfig)[0]
    except ModelportError:
        return False
