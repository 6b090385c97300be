"""Ports on 127.0.0.1: free ones, and whether a wished one is free."""

import random
import socket
from collections.abc import Iterable

# Below the range from which Linux takes ports for outgoing connections (32768 and up): a port that is only noted for
# the next start must not be taken by somebody's HTTP request in between.
_RANGE = range(18000, 32000)


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # What servers do: a port whose last connections linger in TIME_WAIT is free for a new listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_ports(count: int, avoid: Iterable[int] = ()) -> list[int]:
    """`count` different free ports, none of them in `avoid`."""
    taken = set(avoid)
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        if len(found) == count:
            break
        if port not in taken and is_free(port):
            found.append(port)
    if len(found) < count:
        raise OSError(f"only {len(found)} of {count} wanted ports are free on 127.0.0.1")
    return found
