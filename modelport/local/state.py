"""The platform's folder: usable, with room, and changed by one command at a time."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from modelport.errors import BadInput, Conflict
from modelport.local.layout import Layout

Say = Callable[[str], None]
"""Takes a line of progress."""

_PATIENCE = 180.0
FREE_BYTES = 512 * 1024**2
"""Room that a start asks for."""


@contextmanager
def usable(layout: Layout) -> Generator[None]:
    """Say what is wrong with the state folder instead of raising the system's errors."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TimeoutError | ConnectionError):
            raise
        remedy = "make room on the disk" if error.errno == errno.ENOSPC else "make this folder writable"
        raise BadInput(
            f"the platform's state cannot be kept: {error.strerror or error}",
            file=error.filename or layout.state,
            remedy=f"{remedy}, or set MODELPORT_STATE to another folder",
        ) from error


def check_room(layout: Layout) -> None:
    """Refuse a disk that the first training run would fill.

    Raises:
        BadInput: too little is free.
    """
    free = shutil.disk_usage(layout.state).free
    if free < FREE_BYTES:
        raise BadInput(
            f"only {free // 1024**2} MiB are free on this disk, and the platform wants {FREE_BYTES // 1024**2}",
            file=layout.state,
            remedy="make room, or set MODELPORT_STATE to a folder on another disk",
        )


@contextmanager
def exclusive(layout: Layout, say: Say) -> Generator[None]:
    """Be the only command that changes this platform.

    Raises:
        Conflict: another one does not end.
    """
    deadline = time.monotonic() + _PATIENCE
    told = False
    while True:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have deleted the folder: then this lock is on a file that nobody else sees.
            if os.fstat(descriptor).st_ino == layout.lock.stat().st_ino:
                break
        except FileNotFoundError:
            layout.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode() or "unknown"
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise Conflict(
                    f"process {holder} has been starting or stopping this platform for {_PATIENCE:.0f} s",
                    file=layout.lock,
                    remedy="wait for it, or end it; then run this again",
                ) from None
            if not told:
                say(f"another `modelport local` command (process {holder}) works on this platform; waiting for it")
                told = True
        os.close(descriptor)
        time.sleep(0.1)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
