"""The bundle: what of a model folder travels to where it is trained, packed the same way everywhere."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from modelport.contract.spec import SPEC_FILE, DataSpec, parse_spec
from modelport.errors import BadInput

MAX_BUNDLE_BYTES = 1024 * 1024
"""A ConfigMap holds no more."""
MAX_FOLDER_BYTES = 16 * MAX_BUNDLE_BYTES
"""Of the files before they are packed: more would hardly fit, and is not read."""

_FOR_PEOPLE = {".md", ".ipynb"}
"""What no training reads, so that a word in a model's card trains nothing anew."""
_SKIPPED = {"__pycache__"}


@dataclass(frozen=True)
class Bundle:
    """A folder's code, configurations, golden samples, and whatever else its code reads."""

    files: tuple[tuple[str, bytes], ...]
    """(path in the folder with forward slashes, content), by path."""

    @cached_property
    def digest(self) -> str:
        """Code version: sha256 over the files, where ``model.yaml`` counts only as far as it changes what is learned.

        So another replica count, owner or gate trains nothing anew, and another parameter does.
        """
        total = hashlib.sha256()
        for path, content in self.files:
            counted = content
            if path == SPEC_FILE:
                counted = _learning_part(content)
            total.update(f"{path}\0{hashlib.sha256(counted).hexdigest()}\n".encode())
        return total.hexdigest()

    def to_bytes(self) -> bytes:
        """gzipped tar; the same files give the same bytes on every machine.

        Raises:
            BadInput: it does not fit into a ConfigMap.
        """
        stream = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, filename="") as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for path, content in self.files:
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode, entry.mtime = len(content), 0o644, 0
                archive.addfile(entry, io.BytesIO(content))
        packed = stream.getvalue()
        if len(packed) > MAX_BUNDLE_BYTES:
            largest = max(self.files, key=lambda item: len(item[1]))[0]
            raise _too_large("the bundle has", len(packed), MAX_BUNDLE_BYTES, largest)
        return packed


def pack(folder: Path) -> Bundle:
    """Collect a model folder: all of it but texts for people, what is hidden, and samples that are not golden.

    Raises:
        BadInput: it is far too large for a bundle, or holds a link, which would lead nowhere elsewhere.
    """
    paths = [path for path in sorted(folder.rglob("*")) if _belongs(path.relative_to(folder))]
    for path in paths:
        if path.is_symlink():
            raise BadInput(
                "is a link, and only what is in the folder itself travels", file=path, remedy="put the file there"
            )
    found = [path for path in paths if path.is_file()]
    sizes = {path: path.stat().st_size for path in found}
    if sum(sizes.values()) > MAX_FOLDER_BYTES:
        largest = max(found, key=lambda path: sizes[path]).relative_to(folder).as_posix()
        raise _too_large("the folder's files have", sum(sizes.values()), MAX_FOLDER_BYTES, largest)
    return Bundle(tuple(sorted((path.relative_to(folder).as_posix(), path.read_bytes()) for path in found)))


def _too_large(what: str, size: int, limit: int, largest: str) -> BadInput:
    return BadInput(
        f"{what} {size} bytes; {limit} is the most",
        remedy=f"keep data and weights out of the folder; the largest file is {largest}",
    )


def unpack(packed: bytes, target: Path) -> None:
    """Write a packed bundle's files under `target`.

    Raises:
        BadInput: it is not a bundle, or names a path outside the folder.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is None or path.is_absolute() or ".." in path.parts:
                    raise BadInput(f"the bundle holds {entry.name!r}, which is not a plain file inside it")
                file = target / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.read())
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(f"is not a bundle: {error}") from None


def _belongs(relative: Path) -> bool:
    if any(part.startswith(".") or part in _SKIPPED for part in relative.parts):
        return False
    if relative.parts[0] == "sample":
        return relative.parts[:2] == ("sample", "golden") and len(relative.parts) > 2
    return relative.suffix not in _FOR_PEOPLE


def _learning_part(content: bytes) -> bytes:
    spec = parse_spec(content.decode())
    learned = spec.model_dump(mode="json", include={"name", "task", "data"})
    # Keys that came later count where they say something: a new key of the contract trains nothing anew.
    for key in ("heldout_fraction", "group_pattern"):
        if learned["data"][key] == DataSpec.model_fields[key].default:
            del learned["data"][key]
    learned["classes"] = [label.name for label in spec.classes]
    learned["train"] = spec.train.model_dump(mode="json", include={"parameters", "seed", "select"})
    return json.dumps(learned, sort_keys=True, separators=(",", ":")).encode()
