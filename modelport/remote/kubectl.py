"""Tunnels to pods by `kubectl port-forward`.

kubectl and not the Python client's port-forward: one connection to the API server carries many, every way of logging in
that the user's kubectl has works, and half-closed connections and descriptors above 1024 do too. What kubectl lacks,
going on to another pod, `relay` adds.
"""

import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Sequence

from modelport.errors import Unavailable

_START_S = 20.0
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")
# kubectl reads nothing, so it would outlive whoever started it and was killed. The shell waits for the end of its own
# input, which comes with our end however that happens, and gives up kubectl's output, whose end is kubectl's.
_GUARD = '"$@" </dev/null 2>&1 & child=$!; exec >&- 2>&-; read -r _; kill "$child"; wait "$child"'


def program() -> str:
    """Path of kubectl.

    Raises:
        Unavailable: there is none.
    """
    found = shutil.which("kubectl")
    if found is None:
        raise Unavailable(
            "there is no kubectl on PATH, and a cluster is reached through it",
            remedy="install it: https://kubernetes.io/docs/tasks/tools/",
        )
    return found


class KubectlTunnel:
    """A port on this machine that leads to a pod's port, until the pod or kubectl ends.

    Args:
        arguments: that mean the cluster, such as ``--context=...``.
        namespace: of the pod.
        pod: its name.
        port: its port.

    Raises:
        Unavailable: kubectl does not forward; with what it said.
    """

    def __init__(self, arguments: Sequence[str], namespace: str, pod: str, port: int) -> None:
        command = [program(), *arguments, f"--namespace={namespace}", "port-forward", "--address=127.0.0.1"]
        self._said: deque[str] = deque(maxlen=5)
        self._ended = threading.Event()
        self._forwards = threading.Event()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "kubectl", *command, f"pod/{pod}", f":{port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Ctrl-C is for us to take: what runs over the tunnel ends first.
            start_new_session=True,
        )
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        self._reader = threading.Thread(target=self._read, name=f"port-forward {pod}", daemon=True)
        self._reader.start()
        self._forwards.wait(_START_S)
        if not self.address[1]:
            self.close()
            said = " ".join(self._said) or f"nothing within {_START_S:.0f} s"
            raise Unavailable(f"pod {namespace}/{pod} cannot be reached; kubectl said: {said}")

    def alive(self) -> bool:
        """Whether kubectl still forwards."""
        return not self._ended.is_set()

    def close(self) -> None:
        """End kubectl."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                match = _FORWARDING.match(line)
                if match and not self.address[1]:
                    self.address = ("127.0.0.1", int(match[1]))
                    self._forwards.set()
                elif not line.startswith(("Handling connection", "Forwarding from")):
                    self._said.append(line.strip())
        self._ended.set()
        self._forwards.set()
