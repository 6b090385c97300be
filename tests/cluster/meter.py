"""Measures the memory of a cluster and of each of its pods, several times a second.

Run as ``python -m tests.cluster.meter KUBECONFIG CGROUP FILE``: FILE is written anew with each look, as JSON: what is
used now and what was the most, in bytes, of all and of every pod that there ever was.
"""

import json
import sys
import time
import urllib.error
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.cluster import cgroups
from tests.cluster.api import Api

_EVERY_S = 0.3


@dataclass
class Used:
    """Memory in bytes, as the kubelet counts it: without files that need not be in memory."""

    current: int = 0
    """0 of a pod that is gone."""
    peak: int = 0

    def add(self, now: int | None) -> None:
        """Take another measurement; None is that there is nothing to measure any more."""
        self.current = now or 0
        self.peak = max(self.peak, self.current)


def read(file: Path) -> tuple[Used, dict[str, Used]]:
    """What was measured: of all, and of each pod by ``namespace/name``."""
    measured = json.loads(file.read_text())
    return Used(**measured["all"]), {pod: Used(**used) for pod, used in measured["pods"].items()}


def main(kubeconfig: Path, group: str, file: Path) -> None:
    """Measure for ever."""
    api = Api(kubeconfig)
    root = cgroups.memory_group(group)
    whole = Used()
    pods: dict[str, Used] = {}
    names: dict[str, str] = {}
    while True:
        whole.add(cgroups.memory_used(root))
        # One folder deep are pods that are guaranteed all that they ask for, two deep the others.
        found = {place.name.removeprefix("pod"): place for place in root.glob("kubepods/**/pod*")}
        for uid in pods.keys() | found.keys():
            pods.setdefault(uid, Used()).add(cgroups.memory_used(found[uid]) if uid in found else None)
        if found.keys() - names.keys():
            names |= _names(api)
        _write(file, {"all": asdict(whole), "pods": {names.get(uid, uid): asdict(used) for uid, used in pods.items()}})
        time.sleep(_EVERY_S)


def _names(api: Api) -> dict[str, str]:
    try:
        listed = api.get("/api/v1/pods")["items"]
    except (OSError, urllib.error.URLError):  # asked again at the next look
        return {}
    found = [pod["metadata"] for pod in listed]
    return {pod["uid"]: f"{pod['namespace']}/{pod['name']}" for pod in found}


def _write(file: Path, measured: dict[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(measured))
    new.replace(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
