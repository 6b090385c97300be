"""Folders of sessions: in the user's own state folder, readable by him alone, gone when the session ends.

A lock that the session holds tells a folder in use from one whose session was killed.
"""

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from modelport.errors import Conflict, Refused, Unavailable
from modelport.remote.uses import Use

SESSION = "MODELPORT_SESSION"
"""Variable with the folder of the session that a program was started in."""

_SHARED = "shared"
"""The session that other terminals use."""
_LOCK = "lock"


def choose(stack: str, use: Use, root: Path) -> Path:
    """Connection file of a kind of commands in a session that is up: the one we were started in, or the shared one.

    Args:
        stack: name of the stack.
        use: kind of commands.
        root: the state folder.

    Raises:
        Unavailable: no session is up.
        Refused: it has not what the commands need.
    """
    named = os.environ.get(SESSION)
    folder = Path(named) if named and Path(named).parent == _folder(root, stack) else _folder(root, stack) / _SHARED
    if not _in_use(folder):
        raise Unavailable(
            f"stack {stack} is not connected",
            remedy=f"run `modelport connect {stack}` in another terminal, and leave it",
        )
    file = folder / f"{use}.json"
    if not file.is_file():
        raise Refused(
            f"the running `modelport connect {stack}` has not what this command needs",
            remedy="it says which roles it has; connect again if you were given another one since",
        )
    return file


def _folder(root: Path, stack: str) -> Path:
    return root / "stacks" / stack


@contextmanager
def own_folder(root: Path, stack: str, *, shared: bool) -> Generator[Path]:
    """A folder that only we can read and that is ours until the end; those of sessions that were killed are removed.

    Args:
        root: the state folder.
        stack: name of the stack.
        shared: whether other terminals use it.

    Raises:
        Conflict: it is shared, and there is one already.
    """
    parent = _folder(root, stack)
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = parent / (_SHARED if shared else f"once-{os.getpid()}")
    with _locked(parent / _LOCK):
        # A folder that was just made and is not locked yet must not look like one that was left.
        for left in [path for path in parent.iterdir() if path.is_dir() and not _in_use(path)]:
            shutil.rmtree(left, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            raise Conflict(
                f"stack {stack} is connected already, by another `modelport connect {stack}`",
                remedy=f"use that one, with `modelport --stack {stack} ...`, or end it",
            ) from None
        mine = _lock(folder / _LOCK)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(mine)


def _lock(file: Path) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


@contextmanager
def _locked(file: Path) -> Generator[None]:
    descriptor = _lock(file)
    try:
        yield
    finally:
        os.close(descriptor)


def _in_use(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
