"""The provisioner of a cluster of one node: gives each claim of its classes a part of the machine's disk.

Run as ``python -m tests.cluster.volumes KUBECONFIG PLACE``. A volume of class `FOLDER`, the default, is a folder below
PLACE: what its claim asks for in size is no limit. One of class `DISK` is a file system of its own, in a file, that
gets full at that size; it takes a kernel with loop devices. The kubelet mounts both into the pod, with the pod's
``fsGroup``, and both go with their claim.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster.api import Api, Manifest
from tests.cluster.storage import provide, volume, volume_name, wants_volume

PROVISIONER = "modelport.dev/one-node"
FOLDER = "folder"
DISK = "disk"

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def storage_classes() -> list[Manifest]:
    """The storage classes."""
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": name,
                "annotations": {"storageclass.kubernetes.io/is-default-class": str(name == FOLDER).lower()},
            },
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        for name in (FOLDER, DISK)
    ]


def volume_for(claim: Manifest, folder: Path) -> Manifest | None:
    """The volume that a claim should get now, below `folder`; None where it wants none."""
    if not wants_volume(claim, (FOLDER, DISK)):
        return None
    node = claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    source = {
        "local": {"path": str(folder / volume_name(claim))},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }
    return volume(claim, PROVISIONER, source)


def size_of(quantity: str) -> int:
    """Bytes that a quantity such as ``10Gi`` means.

    Raises:
        ValueError: it has no unit that a disk of a test has.
    """
    number = quantity.rstrip("kMGTi")
    unit = quantity.removeprefix(number)
    if unit not in _UNITS:
        raise ValueError(f"no size of a disk: {quantity!r}; units are {', '.join(filter(None, _UNITS))}")
    return int(float(number) * _UNITS[unit])


def main(kubeconfig: Path, folder: Path) -> None:
    """Run for ever."""

    def make(claim: Manifest) -> Manifest | None:
        made = volume_for(claim, folder)
        place = folder / volume_name(claim)
        if made is not None and not place.is_dir():
            # As a new disk's file system: root's, until the kubelet gives it to the pod's group.
            place.mkdir(mode=0o755, parents=True)
            if made["spec"]["storageClassName"] == DISK:
                _put_disk(place, size_of(made["spec"]["capacity"]["storage"]))
        return made

    def remove(name: str) -> None:
        place = folder / name
        if place.is_mount():
            _run("umount", "--lazy", place)
        _file(place).unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)

    provide(Api(kubeconfig), make, remove)


def _put_disk(place: Path, size: int) -> None:
    file = _file(place)
    with file.open("wb") as stream:
        stream.truncate(size)
    _run("mkfs.ext4", "-q", "-m", "0", file)
    _run("mount", "-o", "loop", file, place)


def _file(place: Path) -> Path:
    return place.with_name(f"{place.name}.disk")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
