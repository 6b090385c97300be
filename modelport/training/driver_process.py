"""The command's end of Ray's driver: starts it, listens, and ends it with everything that it started."""

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelport.errors import ModelportError
from modelport.training.driver import Order
from modelport.training.events import Event
from modelport.training.session import end_session
from modelport.training.worker import Job

_PLACE = Path("/tmp")  # noqa: S108  what is made there is the owner's only
"""Not the project, whose path may be too long for Ray's sockets."""
_PREFIX = "mp-ray-"
_STOP_S = 20.0


class DriverProcess:
    """A running driver; leaving its context ends it.

    What workers print, and what Ray says, goes to files under `logs`.
    """

    def __init__(self, job: Job, logs: Path) -> None:
        self._logs = logs
        _remove_leftovers()
        self._temporary = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_PLACE))
        self._pipe, theirs = multiprocessing.Pipe()
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / "driver.log"
        with self.log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modelport.training.driver", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                # An interrupt from the keyboard is for the command, which then ends this process itself.
                start_new_session=True,
            )
        theirs.close()
        self._pipe.send(Order(job, self._temporary))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._await_end()
        end_session(self._process.pid)
        self._process.wait()
        self._pipe.close()
        self._keep_logs()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def next_event(self, timeout_s: float) -> Event | None:
        """What the driver told next; None when it told nothing in this time.

        Raises:
            ModelportError: it is gone.
        """
        try:
            received: Any = self._pipe.recv() if self._pipe.poll(timeout_s) else None
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            end = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            how = "exit code" if end is None or end.si_code == os.CLD_EXITED else "killed by signal"
            reason = f"{how} {'unknown' if end is None else end.si_status}"
            raise ModelportError(
                f"the training process ended unexpectedly ({reason})",
                file=self.log,
                remedy="see whether memory ran out; its last checkpoint is safe: the same command goes on from there",
            ) from error
        return received

    def _await_end(self) -> None:
        """Give it time to stop Ray in order. It is not reaped yet: its number names its session."""
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.05)

    def _keep_logs(self) -> None:
        """Copy what workers printed; the rest of Ray's many logs is only of use to Ray's developers."""
        for file in self._temporary.glob("session_2*/logs/worker-*"):
            with suppress(OSError):  # a log that cannot be copied is no reason to lose a training
                if file.suffix in (".out", ".err") and _is_wanted(file):
                    shutil.copyfile(file, self._logs / file.name)


def _is_wanted(file: Path) -> bool:
    # Ray begins each file with lines that name the actor, as `:actor_name:RayTrainWorker`.
    begin = file.read_bytes()[:200]
    return b"RayTrainWorker" in begin or b"TrainController" in begin


def _remove_leftovers() -> None:
    """Remove folders of clusters whose command was killed; their processes died with it."""
    for folder in _PLACE.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
