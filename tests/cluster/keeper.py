"""Keeps the processes of a control plane, and ends them when whoever started it is gone.

Run as ``python keeper.py STATE``. Each line of standard input is a JSON object with ``name``, ``command`` and
``environment``: the process is started in STATE and writes STATE/log/NAME.log; when it ends, STATE/ended/NAME says with
which status. At the end of the input, which comes too when the writer is killed, every process is killed and STATE is
removed. It is a program of its own because only a process that outlives its starter can clean up after it.
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
                    order = json.loads(line)
                    children[order["name"]] = _start(state, order["name"], order["command"], order["environment"])
            for name, child in children.items():
                if child.poll() is not None:
                    (state / "ended" / name).write_text(str(child.returncode))
    finally:
        for child in children.values():
            child.kill()
        for child in children.values():
            child.wait()
        shutil.rmtree(state, ignore_errors=True)


def _start(state: Path, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (state / "log" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=state,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def _die_with_parent() -> None:
    """For the case that the keeper itself is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
