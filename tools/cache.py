"""Folders that are made once per machine and kept: under a lock, and renamed into place when they are complete."""

import fcntl
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.catalog import BuildError

_LOG_LINES = 20

Say = Callable[[str], None]
"""Is told what happens: what is built, and how long it took."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where built tools are kept: ``$MODELPORT_CACHE``, or ``modelport`` in the user's cache folder."""
    named = environment.get("MODELPORT_CACHE")
    base = Path(named) if named else Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelport"
    return base.expanduser().absolute() / "tools"


def once(cache: Path, name: str, what: str, say: Say, make: Callable[[Path, Path], None]) -> Path:
    """The finished folder `cache`/`name`; where there is none, `make` fills a temporary one that then gets the name.

    Args:
        cache: folder of all of them.
        name: decides the content: a folder of this name is never made anew.
        what: what is made, for people.
        say: is told.
        make: gets the temporary folder and a log to append to; the log stays where it fails.
    """
    final = cache / name
    if final.is_dir():
        return final
    with locked(cache / f"{name}.lock", what, say):
        if final.is_dir():
            return final
        for left in cache.glob(f"{name}.building-*"):
            shutil.rmtree(left, ignore_errors=True)
        log = cache / f"{name}.log"
        log.write_text("")
        say(f"building {what}")
        started = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.building-", dir=cache))
        try:
            make(folder, log)
            folder.chmod(0o755)
            folder.rename(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        log.unlink()
        say(f"built {what} in {time.monotonic() - started:.0f} s")
    return final


def logged(command: Sequence[str], log: Path, *, cwd: Path, environment: Mapping[str, str], what: str) -> None:
    """Run a command with its output appended to a log.

    Raises:
        BuildError: it cannot be run or fails; with the last lines of the log.
    """
    with log.open("a") as stream:
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=dict(environment),
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except OSError as error:
            raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise BuildError(failure(f"building {what} failed", log))


def failure(message: str, log: Path) -> str:
    """A message with the last lines of a log."""
    last = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    return f"{message}; the end of {log}:\n{last}"


def say_on_stderr(text: str) -> None:
    """Print a line on standard error, which build logs show at once and scripts do not parse."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def locked(file: Path, what: str, say: Say) -> Generator[None]:
    """Hold a lock, which ends with the process that holds it; who has to wait is told that `what` is being made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what} is being made by another process: waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
