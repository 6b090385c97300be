"""Measures what a cluster and each of its pods use, several times a second, and notes what each pod had asked for.

Run as ``python -m tests.cluster.meter KUBECONFIG CGROUP FILE``: FILE is written anew with each look, as JSON, with all
pods that there ever were: a training's head and workers, and Jobs, are gone before anybody looks.
"""

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.utils import parse_quantity

from tests.cluster import cgroups
from tests.cluster.api import Api, Manifest

_EVERY_S = 0.3
_BURST_LOOKS = 10
"""Processor time is averaged over so many looks for the highest use: a thread's peak in one of them says nothing."""
MIB = 1 << 20


@dataclass
class Used:
    """Memory in bytes, as the kubelet counts it: without files that need not be in memory."""

    current: int = 0
    """0 of what is gone."""
    peak: int = 0

    def add(self, now: int | None) -> None:
        """Take another measurement; None is that there is nothing to measure any more."""
        self.current = now or 0
        self.peak = max(self.peak, self.current)


@dataclass
class Asked:
    """What a pod asked for, of all containers that run at once: cores and bytes; None is that one has no limit."""

    cpu: float = 0.0
    cpu_limit: float | None = 0.0
    memory: int = 0
    memory_limit: int | None = 0


@dataclass
class PodUsed(Used):
    """What a pod has used, beside what it asked for."""

    pod: str = ""
    """``namespace/name``; empty as long as that is not known."""
    cpu_s: float = 0.0
    """Seconds of processor time."""
    cpu_peak: float = 0.0
    """Cores, over some three seconds."""
    seconds: float = 0.0
    """For which it was seen."""
    asked: Asked = field(default_factory=Asked)
    killed_for_memory: list[str] = field(default_factory=list[str])
    """Containers that were, at any time."""

    def __str__(self) -> str:
        def of(asked: float, limit: float | None, unit: float) -> str:
            return f"{asked / unit:g} to {'no limit' if limit is None else f'{limit / unit:g}'}"

        asked = self.asked
        killed = f", KILLED FOR MEMORY: {', '.join(self.killed_for_memory)}" if self.killed_for_memory else ""
        return (
            f"{self.pod:<76} {self.peak / MIB:5.0f} MiB of {of(asked.memory, asked.memory_limit, MIB):<15} "
            f"{self.cpu_s / max(self.seconds, 1):4.2f}, at most {self.cpu_peak:4.2f} cores of "
            f"{of(asked.cpu, asked.cpu_limit, 1)}{killed}"
        )


def read(file: Path) -> tuple[Used, list[PodUsed]]:
    """What was measured: of all, and of each pod."""
    measured = json.loads(file.read_text())
    pods = [PodUsed(**{**used, "asked": Asked(**used["asked"])}) for used in measured["pods"]]
    return Used(**measured["all"]), pods


def asked_by(spec: Manifest) -> Asked:
    """What a pod's spec asks for, as the scheduler adds it up. Pure.

    A container that goes before the others counts as long as it asks for more than they; one that stays beside them
    (an init container with the restart policy ``Always``) counts with them.
    """
    staying = [one for one in spec.get("initContainers", []) if one.get("restartPolicy") == "Always"]
    before = [one for one in spec.get("initContainers", []) if one not in staying]

    def total(kind: str, resource: str) -> float | None:
        def of(container: Manifest) -> float | None:
            quantity = container.get("resources", {}).get(kind, {}).get(resource)
            return None if quantity is None else float(parse_quantity(quantity))

        together, first = [of(one) for one in [*staying, *spec["containers"]]], [of(one) for one in before]
        if kind == "limits" and None in [*together, *first]:
            return None
        return max(sum(one or 0.0 for one in together), *(one or 0.0 for one in first), 0.0)

    memory_limit = total("limits", "memory")
    return Asked(
        cpu=total("requests", "cpu") or 0.0,
        cpu_limit=total("limits", "cpu"),
        memory=int(total("requests", "memory") or 0),
        memory_limit=None if memory_limit is None else int(memory_limit),
    )


def killed_for_memory(status: Manifest) -> set[str]:
    """Containers of a pod that its status says were killed because they took more than they might. Pure."""
    found = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    return {
        one["name"]
        for one in found
        for state in (one.get("state", {}), one.get("lastState", {}))
        if state.get("terminated", {}).get("reason") == "OOMKilled"
    }


class Pods:
    """Every pod that was seen, by its UID: the API server knows what it asked for, the node what it uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pods: dict[str, PodUsed] = {}
        self._bursts: dict[str, deque[tuple[float, float]]] = {}

    def listed(self, items: Sequence[Manifest]) -> None:
        """Take pods as they are."""
        for item in items:
            self.changed("MODIFIED", item)

    def changed(self, event: str, item: Manifest) -> None:
        """Take one pod as it is, or was at its end."""
        del event
        metadata = item["metadata"]
        with self._lock:
            pod = self._pods.setdefault(metadata["uid"], PodUsed())
            pod.pod = f"{metadata['namespace']}/{metadata['name']}"
            pod.asked = asked_by(item["spec"])
            pod.killed_for_memory = sorted({*pod.killed_for_memory, *killed_for_memory(item.get("status", {}))})

    def measured(self, now: float, memory: Mapping[str, int | None], cpu: Mapping[str, float | None]) -> None:
        """Take a look at the node: bytes in use, and seconds of processor time so far, by UID."""
        with self._lock:
            for uid in memory.keys() | self._pods.keys():
                pod = self._pods.setdefault(uid, PodUsed())
                pod.add(memory.get(uid))
                used = cpu.get(uid)
                if used is None:
                    continue
                burst = self._bursts.setdefault(uid, deque(maxlen=_BURST_LOOKS + 1))
                burst.append((now, used))
                (began, before) = burst[0]
                pod.cpu_s = used
                if len(burst) > _BURST_LOOKS:
                    pod.cpu_peak = max(pod.cpu_peak, (used - before) / (now - began))
                if len(burst) > 1:
                    pod.seconds += now - burst[-2][0]

    def used(self) -> list[dict[str, Any]]:
        """All of them, for JSON; pods that had no process are left out."""
        with self._lock:
            return [asdict(pod) for pod in self._pods.values() if pod.peak]


def main(kubeconfig: Path, group: str, file: Path) -> None:
    """Measure for ever."""
    memory, cpu = cgroups.memory_group(group), cgroups.cpu_group(group)
    whole, pods = Used(), Pods()
    follow = Api(kubeconfig).follow
    threading.Thread(target=follow, args=("/api/v1/pods", pods.listed, pods.changed), daemon=True).start()
    while True:
        whole.add(cgroups.memory_used(memory))
        pods.measured(
            time.monotonic(),
            {uid: cgroups.memory_used(place) for uid, place in _places(memory)},
            {uid: cgroups.cpu_used(place) for uid, place in _places(cpu)},
        )
        _write(file, {"all": asdict(whole), "pods": pods.used()})
        time.sleep(_EVERY_S)


def _places(root: Path) -> Iterable[tuple[str, Path]]:
    """Groups of pods, by UID: one folder deep are those that are guaranteed all they ask for, two deep the others."""
    # Groups come and go meanwhile: a walk leaves out what has gone, a glob ends with an error.
    folders = (Path(folder) for folder, _, _ in os.walk(root / "kubepods"))
    return [(folder.name.removeprefix("pod"), folder) for folder in folders if folder.name.startswith("pod")]


def _write(file: Path, measured: dict[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(measured))
    new.replace(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
