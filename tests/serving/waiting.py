"""Waiting with a deadline and a message."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from modelport.objects import NotFound


def until(check: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """The first true value of `check`; fails, saying what it waited for, when there is none in time."""
    deadline = time.monotonic() + seconds
    value: Any = None
    while time.monotonic() < deadline:
        try:
            value = check()
            if value:
                return value
        except (httpx.HTTPError, NotFound) as error:
            value = error
        time.sleep(0.05)
    pytest.fail(f"waited {seconds:g} s for {what}; last seen: {value!r}")
