"""Running an application until it is told to end; the agent and the gateway do it alike."""

import signal
import sys
from types import FrameType
from typing import Any

_REST_SECONDS = 620
"""For which a connection may rest between two requests. A server that hangs up first now and then does it just when the
next request is on its way, which then gets no answer. Google's load balancers let connections rest for 600 s, and want
servers to wait longer ("Backend HTTP keepalive timeout", https://cloud.google.com/load-balancing/docs/https).
"""


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
        timeout_keep_alive=_REST_SECONDS,
        timeout_graceful_shutdown=20,
    )


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
