"""Keeps the processes of a cluster, and ends them when whoever started it is gone.

Run as ``python keeper.py STATE``. Each line of standard input is a JSON object with ``name``, ``command``,
``environment`` and ``files``, open files to hand on: the process is started in STATE and writes STATE/log/NAME.log;
when it ends, STATE/ended/NAME says with which status. With null as its command, the process of that name is killed. At
the end of the input, which comes too when the writer is killed, every process is killed and STATE is removed. It is a
program of its own because only a process that outlives its starter can clean up after it.

In a PID namespace of its own (see `cell`) it is the first process: it takes the orphans, and leaves STATE, in which
others' files may be mounted, to who made the namespace.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_TICK_S = 0.2
_PR_SET_PDEATHSIG = 1


def main(state: Path) -> None:
    """Run until standard input ends, a signal comes, or the parent process has changed."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started this; it closes the input
    children: dict[str, subprocess.Popen[bytes]] = {}
    pending = b""
    try:
        while os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], _TICK_S)
            if readable:
                data = os.read(0, 1 << 16)
                if not data:
                    break
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    _obey(state, json.loads(line), children)
            for name, child in children.items():
                if child.poll() is not None:
                    (state / "ended" / name).write_text(str(child.returncode))
            if os.getpid() == 1:
                _reap_orphans({child.pid for child in children.values()})
    finally:
        for child in children.values():
            child.kill()
        for child in children.values():
            child.wait()
        if os.getpid() != 1:
            shutil.rmtree(state, ignore_errors=True)


def _obey(state: Path, order: dict[str, Any], children: dict[str, subprocess.Popen[bytes]]) -> None:
    name: str = order["name"]
    before = children.pop(name, None)
    if before is not None:
        before.kill()
        before.wait()
    if order["command"] is not None:
        (state / "ended" / name).unlink(missing_ok=True)
        children[name] = _start(state, order)


def _reap_orphans(children: set[int]) -> None:
    """Take the status of processes that ended and whose parents are gone."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in children:
            return
        os.waitpid(ended.si_pid, 0)


def _start(state: Path, order: dict[str, Any]) -> subprocess.Popen[bytes]:
    with (state / "log" / f"{order['name']}.log").open("ab") as log:
        return subprocess.Popen(
            order["command"],
            cwd=state,
            env=order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=order["files"],
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def _die_with_parent() -> None:
    """For the case that the keeper itself is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
