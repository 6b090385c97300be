"""How long a training waits for an object store that is away: one rule for all that it reads and writes there."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

from modelport.errors import Unavailable

PATIENCE_VARIABLE = "MODELPORT_PATIENCE_S"
"""Environment variable: seconds for which a service that is away is waited for (default 60)."""

_PAUSE_S = 1.0

T = TypeVar("T")


def patience_seconds() -> float:
    """What this process was told, or the default."""
    return float(os.environ.get(PATIENCE_VARIABLE, "60"))


class Patience:
    """Does things that need a service, again and again while it is away. Any thread may call it."""

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        """Wait `seconds` for each thing; `tell` takes a line where that begins."""
        self._seconds = seconds
        self._tell = tell
        self._waiting = False

    def __call__(self, action: Callable[[], T]) -> T:
        """Do it, which must be something that can be repeated.

        Raises:
            Unavailable: the service stayed away.
        """
        deadline: float | None = None
        while True:
            try:
                done = action()
            except Unavailable as error:
                # From its first failure on: what failed may have taken long until then.
                now = time.monotonic()
                deadline = now + self._seconds if deadline is None else deadline
                if now >= deadline:
                    raise
                if not self._waiting:
                    # Of many threads that wait for the same, one says so.
                    self._waiting = True
                    self._tell(f"{error.message}; trying for {self._seconds:.0f} s")
                time.sleep(_PAUSE_S)
                continue
            self._waiting = False
            return done
