"""What a cluster has on the machine while it runs, and may not leave."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Traces:
    """Where a cluster of one node shows, taken while it runs."""

    state: Path
    network: str
    """Its network namespace, as the kernel names it."""
    group: str

    @classmethod
    def of(cls, state: Path) -> "Traces":
        """The traces of the cluster with a state folder."""
        pid = (state / "cell.pid").read_text()
        group = next(group for group in _groups() if pid in _processes_in(group))
        return cls(state, os.readlink(f"/proc/{pid}/ns/net"), group.parent.name)

    def left(self) -> list[str]:
        """What is left of it now, for people."""
        found = [f"process {name}" for name in processes_of(self.state)]
        found += [f"process in its network: {pid}" for pid in _in_network(self.network)]
        found += [
            f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if self._names(line)
        ]
        found += [f"control group {group}" for group in _groups() if self.group in group.parts]
        return found + ([str(self.state)] if self.state.exists() else [])

    def left_after(self, seconds: float) -> list[str]:
        """What is left when everything is gone, or the time is up."""
        deadline = time.monotonic() + seconds
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.left()

    def _names(self, line: str) -> bool:
        return str(self.state) in line or self.network in line


def processes_of(state: Path) -> list[str]:
    """Names of the programs that run in a state folder, or with it in their command line."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if any(str(state) in part for part in command) or Path(process.cwd()) == state:
                # Of one that is just ending the kernel tells no command line any more.
                found.append(Path(command[0]).name if command else process.name())
        except psutil.Error:
            continue
    return found


def _groups() -> list[Path]:
    """Control groups of all clusters; those of others come and go meanwhile, at which a glob ends with an error."""
    folders = (Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup"))
    return sorted(folder for folder in folders if any(part.startswith("modelport-") for part in folder.parts))


def _processes_in(group: Path) -> list[str]:
    try:
        return (group / "cgroup.procs").read_text().split()
    except OSError:
        return []


def _in_network(namespace: str) -> list[int]:
    found: list[int] = []
    for process in psutil.process_iter():
        try:
            if os.readlink(f"/proc/{process.pid}/ns/net") == namespace:
                found.append(process.pid)
        except OSError:
            continue
    return found
