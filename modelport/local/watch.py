"""How the platform's services are."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from modelport.local import health
from modelport.local.layout import Layout
from modelport.local.processes import family_memory, marked
from modelport.local.services import NAMES
from modelport.local.supervision import Crashes, ProcessInfo, Supervisor


class Health(StrEnum):
    """How a service is."""

    READY = "ready"
    STARTING = "starting"
    UNWELL = "not answering"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"
    ORPHANED = "orphaned"
    """Its process runs, but the supervisor is gone: `up` or `down` cleans it."""


@dataclass(frozen=True)
class ServiceStatus:
    """One row of `status`."""

    name: str
    state: Health
    url: str
    pid: int | None = None
    restarts: int = 0
    """Crashes since the platform was started; each was followed by a restart."""
    last_exit: str = ""
    """How it ended the last time it crashed."""
    uptime_seconds: float = 0.0
    memory_bytes: int = 0
    """Resident, with its children."""
    detail: str = ""
    """What is wrong."""


def status(root: Path, *, state: Path | None = None) -> list[ServiceStatus]:
    """How every service is, in a fixed order. Changes nothing."""
    layout = Layout.of(root, state)
    supervisor = Supervisor(layout)
    known = _known_services(layout)
    if not supervisor.alive():
        return [_without_supervisor(layout, name, known.get(name)) for name in NAMES]
    processes, crashed = supervisor.processes(), supervisor.crashes()
    return [_supervised(name, known.get(name), processes.get(name), crashed.get(name, Crashes())) for name in NAMES]


@dataclass(frozen=True)
class _KnownService:
    url: str
    health: str


def _known_services(layout: Layout) -> dict[str, _KnownService]:
    try:
        rows = json.loads(layout.services.read_text())
    except FileNotFoundError:
        return {}
    return {name: _KnownService(row["url"], row["health"]) for name, row in rows.items()}


def _without_supervisor(layout: Layout, name: str, known: _KnownService | None) -> ServiceStatus:
    left = marked(layout.state_id, name)
    url = known.url if known else ""
    if not left:
        return ServiceStatus(name, Health.STOPPED, url)
    pid = min(process.pid for process in left)
    return ServiceStatus(
        name,
        Health.ORPHANED,
        url,
        pid=pid,
        memory_bytes=family_memory(pid),
        detail="the supervisor is gone; `modelport local up` cleans up and starts anew",
    )


def _supervised(name: str, known: _KnownService | None, process: ProcessInfo | None, crashed: Crashes) -> ServiceStatus:
    if process is None or known is None:
        return ServiceStatus(name, Health.STOPPED, known.url if known else "")
    state, detail = _health(process, known)
    return ServiceStatus(
        name,
        state,
        known.url,
        pid=process.pid or None,
        restarts=crashed.count,
        last_exit=crashed.last,
        uptime_seconds=process.uptime,
        memory_bytes=family_memory(process.pid) if process.pid else 0,
        detail=detail,
    )


def _health(process: ProcessInfo, known: _KnownService) -> tuple[Health, str]:
    if process.state in ("FATAL", "EXITED", "UNKNOWN"):
        return Health.FAILED, "given up after ten tries; `modelport local up` tries again"
    if process.state == "BACKOFF":
        return Health.RESTARTING, "ends right after its start"
    if process.state in ("STOPPED", "STOPPING"):
        return Health.STOPPED, ""
    if process.state == "STARTING":  # what answers on its port may still be a child that the last one left
        return Health.STARTING, ""
    wrong = health.problem(known.health, timeout=1.0)
    if wrong is None:
        return Health.READY, ""
    return (Health.STARTING if process.uptime < 30 else Health.UNWELL), wrong
