"""Where checkpoints and the journal are kept: a local folder or the object store, with the same guarantees.

Ray Train has a checkpoint manager of its own. It is not used: it rewrites its index in place, so that a kill at that
moment leaves a run that cannot be resumed, and it knows nothing of our journal. Here the checkpoint is stored first,
under a name of its own; then the journal that names it is replaced atomically. A writer that was overtaken by a later
attempt is refused.
"""

import hashlib
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from modelport.errors import BadInput, Conflict, ModelportError
from modelport.objects import NotFound, ObjectStore
from modelport.training.journal import CheckpointRef, Journal

CHECKPOINT_FILE = "checkpoint.pt"
_JOURNAL_FILE = "journal.json"


class CheckpointStore(Protocol):
    """Keeper of one run's journal and checkpoints."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        ...

    def read(self) -> Journal | None:
        """The journal as it is now; None before the first attempt."""
        ...

    def write(self, journal: Journal) -> None:
        """Replace the journal, atomically.

        Raises:
            Conflict: a later attempt has written it.
        """
        ...

    def save(self, file: Path, name: str) -> None:
        """Store a checkpoint's file durably."""
        ...

    def fetch(self, ref: CheckpointRef, target: Path) -> Path:
        """Local folder that holds the checkpoint as ``checkpoint.pt``, verified; `target` may be used for it.

        Raises:
            BadInput: it is gone or damaged.
        """
        ...

    def sweep(self, keep: set[str]) -> None:
        """Remove every checkpoint but these."""
        ...


class LocalCheckpoints:
    """Checkpoints in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    def read(self) -> Journal | None:
        """The journal as it is now; None before the first attempt."""
        file = self._folder / _JOURNAL_FILE
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        return _parsed(content, str(file))

    def write(self, journal: Journal) -> None:
        """Replace the journal, atomically and durably; `Conflict` if a later attempt has written it."""
        current = self.read()
        if current is not None and current.attempt > journal.attempt:
            raise _overtaken(self.place)
        file = self._folder / _JOURNAL_FILE
        with self._explained():
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            _write_durably(temporary, journal.model_dump_json(indent=1).encode())
            temporary.replace(file)

    def save(self, file: Path, name: str) -> None:
        """Store a checkpoint's file durably."""
        folder = self._folder / "checkpoints" / name
        temporary = folder.with_name(f".{name}.{os.getpid()}")
        with self._explained():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            try:
                shutil.copyfile(file, temporary / CHECKPOINT_FILE)
                _sync(temporary / CHECKPOINT_FILE)
                if folder.exists():  # stored, but not committed, by an attempt that was killed: the same content
                    shutil.rmtree(folder)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def fetch(self, ref: CheckpointRef, target: Path) -> Path:
        """The checkpoint's own folder, verified."""
        folder = self._folder / "checkpoints" / ref.name
        _verify(folder / CHECKPOINT_FILE, ref)
        return folder

    def sweep(self, keep: set[str]) -> None:
        """Remove every checkpoint but these, and what a killed attempt left half-written."""
        folder = self._folder / "checkpoints"
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise ModelportError(
                f"the checkpoint cannot be written: {error.strerror or error}; earlier ones are safe",
                file=self._folder,
                remedy="make room there and run the same command again: it goes on after the last finished epoch",
            ) from error


class ObjectCheckpoints:
    """Checkpoints on the object store, under ``checkpoints/<model>/<run>/``."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._etag: str | None = None

    @property
    def place(self) -> str:
        """Address of the prefix."""
        return f"s3://{self._store.bucket}/{self._prefix}"

    def read(self) -> Journal | None:
        """The journal as it is now; None before the first attempt."""
        try:
            content, self._etag = self._store.get_tagged(f"{self._prefix}/{_JOURNAL_FILE}")
        except NotFound:
            self._etag = None
            return None
        return _parsed(content, f"{self.place}/{_JOURNAL_FILE}")

    def write(self, journal: Journal) -> None:
        """Replace the journal as it was read; `Conflict` if anybody has written it since."""
        try:
            self._etag = self._store.replace(
                f"{self._prefix}/{_JOURNAL_FILE}", journal.model_dump_json(indent=1).encode(), self._etag
            )
        except Conflict:
            # An answer that was lost on its way makes our own write look like somebody else's.
            if self.read() != journal:
                raise _overtaken(self.place) from None

    def save(self, file: Path, name: str) -> None:
        """Store a checkpoint's file."""
        self._store.upload(file, f"{self._prefix}/{name}/{CHECKPOINT_FILE}")

    def fetch(self, ref: CheckpointRef, target: Path) -> Path:
        """Download the checkpoint into `target`, verified."""
        file = target / ref.name / CHECKPOINT_FILE
        if not file.is_file():
            try:
                self._store.download(f"{self._prefix}/{ref.name}/{CHECKPOINT_FILE}", file)
            except NotFound as error:
                raise BadInput("the checkpoint is gone", file=error.file, remedy=_ANEW) from None
        _verify(file, ref)
        return file.parent

    def sweep(self, keep: set[str]) -> None:
        """Remove every checkpoint but these."""
        for info in list(self._store.list(f"{self._prefix}/")):
            name, _, rest = info.key.removeprefix(f"{self._prefix}/").partition("/")
            if rest and name not in keep:
                self._store.delete(info.key)


_ANEW = "remove the run's folder to train it from the beginning"


def checkpoint_ref(file: Path, epoch: int) -> CheckpointRef:
    """Description of a checkpoint's file, before it is stored."""
    digest = _sha256(file)
    return CheckpointRef(epoch=epoch, name=f"epoch-{epoch:04d}-{digest[:8]}", sha256=digest, size=file.stat().st_size)


def _parsed(content: bytes, file: str) -> Journal:
    try:
        return Journal.model_validate_json(content)
    except ValidationError as error:
        raise BadInput(f"the run's journal is damaged: {error}", file=file, remedy=_ANEW) from None


def _overtaken(place: str) -> Conflict:
    return Conflict(
        "another process trains the same run; this one stops, and has changed nothing",
        file=place,
        remedy="let the other one finish",
    )


def _verify(file: Path, ref: CheckpointRef) -> None:
    if not file.is_file():
        raise BadInput("the checkpoint is gone", file=file, remedy=_ANEW)
    if _sha256(file) != ref.sha256:
        raise BadInput("the checkpoint is damaged: its sha256 is another", file=file, remedy=_ANEW)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_durably(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
