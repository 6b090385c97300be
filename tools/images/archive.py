"""Images as folders in OCI's layout, and as the archives that a container runtime imports."""

import io
import json
import os
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

_REFERENCE = "org.opencontainers.image.ref.name"
# What containerd calls an image that it imports; without it a reference gets a prefix.
_CONTAINERD = "io.containerd.image.name"


def blobs(layout: Path) -> set[str]:
    """Digests, as ``sha256:...``, of all that the image in a layout consists of."""
    (entry,) = _index(layout)["manifests"]
    manifest = _manifest(layout)
    return {entry["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}


def image_size(layout: Path) -> int:
    """Bytes of an image's layers, which are not compressed."""
    return sum(layer["size"] for layer in _manifest(layout)["layers"])


def image_config(layout: Path) -> dict[str, Any]:
    """What an image says of itself: user, environment, history."""
    return _read(_blob(layout, _manifest(layout)["config"]["digest"]))


def share_blobs(layouts: Iterator[Path], layout: Path) -> None:
    """Link the blobs of other layouts into a new one, so that what is pushed into it is not written twice."""
    target = layout / "blobs" / "sha256"
    target.mkdir(parents=True)
    for other in layouts:
        for blob in (other / "blobs" / "sha256").glob("*"):
            if not (target / blob.name).exists():
                os.link(blob, target / blob.name)


def finish(layout: Path, reference: str) -> None:
    """Name the one image of a layout, and remove every blob that is not part of it."""
    index = _index(layout)
    index["manifests"][0]["annotations"] = {_REFERENCE: reference, _CONTAINERD: reference}
    (layout / "index.json").write_text(json.dumps(index))
    wanted = {digest.removeprefix("sha256:") for digest in blobs(layout)}
    for blob in (layout / "blobs" / "sha256").iterdir():
        if blob.name not in wanted:
            blob.unlink()


def write_archive(layout: Path, stream: IO[bytes], present: Collection[str] = ()) -> int:
    """Write an image as an OCI archive, for ``ctr image import --local -`` and its like; returns how many bytes it has.

    Args:
        layout: folder of the image, from `ensure_layout`.
        stream: where it is written; it need not be able to seek.
        present: digests of blobs that the receiver has (``ctr content ls -q``), which are left out.
    """
    written = 0
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for digest in sorted(blobs(layout) - set(present)):
            path = _blob(layout, digest)
            written += path.stat().st_size
            archive.add(path, path.relative_to(layout).as_posix(), filter=_plain)
        for name in ("oci-layout", "index.json"):
            content = (layout / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return written


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    # Blobs are shared between layouts; a link to a file earlier in the archive would be none to a reader of streams.
    entry.type, entry.linkname = tarfile.REGTYPE, ""
    return entry


def _index(layout: Path) -> dict[str, Any]:
    return _read(layout / "index.json")


def _manifest(layout: Path) -> dict[str, Any]:
    return _read(_blob(layout, _index(layout)["manifests"][0]["digest"]))


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content
