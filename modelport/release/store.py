"""Releases as folders, and their way to and from the object store: verified byte by byte, whole or not at all."""

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract import TritonPipeline, read_pipeline
from modelport.errors import BadInput, Unavailable
from modelport.objects import NotFound, ObjectStore
from modelport.release.manifest import FP32, MANIFEST_FILE, TRAINING_DATA_FILE, ReleaseManifest, sha256
from modelport.release.pipeline import GRAPH_FILE, NETWORK

RELEASES = "releases"
"""Prefix of promoted releases; only the promoter writes there, and only servers' releases are there."""


def staging_prefix(model: str) -> str:
    """Prefix of a model's releases as training made them."""
    return f"staging/{model}"


@dataclass(frozen=True)
class Golden:
    """A golden sample, read."""

    name: str
    data: bytes
    """The image as users send it; `modelport.imaging.decode` gives its pixels."""
    expected: dict[str, NDArray[Any]]
    """torch's outputs by name."""


@dataclass(frozen=True)
class Release:
    """A release in a folder, every file of which had the manifest's digest when it was opened."""

    folder: Path
    manifest: ReleaseManifest
    digest: str

    @classmethod
    def open(cls, folder: Path, digest: str | None = None) -> "Release":
        """Open a release's folder and verify every file.

        Args:
            digest: what the release must be; None takes what is there.

        Raises:
            BadInput: a file is missing or changed, the message names it; or another version of this project made it.
            Unavailable: a file is there and cannot be read.
        """
        data = _read(folder / MANIFEST_FILE)
        found = sha256(data)
        if digest is not None and found != digest:
            raise _corrupted(folder / MANIFEST_FILE, f"has digest {found[:12]}, but the release is {digest[:12]}")
        release = cls(folder, ReleaseManifest.parse(data, folder / MANIFEST_FILE), found)
        for path in release.manifest.files:
            release.read(path)
        return release

    def read(self, path: str) -> bytes:
        """Bytes of one of the release's files, verified again: what is used is what was verified.

        Raises:
            BadInput: it is not listed, missing or changed.
        """
        entry = self.manifest.files.get(path)
        if entry is None:
            raise BadInput("the manifest does not list this file", file=self.folder / path)
        data = _read(self.folder / path)
        if len(data) != entry.size or sha256(data) != entry.sha256:
            raise _corrupted(self.folder / path, "does not have the digest that the manifest says")
        return data

    def trained_on(self) -> frozenset[str]:
        """sha256 of every image that it learned from or was selected on; at least one.

        Raises:
            BadInput: it does not say, or the file is missing or changed.
        """
        file, remedy = self.folder / TRAINING_DATA_FILE, "train the model anew"
        try:
            found = frozenset(str(image) for image in json.loads(self.read(TRAINING_DATA_FILE))["images"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"does not say what was trained on: {error}", file=file, remedy=remedy) from None
        if not found:
            raise BadInput("names no image that was trained on", file=file, remedy=remedy)
        return found

    def graph(self, step: str, precision: str = FP32) -> bytes:
        """A step's ONNX graph, verified; other precisions than fp32 are of the network step alone.

        Raises:
            BadInput: the release carries no such precision, or the file is missing or changed.
        """
        return self.read(self._graph_path(step, precision))

    def _graph_path(self, step: str, precision: str) -> str:
        if step != NETWORK or precision == FP32:
            return f"{step}/{GRAPH_FILE}"
        path = self.manifest.variants.get(precision)
        if path is None:
            model = self.manifest.model
            raise BadInput(
                f"release {self.digest[:12]} carries no {precision}, only {', '.join(self.manifest.precisions)}",
                remedy=f"`modelport export {model} {self.digest} --precision {precision}` makes a release with it",
            )
        return path

    def golden(self) -> Iterator[Golden]:
        """The golden samples."""
        for entry in self.manifest.golden:
            try:
                with np.load(io.BytesIO(self.read(entry.outputs)), allow_pickle=False) as arrays:
                    expected = {name: arrays[name] for name in arrays.files}
            except (ValueError, OSError, zipfile.BadZipFile) as error:
                raise _corrupted(self.folder / entry.outputs, f"is no npz of plain arrays: {error}") from None
            yield Golden(Path(entry.file).name, self.read(entry.file), expected)

    def pipeline(self) -> TritonPipeline:
        """The Triton configurations that the release carries."""
        return read_pipeline(self.folder / "triton", self.manifest.model)

    def graph_hashes(self, precision: str = FP32) -> dict[str, str]:
        """sha256 of each step's ONNX graph, by step.

        Raises:
            BadInput: the release carries no such precision.
        """
        steps = [path.removesuffix(f"/{GRAPH_FILE}") for path in self.manifest.files if path.endswith(f"/{GRAPH_FILE}")]
        return {step: self.manifest.files[self._graph_path(step, precision)].sha256 for step in steps}

    @classmethod
    def fetch(cls, store: ObjectStore, prefix: str, digest: str, target: Path) -> "Release":
        """Download ``<prefix>/<digest>/`` to the folder `target`, which appears whole and verified or not at all.

        A folder that is there already and verifies is taken as it is; a damaged one is replaced once the whole is here.

        Raises:
            NotFound: there is no such release.
            BadInput: what is there is not what the digest says.
            Unavailable: the object store is away, or a folder cannot be read or written here.
        """
        if target.exists():
            with suppress(BadInput):
                return cls.open(target, digest)
        with _place_for(target) as partial:
            data = store.get(f"{prefix}/{digest}/{MANIFEST_FILE}")
            place = f"s3://{store.bucket}/{prefix}/{digest}"
            if sha256(data) != digest:
                raise _corrupted(f"{place}/{MANIFEST_FILE}", f"has digest {sha256(data)[:12]}, not {digest[:12]}")
            manifest = ReleaseManifest.parse(data, f"{place}/{MANIFEST_FILE}")
            for path, entry in manifest.files.items():
                try:
                    store.download(f"{prefix}/{digest}/{path}", partial / path)
                except NotFound:
                    raise _corrupted(f"{place}/{path}", "is missing from the release") from None
                content = _read(partial / path)
                if sha256(content) != entry.sha256:
                    raise _corrupted(f"{place}/{path}", "does not have the digest that the manifest says")
            (partial / MANIFEST_FILE).write_bytes(data)
            return cls(_settle(partial, target, digest), manifest, digest)

    def upload(self, store: ObjectStore, prefix: str) -> str:
        """Write the release to ``<prefix>/<digest>/``, the manifest last: where a manifest is, everything is.

        Writing it again is harmless, and mends what was damaged. Returns the release's URI.
        """
        place = f"{prefix}/{self.digest}"
        for path in sorted(self.manifest.files):
            store.put(f"{place}/{path}", self.read(path))
        store.put(f"{place}/{MANIFEST_FILE}", _read(self.folder / MANIFEST_FILE))
        return f"s3://{store.bucket}/{place}"


@contextmanager
def _place_for(target: Path) -> Generator[Path]:
    """A folder beside `target` to fill and rename; what is left of it is removed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        message = f"the release cannot be written here: {error}"
        raise Unavailable(message, file=target.parent, remedy="make room there, and run it again") from error


def write_release(manifest: ReleaseManifest, files: Mapping[str, bytes], place: Path) -> Release:
    """Write a release to the folder ``<place>/<digest>``, which appears whole or not at all."""
    target = place / manifest.digest
    with _place_for(target) as partial:
        for path, data in {**files, MANIFEST_FILE: manifest.to_bytes()}.items():
            file = partial / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        _settle(partial, target, manifest.digest)
    return Release.open(target, manifest.digest)


def _settle(partial: Path, target: Path, digest: str) -> Path:
    """Rename a finished folder to its place; what another process made there first stays, and what is damaged goes."""
    partial.chmod(0o755)
    try:
        partial.rename(target)
    except OSError:
        try:
            Release.open(target, digest)
        except BadInput:
            shutil.rmtree(target)
            partial.rename(target)
    return target


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _corrupted(path, "is missing from the release") from None
    except OSError as error:
        # It may be whole: nothing may be thrown away for a missing right or a disk that stumbled.
        raise Unavailable(f"cannot be read: {error}", file=path, remedy="make it readable, and run it again") from error


def _corrupted(place: Path | str, message: str) -> BadInput:
    return BadInput(message, file=place, remedy="the release is damaged; nothing of it was used")
