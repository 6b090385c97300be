"""Stands for ``kubectl port-forward`` where nothing runs inside of pods: forwards to servers of this machine.

``KUBECTL_STAND_IN`` names a JSON file: ``ports`` (what stands behind each port of a pod), ``log`` (a file that gets a
line for each pod that is forwarded to: its name and our process), ``refuse`` (what to fail with, if anything).
"""

import json
import os
import socket
import sys
import threading
from pathlib import Path


def main() -> None:
    plan = json.loads(Path(os.environ["KUBECTL_STAND_IN"]).read_text())
    pod, _, port = sys.argv[-2].removeprefix("pod/"), *sys.argv[-1].partition(":")[1:]
    if plan.get("refuse"):
        print(f"error: {plan['refuse']}", file=sys.stderr)
        sys.exit(1)
    with Path(plan["log"]).open("a") as log:
        log.write(f"{pod} {os.getpid()} {' '.join(sys.argv[1:])}\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"Forwarding from 127.0.0.1:{server.getsockname()[1]} -> {port}", flush=True)
        while True:
            here, _ = server.accept()
            print(f"Handling connection for {port}", flush=True)
            there = socket.create_connection(("127.0.0.1", plan["ports"][port]))
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=copy, args=(one, other), daemon=True).start()


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


if __name__ == "__main__":
    main()
