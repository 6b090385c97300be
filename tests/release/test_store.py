"""A release arrives whole and as it was made, or not at all."""

import io
import resource
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelport.connection import Connection, Role
from modelport.contract import ClassSpec, Task
from modelport.errors import BadInput, Unavailable
from modelport.objects import NotFound, ObjectStore
from modelport.release import (
    DIGEST_TAG,
    FP32,
    MANIFEST_FILE,
    RELEASES,
    FileEntry,
    GoldenEntry,
    Registry,
    Release,
    ReleaseManifest,
    Tolerance,
    canonical_json,
    compare,
    sha256,
)
from modelport.release.store import write_release

FILES = {"network/model.onnx": b"a graph", "golden/0.png": b"an image", "golden/0.npz": b"outputs"}


def manifest(files: dict[str, bytes] = FILES, **changes: object) -> ReleaseManifest:
    some = sha256(b"")
    fields: dict[str, object] = {
        "model": "m",
        "task": Task.SEGMENT,
        "code_digest": some,
        "data_digest": some,
        "heldout_digest": None,
        "run_key": "run",
        "mlflow_run_id": None,
        "parameters": {"rate": 0.1, "on": True, "name": "ä"},
        "classes": (ClassSpec(name="background"), ClassSpec(name="red")),
        "thresholds": {},
        "license": "Apache-2.0",
        "metrics": {},
        "files": {path: FileEntry(sha256=sha256(data), size=len(data)) for path, data in files.items()},
        "golden": (GoldenEntry(file="golden/0.png", outputs="golden/0.npz"),),
        "tolerances": {FP32: {"mask": Tolerance(differing=0.001)}},
        "versions": {},
    }
    return ReleaseManifest.model_validate(fields | changes)


@pytest.fixture
def released(s3_connection: Connection, tmp_path: Path) -> tuple[ObjectStore, Release]:
    store = ObjectStore.connect(s3_connection, Role.PROMOTER)
    release = write_release(manifest(run_key=str(tmp_path)), FILES, tmp_path / "made")
    release.upload(store, RELEASES)
    return store, release


def test_there_and_back(released: tuple[ObjectStore, Release], tmp_path: Path) -> None:
    store, release = released
    fetched = Release.fetch(store, RELEASES, release.digest, tmp_path / "fetched")
    assert fetched.manifest == release.manifest
    assert {path: fetched.read(path) for path in fetched.manifest.files} == FILES
    assert sha256((tmp_path / "fetched" / MANIFEST_FILE).read_bytes()) == release.digest


@pytest.mark.parametrize("path", [*FILES, MANIFEST_FILE])
def test_changed_on_the_store(released: tuple[ObjectStore, Release], tmp_path: Path, path: str) -> None:
    store, release = released
    data = store.get(f"{RELEASES}/{release.digest}/{path}")
    store.put(f"{RELEASES}/{release.digest}/{path}", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadInput, match=path):
        Release.fetch(store, RELEASES, release.digest, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert [row.name for row in tmp_path.iterdir()] == ["made"], "a part of the download was left behind"


def test_missing_on_the_store(released: tuple[ObjectStore, Release], tmp_path: Path) -> None:
    store, release = released
    store.delete(f"{RELEASES}/{release.digest}/golden/0.npz")
    with pytest.raises(BadInput, match=r"golden/0\.npz: is missing"):
        Release.fetch(store, RELEASES, release.digest, tmp_path / "fetched")
    with pytest.raises(NotFound):
        Release.fetch(store, RELEASES, sha256(b"no such release"), tmp_path / "fetched")


def test_damaged_copy_is_fetched_again(released: tuple[ObjectStore, Release], tmp_path: Path) -> None:
    store, release = released
    target = tmp_path / "fetched"
    Release.fetch(store, RELEASES, release.digest, target)
    (target / "network" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"network/model\.onnx"):
        Release.open(target, release.digest)
    assert Release.fetch(store, RELEASES, release.digest, target).read("network/model.onnx") == b"a graph"


def test_what_cannot_be_read_here_is_not_thrown_away(released: tuple[ObjectStore, Release], tmp_path: Path) -> None:
    store, release = released
    target = tmp_path / "fetched"
    Release.fetch(store, RELEASES, release.digest, target)
    # A file that is there and does not open (a link to itself), whoever asks: root reads what has no rights.
    (target / "network" / "model.onnx").unlink()
    (target / "network" / "model.onnx").symlink_to("model.onnx")
    with pytest.raises(Unavailable, match=r"network/model\.onnx: cannot be read"):
        Release.fetch(store, RELEASES, release.digest, target)
    assert (target / "network" / "model.onnx").is_symlink()

    # Another version of this project made it: the store's copy cannot be read either, so this one stays.
    newer = canonical_json({"schema": "modelport.release/9"})
    target = tmp_path / "made" / sha256(newer)
    target.mkdir()
    (target / MANIFEST_FILE).write_bytes(newer)
    store.put(f"{RELEASES}/{sha256(newer)}/{MANIFEST_FILE}", newer)
    with pytest.raises(BadInput, match="not a release manifest"):
        Release.fetch(store, RELEASES, sha256(newer), target)
    assert (target / MANIFEST_FILE).read_bytes() == newer


def test_a_damaged_folder_is_replaced_by_what_is_written_in_its_place(tmp_path: Path) -> None:
    release = write_release(manifest(), FILES, tmp_path)
    (release.folder / "network" / "model.onnx").unlink()
    assert write_release(manifest(), FILES, tmp_path).read("network/model.onnx") == b"a graph"
    assert [row.name for row in tmp_path.iterdir()] == [release.digest]


def test_many_fetch_the_same(released: tuple[ObjectStore, Release], tmp_path: Path) -> None:
    store, release = released
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(Release.fetch, store, RELEASES, release.digest, tmp_path / "fetched") for _ in range(6)]
        assert {job.result().digest for job in jobs} == {release.digest}
    assert sorted(row.name for row in tmp_path.iterdir()) == ["fetched", "made"]


