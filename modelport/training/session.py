"""Ending everything that a process started: its session, which Ray's many processes stay in."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_DEADLINE_S = 10.0


def end_session(session: int) -> None:
    """Kill every process of a session but the caller, and wait until they are gone.

    The session's leader must not have been waited for yet: as long as it is there, its number is nobody else's.
    """
    deadline = time.monotonic() + _DEADLINE_S
    while (members := _members(session)) and time.monotonic() < deadline:
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.02)


def _members(session: int) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):  # it ended while we looked
            # After the name in parentheses, which may hold anything: state, parent, group, session.
            state, _, _, its_session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(its_session) == session and state != "Z":
                found.append(int(folder.name))
    return found
