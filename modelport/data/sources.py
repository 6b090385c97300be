"""What is first brought into a dataset's standard folder: zips, and VinBigData's table of several readers' boxes.

What was brought is kept under the cache by what decides it, so that the next command finds it. It appears there whole
or not at all, and of several processes the first does it for all.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from modelport.contract import ModelSpec, Task
from modelport.data import vinbigdata
from modelport.data.archive import unpack
from modelport.errors import BadInput, ModelportError

_REMARKS_FILE = ".remarks"


def standard_folder(path: Path, spec: ModelSpec, cache: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that a dataset is read from, and remarks: `path` itself, or what is made of it under `cache`.

    Raises:
        BadInput: a zip or a table of boxes is wrong.
        ModelportError: the cache cannot be written.
    """
    folder, remarks = path, ()
    if path.suffix.lower() == ".zip" and path.is_file():
        folder = _unpacked(path, cache / "sources")
    if spec.task is Task.DETECT and vinbigdata.is_table(folder):
        folder, remarks = _converted(folder, spec, cache / "sources")
    return folder, remarks


def _unpacked(file: Path, sources: Path) -> Path:
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=file) from None
    return _once(sources / digest, lambda folder: unpack(file, folder))


def _converted(folder: Path, spec: ModelSpec, sources: Path) -> tuple[Path, tuple[str, ...]]:
    table = vinbigdata.read(folder, [label.name for label in spec.classes], spec.data.group_pattern)

    def write(place: Path) -> None:
        remarks = vinbigdata.write(table, place)
        (place / _REMARKS_FILE).write_text("\n".join(remarks))

    made = _once(sources / table.digest, write)
    return made, tuple((made / _REMARKS_FILE).read_text().splitlines())


def _once(place: Path, make: Callable[[Path], None]) -> Path:
    """`place`, made by `make` in an empty folder unless it is there."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with (place.parent / f".{place.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if place.is_dir():
                return place
            partial = place.with_name(f".{place.name}.part")
            # Of a process that was killed.
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                make(partial)
                partial.rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ModelportError(
            f"the cache of datasets cannot be written: {error.strerror or error}",
            file=error.filename or place.parent,
            remedy="free space there",
        ) from None
    return place
