"""Control groups of a cluster: made before it starts, measured while it runs, removed after it.

Both versions: of the first, every mounted hierarchy gets a group of the same name.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

_CGROUP2 = "cgroup2"
_REMOVED_WITHIN_S = 10.0
_FAVOUR = 100
"""Times the processor time that one process gets that wants it too: beside a group each of them counts for itself."""


def create(name: str) -> list[Path]:
    """Make the groups NAME and NAME/programs; the files to write a process id to, for it to be in the latter.

    All in NAME count as one where processes want more time than there is, so it is favoured: a cluster whose probes are
    answered late because something else runs beside it restarts its pods.
    """
    files = [_made(parent / name / "programs") / "cgroup.procs" for parent in _hierarchies()]
    for parent in _hierarchies():
        for setting, usual in (("cpu.shares", 1024), ("cpu.weight", 100)):
            if (parent / name / setting).is_file():
                (parent / name / setting).write_text(str(_FAVOUR * usual))
    return files


def enter(files: list[Path]) -> None:
    """Move this process into groups that `create` made."""
    for file in files:
        file.write_text(str(os.getpid()))


def remove(name: str) -> list[Path]:
    """Remove the groups NAME and all below; what could not be removed because processes are in it."""
    deadline = time.monotonic() + _REMOVED_WITHIN_S
    while True:
        left = [group for parent in _hierarchies(every=True) for group in _removed(parent / name)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def memory_group(name: str) -> Path:
    """The group NAME where memory is accounted."""
    return next(parent for parent in _hierarchies() if parent.name in ("memory", "unified", "cgroup")) / name


def memory_used(group: Path) -> int | None:
    """Bytes that the processes of a group use, as the kubelet counts: without files that need not be in memory."""
    first = group / "memory.usage_in_bytes"
    try:
        used = int((first if first.is_file() else group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # it is gone, or going
        return None
    return max(0, used - int(counts.get("total_inactive_file", counts["inactive_file"])))


def cpu_group(name: str) -> Path:
    """The group NAME where processor time is accounted."""
    return (
        next(parent for parent in _hierarchies() if "cpuacct" in parent.name or parent.name in ("unified", "cgroup"))
        / name
    )


def cpu_used(group: Path) -> float | None:
    """Seconds of processor time that the processes of a group have had."""
    first = group / "cpuacct.usage"
    try:
        if first.is_file():
            return int(first.read_text()) / 1e9
        counts = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    except OSError:  # it is gone, or going
        return None
    return int(counts["usage_usec"]) / 1e6


def _hierarchies(*, every: bool = False) -> Iterator[Path]:
    """Mount points of all hierarchies; that of version 2 beside version 1 is used by nothing here, and only cleaned."""
    mounted: list[tuple[str, Path]] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split()[0]
        if kind in ("cgroup", _CGROUP2):
            mounted.append((kind, Path(before.split()[4])))
    only_second = all(kind == _CGROUP2 for kind, _ in mounted)
    for kind, place in mounted:
        if every or only_second or kind != _CGROUP2:
            yield place


def _made(group: Path) -> Path:
    if not group.is_dir():
        parent = _made(group.parent)
        # Version 2 hands controllers down one by one; in version 1 a new cpuset is empty, and takes no process.
        wanted = parent / "cgroup.subtree_control"
        if wanted.is_file():
            controllers = (parent / "cgroup.controllers").read_text().split()
            wanted.write_text(" ".join(f"+{controller}" for controller in controllers))
        group.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (group / setting).is_file() and not wanted.is_file():
                (group / setting).write_text((parent / setting).read_text())
    return group


def _removed(group: Path) -> Iterator[Path]:
    """Remove a group and those below, the lowest first; what is left."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            yield Path(folder)
