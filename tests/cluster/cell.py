"""A part of the machine for one cluster: namespaces of its own for processes, mounts and network, and control groups.

Run as ``python -m tests.cluster.cell STATE CGROUP [FILE...]``, with the numbers of open files to hand on. The first
process in the namespaces is `keeper`, which gets this one's standard input. When that ends, or this process is killed,
the kernel ends every process inside, however it was started, and with the last one go mounts and network. Then control
groups and STATE are removed; after a kill of this very process `clean` is what does it, before the next start.
"""

import ctypes
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import cgroups

UNSHARED = ("--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation=private", "--net")

_PR_SET_PDEATHSIG = 1


def main(state: Path, group: str, files: Sequence[int]) -> None:
    """Run until the keeper ends."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started this; it closes the input
    child: subprocess.Popen[bytes] | None = None
    try:
        entries = cgroups.create(group)

        def enter() -> None:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            cgroups.enter(entries)

        keeper = Path(__file__).with_name("keeper.py")
        command = ["unshare", *UNSHARED, sys.executable, "-I", str(keeper), str(state)]
        child = subprocess.Popen(command, pass_fds=files, preexec_fn=enter)
        # Its namespaces for network and mounts are those of the cell.
        (state / "cell.pid").write_text(str(child.pid))
        child.wait()
    finally:
        if child is not None:
            child.kill()
            child.wait()
        clean(state, group)


def clean(state: Path, group: str) -> None:
    """Remove what a cell that has ended left: its control groups, and its state."""
    left = cgroups.remove(group)
    if left:
        print(f"control groups that still have processes: {', '.join(map(str, left))}", file=sys.stderr, flush=True)
    shutil.rmtree(state, ignore_errors=True)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(number) for number in sys.argv[3:]])