def test_changed_after_it_was_opened(tmp_path: Path) -> None:
    release = write_release(manifest(), FILES, tmp_path)
    (release.folder / "network" / "model.onnx").write_bytes(b"A graph")
    with pytest.raises(BadInput, match="does not have the digest"):
        release.read("network/model.onnx")
    with pytest.raises(BadInput, match="does not list"):
        release.read("../../etc/passwd")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a//b", "", "./a", "a\\b", MANIFEST_FILE])
def test_manifest_cannot_lead_outside(path: str) -> None:
    entry = {"sha256": sha256(b""), "size": 0}
    document = manifest().model_dump(mode="json", by_alias=True)
    document["files"] = {path: entry}
    with pytest.raises(BadInput, match="not a release manifest"):
        ReleaseManifest.parse(canonical_json(document), "here")


def test_manifest_of_another_schema() -> None:
    document = manifest().model_dump(mode="json", by_alias=True) | {"schema": "modelport.release/2"}
    with pytest.raises(BadInput, match=r"not a release manifest.*release/1"):
        ReleaseManifest.parse(canonical_json(document), "here")


def test_digest_does_not_depend_on_order() -> None:
    turned = dict(reversed(FILES.items()))
    assert manifest(turned).digest == manifest().digest
    assert ReleaseManifest.parse(manifest().to_bytes(), "here").digest == manifest().digest


def test_golden_outputs_are_never_unpickled(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, mask=np.array([{"code": "runs when it is unpickled"}], dtype=object))
    files = FILES | {"golden/0.npz": stream.getvalue()}
    release = write_release(manifest(files), files, tmp_path)
    with pytest.raises(BadInput, match=r"golden/0\.npz: is no npz of plain arrays"):
        list(release.golden())
    shutil.rmtree(release.folder)


def test_no_room_on_disk(tmp_path: Path) -> None:
    # A limit on the size of files stands in for a disk that is full.
    files = FILES | {"network/model.onnx": bytes(100_000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(Unavailable, match="make room there"):
            write_release(manifest(files), files, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == [], "half a release was left behind"


def test_two_registrations_at_once_leave_one(tracked_connection: Connection) -> None:
    release = manifest(model="registered_twice")
    registry = Registry.connect(tracked_connection)
    version = registry.register(release, release.digest, "s3://bucket/staging/1")
    # What a request that was sent twice leaves behind: the same release under a second number.
    from mlflow import MlflowClient

    client = MlflowClient(tracked_connection.tracking_uri)
    tags = {DIGEST_TAG: release.digest}
    client.create_model_version(release.model, "s3://bucket/staging/2", tags=tags, await_creation_for=0)
    assert len(registry.versions(release.model)) == 2
    assert registry.register(release, release.digest, "s3://bucket/staging/1") == version
    assert [row.version for row in registry.versions(release.model)] == [version]
    with ThreadPoolExecutor(4) as pool:
        other = manifest(model="registered_twice", run_key="other")
        jobs = [pool.submit(registry.register, other, other.digest, "s3://bucket/x") for _ in range(4)]
        numbers = {job.result() for job in jobs}
    assert [row.version for row in registry.versions(release.model)] == [version, min(numbers)]


TOLERANCES = {
    "mask": Tolerance(differing=0.001),
    "coverage": Tolerance(absolute=0.001),
    "logits": Tolerance(absolute=0.001, internal=True),
}
MASK = np.zeros((100, 100), np.uint8)
EXPECTED = {"mask": MASK, "coverage": np.array([0.5], np.float32), "logits": np.zeros((1, 1, 4, 4), np.float32)}


def flipped(pixels: int) -> np.ndarray:
    mask = MASK.copy()
    mask.flat[:pixels] = 1
    return mask


@pytest.mark.parametrize(
    ("outputs", "problems"),
    [
        ({}, []),
        ({"mask": flipped(10)}, []),
        ({"mask": flipped(11)}, ["0.110% of mask differ; at most 0.100% is allowed"]),
        ({"coverage": np.array([0.5009], np.float32)}, []),
        ({"coverage": np.array([0.502], np.float32)}, ["coverage differs by 0.002; at most 0.001 is allowed"]),
        ({"coverage": np.array([np.nan], np.float32)}, ["coverage differs by nan; at most 0.001 is allowed"]),
        ({"mask": MASK[:, :50]}, ["mask has shape [100, 50], not [100, 100]"]),
        ({"mask": MASK.astype(np.int64)}, ["mask is int64, not uint8"]),
        ({"mask": None}, ["mask is missing"]),
        ({"logits": None}, []),
    ],
)
def test_compare(outputs: dict[str, np.ndarray | None], problems: list[str]) -> None:
    given = {name: value for name, value in (EXPECTED | outputs).items() if value is not None}
    assert compare(given, EXPECTED, TOLERANCES) == problems
