"""What supervisor starts for every service: clear the way, then become the service.

A service that was killed may leave children that hold its port or its shared memory (MLflow's worker, Triton's backend
processes), and supervisor knows nothing of them. So a start first ends what is left of the last one. Commands and
environments come from a private file, so that no secret and no odd path has to pass through supervisor's configuration.
"""

import json
import os
import sys
import time
from pathlib import Path

from modelport.errors import ModelportError, Unavailable
from modelport.local import ports, triton
from modelport.local.layout import Layout
from modelport.local.processes import end, marked

_PORT_PATIENCE = 5.0


def launch(state: Path, name: str) -> None:
    """Become the service; does not return.

    Raises:
        Unavailable: one of its ports is taken.
    """
    layout = Layout(state)
    service = json.loads(layout.services.read_text())[name]
    end(marked(layout.state_id, name))
    if name == "triton":
        triton.remove_shared_memory(layout.state_id)
    _await_ports(service["ports"])
    command = service["command"]
    os.execve(command[0], command, {**os.environ, **service["environment"]})  # noqa: S606  to become the service, which supervisor then watches


def _await_ports(wanted: list[int]) -> None:
    deadline = time.monotonic() + _PORT_PATIENCE
    while taken := [port for port in wanted if not ports.is_free(port)]:
        if time.monotonic() > deadline:
            raise Unavailable(
                f"port {taken[0]} on 127.0.0.1 is in use by another program",
                remedy="`modelport local down`, then `up`: it chooses a free one",
            )
        time.sleep(0.1)


if __name__ == "__main__":
    try:
        launch(Path(sys.argv[1]), sys.argv[2])
    except (ModelportError, OSError) as error:
        print(f"{sys.argv[2]}: not started: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
