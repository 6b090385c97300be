"""Where a dataset's bytes come from. Whatever the place, what is read has the hash that the manifest says."""

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from modelport.data.manifest import FileEntry
from modelport.errors import BadInput, ModelportError, Unavailable
from modelport.objects import NotFound, ObjectStore

FETCH_THREADS = 8

Attempt = Callable[[Callable[[], None]], None]
"""Runs something that needs the object store, as patiently as whoever gives it is."""


class Files(Protocol):
    """A place that a dataset's files can be read from. Picklable, so that data loaders can use it in processes."""

    def read(self, entry: FileEntry) -> bytes:
        """Bytes of a file, verified by their hash."""
        ...

    def fetch(self, entries: Iterable[FileEntry], attempt: Attempt) -> None:
        """Bring these files near, so that `read` is quick and needs no network; each by an attempt of its own."""
        ...

    def connected(self, store: ObjectStore) -> "Files":
        """The same files, after they crossed to another process, with a connection of that process."""
        ...


def describe(path: Path, root: Path) -> FileEntry:
    """Path, hash and size of a file under `root`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=path, remedy="mend or remove it") from None
    return FileEntry(
        path=path.relative_to(root).as_posix(), sha256=hashlib.sha256(content).hexdigest(), size=len(content)
    )


class FolderFiles:
    """Files in a local folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, entry: FileEntry) -> bytes:
        """Bytes of a file.

        Raises:
            BadInput: it is gone, or is another than when the manifest was made.
        """
        path = self._root / entry.path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise BadInput(
                "is gone since the training began", file=path, remedy="put it back, and run it again"
            ) from None
        if not _matches(content, entry):
            raise BadInput(
                "was changed since the training began",
                file=path,
                remedy="put the old file back to resume, or train anew on the changed dataset: run the command again",
            )
        return content

    def fetch(self, entries: Iterable[FileEntry], attempt: Attempt) -> None:
        """Nothing to do: they are here."""

    def connected(self, store: ObjectStore) -> "FolderFiles":
        """The same: a folder needs no connection."""
        return self


class ObjectFiles:
    """Files on the object store, kept by hash in a local folder that many datasets and trainings share."""

    def __init__(self, store: ObjectStore, prefix: str, cache: Path) -> None:
        self._store: ObjectStore | None = store
        self._prefix = prefix
        self._cache = cache

    def __getstate__(self) -> dict[str, Any]:
        # A client cannot cross processes; a data loader's process reads what `fetch` has brought.
        return {**self.__dict__, "_store": None}

    def read(self, entry: FileEntry) -> bytes:
        """Bytes of a file, from the cache if it is there whole, else from the object store.

        Raises:
            BadInput: the object store's copy has another hash.
            Unavailable: it is in neither place.
        """
        path = self._cache / entry.sha256[:2] / entry.sha256
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = None
        if content is not None and _matches(content, entry):
            return content
        content = self._download(entry)
        _write(path, content)
        return content

    def fetch(self, entries: Iterable[FileEntry], attempt: Attempt) -> None:
        """Bring these files into the cache, several at a time; of several processes, the first does it for all."""

        def bring(entry: FileEntry) -> None:
            attempt(lambda: self._ensure(entry))

        self._cache.mkdir(parents=True, exist_ok=True)
        with (self._cache / ".fetching").open("w") as lock, ThreadPoolExecutor(max_workers=FETCH_THREADS) as pool:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for _ in pool.map(bring, entries):
                pass

    def connected(self, store: ObjectStore) -> "ObjectFiles":
        """The same files over another connection."""
        return ObjectFiles(store, self._prefix, self._cache)

    def _ensure(self, entry: FileEntry) -> None:
        self.read(entry)

    def _download(self, entry: FileEntry) -> bytes:
        key = f"{self._prefix}/{entry.sha256}"
        if self._store is None:
            raise Unavailable(
                "is not in the cache, and this process has no connection to the object store",
                file=entry.path,
                remedy="run it again: the training fetches every file before it starts",
            )
        place = f"s3://{self._store.bucket}/{key}"
        try:
            content = self._store.get(key)
        except NotFound:
            raise BadInput(
                f"the dataset's file {entry.path} is not there", file=place, remedy="push the dataset again"
            ) from None
        if not _matches(content, entry):
            raise BadInput(
                f"the dataset's file {entry.path} is damaged: its sha256 is another",
                file=place,
                remedy="remove the object and push the dataset again",
            )
        return content


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ModelportError(
            f"the cache of datasets cannot be written: {error.strerror}", file=path.parent, remedy="free space there"
        ) from None


def _matches(content: bytes, entry: FileEntry) -> bool:
    return len(content) == entry.size and hashlib.sha256(content).hexdigest() == entry.sha256
