"""Stands for GKE's disk provisioner: makes a volume for each claim that its classes are asked for, without a disk.

Run as ``python -m tests.cluster.storage KUBECONFIG``, with a kubeconfig written as JSON. It keeps to the protocol of a
real external provisioner: a claim gets its volume when the scheduler has chosen a node for its first pod, and a volume
goes when its claim is gone. Nothing is resized, attached or mounted.
"""

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Never

from tests.cluster.api import Api, Manifest

PROVISIONER = "pd.csi.storage.gke.io"
CLASSES = {"standard-rwo": "pd-balanced", "premium-rwo": "pd-ssd"}
"""GKE's own storage classes, and the disk type of each; the first is the default."""


def manifests() -> list[Manifest]:
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


def volume_for(claim: Manifest) -> Manifest | None:
    """The volume that a claim should get now; None where it is not ours, has one, or has no node yet."""
    if not wants_volume(claim, CLASSES):
        return None
    disk = {"csi": {"driver": PROVISIONER, "volumeHandle": volume_name(claim), "fsType": "ext4"}}
    return volume(claim, PROVISIONER, disk)


def wants_volume(claim: Manifest, classes: Container[str]) -> bool:
    """Whether a claim waits for a volume of one of these classes, and its first pod has a node."""
    metadata, spec = claim["metadata"], claim["spec"]
    return (
        spec.get("storageClassName") in classes
        and not spec.get("volumeName")
        and "deletionTimestamp" not in metadata
        and "volume.kubernetes.io/selected-node" in metadata.get("annotations", {})
    )


def volume(claim: Manifest, provisioner: str, source: Mapping[str, Any]) -> Manifest:
    """A volume as large as its claim wants it, and reserved for it.

    Args:
        claim: whose it is.
        provisioner: who makes and removes it.
        source: what it is: the part of the volume's spec that says so.
    """
    metadata, spec = claim["metadata"], claim["spec"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {"pv.kubernetes.io/provisioned-by": provisioner},
        },
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
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "volumeMode": spec.get("volumeMode", "Filesystem"),
            **source,
        },
    }


def volume_name(claim: Manifest) -> str:
    """Name of a claim's volume."""
    return f"pvc-{claim['metadata']['uid']}"


def provide(api: Api, make: Callable[[Manifest], Manifest | None], removed: Callable[[str], None]) -> Never:
    """Follow the claims of all namespaces for ever: give them volumes, and remove those whose claims are gone.

    Args:
        api: whose claims they are.
        make: gives the volume that a claim should get now, or None.
        removed: is told the name of a volume that is no more.
    """

    def changed(event: str, claim: Manifest) -> None:
        if event == "DELETED":
            _remove(api, volume_name(claim), removed)
            return
        made = make(claim)
        if made is not None:
            api.send_unless("POST", "/api/v1/persistentvolumes", made, status=409)

    def listed(claims: Sequence[Manifest]) -> None:
        for claim in claims:
            changed("ADDED", claim)
        for found in api.get("/api/v1/persistentvolumes")["items"]:
            if found.get("status", {}).get("phase") == "Released":
                _remove(api, found["metadata"]["name"], removed)

    api.follow("/api/v1/persistentvolumeclaims", listed, changed)


def _remove(api: Api, name: str, removed: Callable[[str], None]) -> None:
    api.send_unless("DELETE", f"/api/v1/persistentvolumes/{name}", status=404)
    removed(name)


if __name__ == "__main__":
    provide(Api(Path(sys.argv[1])), volume_for, lambda name: None)
