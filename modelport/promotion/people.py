"""Who did something, and whom to tell."""

import getpass
import logging
import os
import socket
from collections.abc import Callable
from typing import TypeAlias

Warn: TypeAlias = Callable[[str], None]
"""Takes a warning: something that is not as it should be, and did not stop the command."""


def log_warning(message: str) -> None:
    """The default for library callers; the command line prints to stderr instead."""
    logging.getLogger("modelport.promotion").warning(message)


def who() -> str:
    """``user@host``, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
