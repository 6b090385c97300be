"""Zips of datasets, from people who may mean harm: nothing is written outside the folder, nor more than agreed."""

import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelport.errors import BadInput


@dataclass(frozen=True)
class Limits:
    """What is unpacked at most."""

    max_files: int = 500_000
    max_bytes: int = 50 * 1024**3
    """Of all files together, counted as they are written: what the zip's own directory says is not believed."""
    max_ratio: float = 50
    """Bytes unpacked per byte of the zip, beyond `free_bytes`; images are near 1, and bombs over 1000."""
    free_bytes: int = 256 * 1024**2
    """Bytes that are unpacked whatever the ratio, such as of black masks."""


DEFAULT_LIMITS = Limits()
_BLOCK = 1024 * 1024
_PARTS = ("train", "validation", "valid", "val", "images")
"""Folders that are part of a dataset, and not one around it."""
_AGAIN = "pack the dataset's folder again, with plain files only"


def unpack(file: Path, folder: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Write the files of a zip into an empty folder, without the one folder that they may all lie in.

    Hidden files and what macOS adds (``__MACOSX/``) are left out. Files become read-only: they are a copy.

    Raises:
        BadInput: it is no zip, is damaged or encrypted, is larger than the limits, or holds a path that leads outside,
            a link, or a file twice.
        OSError: the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            rows = [(info, _path(info, file)) for info in archive.infolist()]
            wanted = [(info, path) for info, path in rows if not info.is_dir() and not _is_hidden(path)]
            if len(wanted) > limits.max_files:
                raise BadInput(f"holds {len(wanted)} files; at most {limits.max_files} are taken", file=file)
            if not wanted:
                raise BadInput("holds no file", file=file, remedy=_AGAIN)
            wanted = _unwrapped(wanted)
            _check_names([path for _, path in wanted], file)
            allowed = min(limits.max_bytes, max(limits.free_bytes, int(file.stat().st_size * limits.max_ratio)))
            for info, path in wanted:
                allowed -= _write(archive, info, folder / path, allowed, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"is no whole zip: {error}", file=file, remedy="make or copy it again") from None
    except (NotImplementedError, RuntimeError) as error:
        # zipfile's words for an unknown compression and for an encrypted file.
        raise BadInput(f"cannot be unpacked: {error}", file=file, remedy="pack it without encryption") from None


def _path(info: zipfile.ZipInfo, file: Path) -> PurePosixPath:
    """Where a member lies, which is inside."""
    # zipfile cuts a name at its first NUL; what was in the file is looked at.
    name = info.orig_filename
    path = PurePosixPath(name)
    if not path.parts and not info.is_dir():
        raise BadInput("holds a file without a name", file=file, remedy=_AGAIN)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise BadInput(f"holds {name!r}, a path that leads outside or is none here", file=file, remedy=_AGAIN)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadInput(f"holds {name!r}, which is a link or no plain file", file=file, remedy=_AGAIN)
    return path


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _unwrapped(
    wanted: list[tuple[zipfile.ZipInfo, PurePosixPath]],
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    tops = {path.parts[0] for _, path in wanted}
    if len(tops) > 1 or tops & set(_PARTS) or any(len(path.parts) == 1 for _, path in wanted):
        return wanted
    return [(info, PurePosixPath(*path.parts[1:])) for info, path in wanted]


def _check_names(paths: list[PurePosixPath], file: Path) -> None:
    seen: set[PurePosixPath] = set()
    for path in paths:
        if path in seen:
            raise BadInput(f"holds {str(path)!r} twice", file=file, remedy=_AGAIN)
        seen.add(path)
    for path in paths:
        if not seen.isdisjoint(path.parents):
            raise BadInput(f"holds {str(path.parent)!r} as a file and as a folder", file=file, remedy=_AGAIN)


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: Path, allowed: int, file: Path) -> int:
    """Unpack one file; how many bytes it has."""
    place.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with archive.open(info) as source, place.open("xb") as sink:
        while block := source.read(_BLOCK):
            count += len(block)
            if count > allowed:
                raise BadInput(
                    f"becomes too large when it is unpacked, at {info.filename!r}",
                    file=file,
                    remedy="pack images and their labels only, or give the unpacked folder",
                )
            sink.write(block)
    place.chmod(0o444)
    return count
