"""The platform's own processes: found by a mark in their environment, never by name.

Every process that the platform starts, and every child of it, carries `MARK`. A process that was found is ended through
psutil, which checks its creation time first, so that a reused pid is never hit.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

import psutil

from modelport.errors import Unavailable

MARK = "MODELPORT_STATE_ID"
"""Environment variable: which platform a process belongs to."""
SERVICE_MARK = "MODELPORT_SERVICE"
"""Environment variable: which of its services; the supervisor has none."""
SUPERVISOR = ""
"""The supervisor, where a service's name is asked for."""


def marked(state_id: str, service: str | None = None) -> list[psutil.Process]:
    """This user's processes that carry the mark, without the current one and those it was started by."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        try:
            environment = process.environ()
            if environment.get(MARK) != state_id or process.status() == psutil.STATUS_ZOMBIE:
                continue
        except psutil.Error:  # ended meanwhile, or another user's
            continue
        if service is None or environment.get(SERVICE_MARK, SUPERVISOR) == service:
            found.append(process)
    return found


def end(processes: Iterable[psutil.Process], patience: float = 3.0) -> None:
    """Terminate processes, and kill what has not ended after `patience` seconds.

    Raises:
        Unavailable: one is still there.
    """
    waiting = list(processes)
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for process in waiting:
            with suppress(psutil.NoSuchProcess):
                send(process)
        _, waiting = psutil.wait_procs(waiting, timeout=patience)
    if waiting:
        listed = ", ".join(str(process.pid) for process in waiting)
        raise Unavailable(
            f"processes of the platform do not end: {listed}", remedy="they hang in the kernel; look at them with ps"
        )


def family_memory(pid: int) -> int:
    """Resident bytes of a process and its children; pages that they share count once per process."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
