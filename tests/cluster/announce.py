"""A network plugin, the last of a pod's chain: tells the enforcer which address the pod has got, and waits for it.

So that no program of a pod runs before the policies hold for it. A file of its own without imports of ours: the
container runtime starts it for each pod, with the standard library alone. It fails, and the pod with it, when the
enforcer does not answer; the kubelet tries again.

Specification: https://www.cni.dev/docs/spec/ (1.0.0).
"""

import json
import os
import socket
import sys
import time

_PATIENCE_S = 40.0


def main() -> None:
    """Obey one command of the container runtime."""
    command, configuration = os.environ["CNI_COMMAND"], json.load(sys.stdin)
    version = configuration["cniVersion"]
    if command == "VERSION":
        print(json.dumps({"cniVersion": version, "supportedVersions": [version]}))
    elif command == "ADD":
        result = configuration["prevResult"]
        try:
            _announce(configuration["socket"], _pod(), result["ips"][0]["address"].partition("/")[0])
        except (OSError, ValueError) as error:
            told = {"cniVersion": version, "code": 11, "msg": "the policies are not enforced", "details": str(error)}
            print(json.dumps(told))
            sys.exit(1)
        print(json.dumps(result))


def _pod() -> str:
    """The pod's UID."""
    arguments = dict(pair.split("=", 1) for pair in os.environ["CNI_ARGS"].split(";"))
    return arguments["K8S_POD_UID"]


def _announce(path: str, uid: str, address: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(_PATIENCE_S)
        while True:
            try:
                stream.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):  # it is being started
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        stream.sendall(json.dumps({"uid": uid, "address": address}).encode() + b"\n")
        with stream.makefile() as answer:
            said = answer.readline().strip()
    if said != "enforced":
        raise ValueError(f"the enforcer says {said!r} of pod {uid} with address {address}")


if __name__ == "__main__":
    main()
