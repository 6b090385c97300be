"""Enforces NetworkPolicies on the one node, with nftables: no kept enforcer can be built from Go modules.

Run as ``python -m tests.cluster.enforcer KUBECONFIG`` in the node's network namespace. It follows policies, pods and
namespaces, and replaces its table as a whole when what it should say has changed. What it cannot do is in
``docs/cluster-on-one-machine.md``. An error of nft ends it, and who waits for the cluster is told.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.api import Api, Manifest
from tests.cluster.policies import render

COLLECTIONS: Mapping[str, str] = {
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
}

_GATHER_S = 0.03
"""Changes come in groups: a pod's address, its phase, its conditions."""


class Store:
    """Objects of one kind, as they are now."""

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


def main(kubeconfig: Path) -> None:
    """Enforce for ever."""
    changed = threading.Event()
    stores = {name: Store(changed.set) for name in COLLECTIONS}
    for name, store in stores.items():
        follow = Api(kubeconfig).follow
        threading.Thread(target=follow, args=(COLLECTIONS[name], store.listed, store.changed), daemon=True).start()
    for store in stores.values():
        store.known.wait()
    applied = ""
    while True:
        changed.clear()
        table = render(**{name: store.all() for name, store in stores.items()})
        if table != applied:
            subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)
            applied = table
            print(f"{table.count(' jump ')} chains of pods", flush=True)
        changed.wait()
        time.sleep(_GATHER_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
