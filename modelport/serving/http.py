"""Running an application until it is told to end; the agent and the gateway do it alike."""

import signal
import sys
from types import FrameType
from typing import Any


def serve(app: Any, host: str, port: int) -> None:
    """Serve HTTP until SIGTERM or SIGINT; answers under way are finished first. Being told to end is no failure.

    Exits with status 1 when the address cannot be used; the log says why.
    """
    import uvicorn

    # The server finishes, puts back these handlers, and raises the signal that it got once more.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=20,
    )


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
