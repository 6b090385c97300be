"""Enforces NetworkPolicies on the one node, with nftables: no kept enforcer can be built from Go modules.

Run as ``python -m tests.cluster.enforcer KUBECONFIG SOCKET`` in the node's network namespace. It follows policies, pods
and namespaces, and when what its table should say has changed it replaces the rules in one step. On SOCKET the network
plugin (`announce`) says which address a pod has got, and gets its answer when the table has it: only then does the pod
start. What it cannot do is in ``docs/cluster-on-one-machine.md``. An error of nft ends it, and who waits for the
cluster is told.
"""

import json
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.api import Api, Manifest
from tests.cluster.policies import Chains, render, replacing

COLLECTIONS: Mapping[str, str] = {
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
}

_GATHER_S = 0.03
"""Changes come in groups: a pod's address, its phase, its conditions."""
_KNOWN_S = 30.0
"""Within this a pod that has got an address must have been seen at the API server."""


class Store:
    """Objects of one kind, as they are now, by their UIDs."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.known = threading.Event()
        self._tell = tell
        self._objects: dict[str, Manifest] = {}

    def listed(self, items: Sequence[Manifest]) -> None:
        """Take all that there is."""
        self._objects = {item["metadata"]["uid"]: item for item in items}
        self.known.set()
        self._tell()

    def changed(self, event: str, item: Manifest) -> None:
        """Take one change."""
        objects = dict(self._objects)
        if event == "DELETED":
            objects.pop(item["metadata"]["uid"], None)
        else:
            objects[item["metadata"]["uid"]] = item
        self._objects = objects
        self._tell()

    def all(self) -> list[Manifest]:
        """The objects in the order of their names, so that the same objects give the same table."""
        return sorted(
            self._objects.values(), key=lambda item: (item["metadata"].get("namespace", ""), item["metadata"]["name"])
        )


class Addresses:
    """Addresses that pods have got, before their status tells."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._of: dict[str, str] = {}
        self._enforced: dict[str, str] = {}

    def announce(self, uid: str, address: str) -> bool:
        """Take a pod's address, and wait until the table has it; false when that took too long."""
        with self._changed:
            self._of[uid] = address
            self._tell()
            return self._changed.wait_for(lambda: self._enforced.get(uid) == address, _KNOWN_S)

    def fill_in(self, pods: Sequence[Manifest]) -> list[Manifest]:
        """The pods, each with the address that was announced of it."""
        with self._changed:
            return [
                {**pod, "status": {**pod.get("status", {}), "podIP": self._of[pod["metadata"]["uid"]]}}
                if pod["metadata"]["uid"] in self._of
                else pod
                for pod in pods
            ]

    def enforced(self, pods: Sequence[Manifest]) -> None:
        """Note that the table is made of these pods, and forget those that are gone."""
        with self._changed:
            before = self._enforced
            self._enforced = {pod["metadata"]["uid"]: pod.get("status", {}).get("podIP", "") for pod in pods}
            for uid in before.keys() - self._enforced.keys():
                self._of.pop(uid, None)
            self._changed.notify_all()


def main(kubeconfig: Path, socket: Path) -> None:
    """Enforce for ever."""
    changed = threading.Event()
    stores = {name: Store(changed.set) for name in COLLECTIONS}
    addresses = Addresses(changed.set)
    for name, store in stores.items():
        follow = Api(kubeconfig).follow
        threading.Thread(target=follow, args=(COLLECTIONS[name], store.listed, store.changed), daemon=True).start()
    for store in stores.values():
        store.known.wait()
    threading.Thread(target=_listen, args=(socket, addresses), daemon=True).start()
    applied: Chains = {}
    while True:
        changed.clear()
        found = {name: store.all() for name, store in stores.items()}
        found["pods"] = addresses.fill_in(found["pods"])
        chains = render(**found)
        if chains != applied:
            subprocess.run(["nft", "-f", "-"], input=replacing(applied, chains), text=True, check=True)
            applied = chains
            print(f"{len(chains)} chains", flush=True)
        addresses.enforced(found["pods"])
        changed.wait()
        time.sleep(_GATHER_S)


def _listen(socket: Path, addresses: Addresses) -> None:
    """Answer the network plugin; one connection a pod: its UID and address on a line."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            told = json.loads(self.rfile.readline())
            self.wfile.write(b"enforced\n" if addresses.announce(told["uid"], told["address"]) else b"not known\n")

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
