"""Putting datasets on the object store: by content, never twice, and complete before anything points to them."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from modelport.contract import ModelSpec
from modelport.data.address import (
    Kind,
    Latest,
    latest_key,
    manifest_key,
    manifest_prefix,
    object_prefix,
    read_latest,
    uploaded_key,
)
from modelport.data.dataset import absent_boxes, check_apart, scan_folder
from modelport.data.files import FETCH_THREADS
from modelport.data.formats import FORMATS, check
from modelport.data.manifest import FileEntry, Manifest
from modelport.data.sources import standard_folder
from modelport.errors import BadInput
from modelport.objects import NotFound, ObjectStore


@dataclass(frozen=True)
class PushResult:
    """What a push did."""

    uri: str
    """Address of this version; give it to --data."""
    digest: str
    uploaded: int
    """Files sent."""
    skipped: int
    """Files that were there already."""
    train: int
    """Examples to train on and select with."""
    heldout: int
    """Examples held out."""
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class DatasetVersion:
    """One version of a dataset on the object store."""

    digest: str
    uri: str
    train: int
    """Examples to train on and select with."""
    heldout: int
    """Examples held out."""
    first_pushed: datetime
    latest: bool
    """Whether it is what the address without a digest means."""


def push(
    name: str,
    path: Path | str,
    spec: ModelSpec,
    store: ObjectStore,
    progress: Callable[[int, int], None] | None = None,
    *,
    cache: Path | None = None,
) -> PushResult:
    """Check a dataset and put it on the object store (promoter's rights), training and held-out files apart.

    Args:
        name: What a model's data.name says.
        path: A local folder or zip, or ``s3://BUCKET/uploads/FILE.zip``.
        spec: A model that learns from it; it says how the files are read and divided.
        store: The platform's bucket.
        progress: Called with (files done, files in all). Interrupted, a push is taken up by doing it again.
        cache: Where zips are unpacked, to be found again; None unpacks them for this push only.

    Raises:
        BadInput: a file of it is wrong.
        Refused: this identity may not write datasets.
        Unavailable: the object store is away.
    """
    with tempfile.TemporaryDirectory(prefix="modelport-") as temporary:
        if isinstance(path, str) and "://" in path:
            key = uploaded_key(store, path)
            place = Path(temporary) / Path(key).name
            try:
                store.download(key, place)
            except NotFound:
                raise BadInput("there is no such zip", file=path, remedy="upload it there first") from None
        else:
            place = Path(path)
        folder, found = standard_folder(place, spec, cache or Path(temporary))
        result = _push_folder(name, folder, spec, store, progress)
    return replace(result, remarks=(*found, *result.remarks))


def _push_folder(
    name: str, path: Path, spec: ModelSpec, store: ObjectStore, progress: Callable[[int, int], None] | None
) -> PushResult:
    training, heldout, remarks = scan_folder(path, spec)
    classes = [label.name for label in spec.classes]
    for manifest in (training, heldout):
        FORMATS[manifest.task].check_named(manifest.items, classes)
        check(manifest.task, manifest.items, path, classes)
    check_apart(training, heldout)
    remarks = (*remarks, *absent_boxes(training, heldout, path, spec))

    missing = [
        (kind, entry)
        for kind, manifest in ((Kind.DATASETS, training), (Kind.HELDOUT, heldout))
        for entry in _missing(store, object_prefix(kind, name), list(manifest.hashes.values()))
    ]

    def send(job: tuple[Kind, FileEntry]) -> None:
        kind, entry = job
        content = (path / entry.path).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BadInput("changed while it was pushed", file=path / entry.path, remedy="push it again")
        store.put(f"{object_prefix(kind, name)}/{entry.sha256}", content)

    with ThreadPoolExecutor(max_workers=FETCH_THREADS) as pool:
        for done, _ in enumerate(pool.map(send, missing), start=1):
            if progress is not None:
                progress(done, len(missing))
    # Files first, then what names them, then what points there: nobody ever sees half a dataset.
    store.put_new(manifest_key(Kind.HELDOUT, name, heldout.digest), heldout.content)
    key = manifest_key(Kind.DATASETS, name, training.digest)
    store.put_new(key, training.content)
    store.put(latest_key(name), Latest(digest=training.digest, pushed=datetime.now(UTC)).model_dump_json().encode())
    total = len(training.hashes) + len(heldout.hashes)
    return PushResult(
        uri=f"s3://{store.bucket}/{key}",
        digest=training.digest,
        uploaded=len(missing),
        skipped=total - len(missing),
        train=len(training.items),
        heldout=len(heldout.items),
        remarks=remarks,
    )


def list_datasets(store: ObjectStore, name: str) -> list[DatasetVersion]:
    """Versions of a dataset on the object store, oldest first; none if it was never pushed.

    Raises:
        BadInput: a stored manifest is damaged.
    """
    prefix = manifest_prefix(Kind.DATASETS, name) + "/"
    stored = sorted(store.list(prefix), key=lambda info: info.modified)
    if not stored:
        return []
    latest = read_latest(store, name).digest
    versions: list[DatasetVersion] = []
    for info in stored:
        digest = info.key.removeprefix(prefix).removesuffix(".json")
        place = f"s3://{store.bucket}/{info.key}"
        manifest = Manifest.parse(store.get(info.key), digest, place)
        versions.append(
            DatasetVersion(
                digest, place, len(manifest.items), manifest.heldout_items, info.modified, latest=digest == latest
            )
        )
    return versions


def _missing(store: ObjectStore, prefix: str, entries: Sequence[FileEntry]) -> list[FileEntry]:
    """Files that are not on the object store at their size."""
    present = {info.key: info.size for info in store.list(f"{prefix}/")}
    return [entry for entry in entries if present.get(f"{prefix}/{entry.sha256}") != entry.size]
