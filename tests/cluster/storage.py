"""Stands for GKE's disk provisioner: makes a volume for each claim that its classes are asked for, without a disk.

Run as ``python storage.py KUBECONFIG``, with a kubeconfig written as JSON. It keeps to the protocol of a real external
provisioner: a claim gets its volume when the scheduler has chosen a node for its first pod, and a volume goes when its
claim is gone. Nothing is resized, attached or mounted.
"""

import base64
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PROVISIONER = "pd.csi.storage.gke.io"
CLASSES = {"standard-rwo": "pd-balanced", "premium-rwo": "pd-ssd"}
"""GKE's own storage classes, and the disk type of each; the first is the default."""
_RETRY_S = 0.5


def manifests() -> list[dict[str, Any]]:
    """The driver and the storage classes, as GKE has them; of the driver only that nothing has to be attached."""
    default = next(iter(CLASSES))
    driver = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": PROVISIONER},
        "spec": {"attachRequired": False},
    }
    return [
        driver,
        *(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": name,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": str(name == default).lower()},
                },
                "provisioner": PROVISIONER,
                "parameters": {"type": disk},
                "reclaimPolicy": "Delete",
                "volumeBindingMode": "WaitForFirstConsumer",
                "allowVolumeExpansion": True,
            }
            for name, disk in CLASSES.items()
        ),
    ]


def volume_for(claim: dict[str, Any]) -> dict[str, Any] | None:
    """The volume that a claim should get now; None where it is not ours, has one, or has no node yet."""
    metadata, spec = claim["metadata"], claim["spec"]
    annotations = metadata.get("annotations", {})
    if (
        spec.get("storageClassName") not in CLASSES
        or spec.get("volumeName")
        or "deletionTimestamp" in metadata
        or "volume.kubernetes.io/selected-node" not in annotations
    ):
        return None
    name = volume_name(claim)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "csi": {"driver": PROVISIONER, "volumeHandle": name, "fsType": "ext4"},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "volumeMode": spec.get("volumeMode", "Filesystem"),
        },
    }


def volume_name(claim: dict[str, Any]) -> str:
    """Name of a claim's volume."""
    return f"pvc-{claim['metadata']['uid']}"


def main(kubeconfig: Path) -> None:
    """Follow the claims of all namespaces for ever; a connection that breaks is opened anew."""
    config = json.loads(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    api = _Api(cluster["server"], user["token"], cluster["certificate-authority-data"])
    while True:
        try:
            _follow(api)
        except (OSError, ValueError) as error:  # URLError and broken streams are OSErrors
            print(f"claims cannot be followed: {error}", flush=True)
            time.sleep(_RETRY_S)


def _follow(api: "_Api") -> None:
    listing = json.loads(api.open("GET", "/api/v1/persistentvolumeclaims").read())
    for claim in listing["items"]:
        _provide(api, claim)
    for volume in json.loads(api.open("GET", "/api/v1/persistentvolumes").read())["items"]:
        if volume.get("status", {}).get("phase") == "Released":
            _remove(api, volume["metadata"]["name"])
    version = listing["metadata"]["resourceVersion"]
    with api.open("GET", f"/api/v1/persistentvolumeclaims?watch=1&resourceVersion={version}") as stream:
        for line in stream:
            event = json.loads(line)
            if event["type"] == "DELETED":
                _remove(api, volume_name(event["object"]))
            elif event["type"] == "ERROR":
                raise ValueError(event["object"])
            else:
                _provide(api, event["object"])


def _provide(api: "_Api", claim: dict[str, Any]) -> None:
    volume = volume_for(claim)
    if volume is not None:
        api.open_unless("POST", "/api/v1/persistentvolumes", volume, status=409)


def _remove(api: "_Api", volume: str) -> None:
    api.open_unless("DELETE", f"/api/v1/persistentvolumes/{volume}", status=404)


class _Api:
    def __init__(self, url: str, token: str, authority: str) -> None:
        self._url, self._token = url, token
        context = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def open(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        return self._opener.open(request)

    def open_unless(self, method: str, path: str, body: dict[str, Any] | None = None, *, status: int) -> None:
        try:
            self.open(method, path, body).close()
        except urllib.error.HTTPError as error:
            if error.code != status:
                raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
