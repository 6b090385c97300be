"""Datasets on a real S3: pushed once, read through a cache that is never believed, held-out files out of reach."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from click.testing import CliRunner

from modelport.cli.data import data
from modelport.connection import Connection, Role
from modelport.contract import ModelSpec
from modelport.data import HeldOut, PushResult, list_datasets, load_dataset, load_heldout, push
from modelport.errors import BadInput, Refused, Unavailable
from modelport.imaging import encode_png
from modelport.objects import ObjectStore
from modelport.training.patience import Patience
from tests.data.small_datasets import spec_of, write_boxes, write_classes


@pytest.fixture
def promoter(s3_connection: Connection) -> ObjectStore:
    return ObjectStore.connect(s3_connection, Role.PROMOTER)


@pytest.fixture
def trainer(s3_connection: Connection) -> ObjectStore:
    return ObjectStore.connect(s3_connection, Role.TRAINER)


def check_out_of_reach(pushed: PushResult, spec: ModelSpec, trainer: ObjectStore, heldout: HeldOut) -> None:
    """Whoever trains can read neither a held-out file nor its name, by whatever way."""
    with pytest.raises(Refused):
        load_heldout(pushed.uri, spec, store=trainer, cache=Path("/nonexistent"))
    name = pushed.uri.removeprefix("s3://modelport/datasets/").partition("/")[0]
    stored = {info.key.rpartition("/")[2] for info in trainer.list(f"datasets/{name}/")}
    content = b"".join(trainer.get(info.key) for info in trainer.list(f"datasets/{name}/"))
    for index in range(len(heldout)):
        entry = heldout.entry(index)
        assert entry.sha256 not in stored
        assert entry.path.encode() not in content
        with pytest.raises(Refused):
            trainer.get(f"heldout/{name}/objects/{entry.sha256}")


def repaint(file: Path) -> None:
    file.write_bytes(encode_png(np.full((16, 16, 3), 7, np.uint8)))


def test_pushed_once_and_read_as_the_same(
    folder: Path, spec: ModelSpec, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    first = push("round", folder, spec, promoter)
    assert first.uploaded > 30
    again = push("round", folder, spec, promoter)
    assert (again.uploaded, again.skipped, again.uri) == (0, first.uploaded, first.uri)

    local = load_dataset(str(folder), spec, store=None, cache=cache)
    remote = load_dataset("s3://modelport/datasets/round", spec, store=trainer, cache=cache)
    remote.fetch()
    assert remote.digest == local.digest == first.digest
    assert remote.selection.ids == local.selection.ids
    assert np.array_equal(remote.train.image(2), local.train.image(2))
    assert np.array_equal(remote.train.target(2), local.train.target(2))


def test_a_changed_file_is_a_new_version_and_the_old_one_stays(
    folder: Path, spec: ModelSpec, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    old = push("versions", folder, spec, promoter)
    repaint(folder / "train" / "images" / "01.png")
    new = push("versions", folder, spec, promoter)
    assert new.uploaded == 1
    assert [(row.digest, row.latest) for row in list_datasets(promoter, "versions")] == [
        (old.digest, False),
        (new.digest, True),
    ]
    latest = load_dataset("s3://modelport/datasets/versions", spec, store=trainer, cache=cache)
    pinned = load_dataset(old.uri, spec, store=trainer, cache=cache)
    assert (latest.digest, pinned.digest) == (new.digest, old.digest)


def test_an_interrupted_push_shows_nothing_and_is_taken_up(
    folder: Path, spec: ModelSpec, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise Stopped

    with pytest.raises(Stopped):
        push("interrupted", folder, spec, promoter, stop)
    assert list_datasets(promoter, "interrupted") == []
    with pytest.raises(BadInput, match="no dataset 'interrupted' was pushed"):
        load_dataset("s3://modelport/datasets/interrupted", spec, store=trainer, cache=cache)
    assert push("interrupted", folder, spec, promoter).skipped >= 10


def test_a_damaged_dataset_is_not_pushed(folder: Path, spec: ModelSpec, promoter: ObjectStore):
    (folder / "validation" / "masks" / "00.png").write_bytes(b"damaged")
    with pytest.raises(BadInput) as caught:
        push("damaged", folder, spec, promoter)
    assert caught.value.file == str(folder / "validation" / "masks" / "00.png")
    assert not list(promoter.list("datasets/damaged/"))
    assert not list(promoter.list("heldout/damaged/"))


def test_whoever_trains_reads_no_heldout_file(
    folder: Path, spec: ModelSpec, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    pushed = push("apart", folder, spec, promoter)
    with pytest.raises(Refused):
        load_heldout(pushed.uri, spec, store=trainer, cache=cache)
    with pytest.raises(Refused):
        list(trainer.list("heldout/apart/"))
    with pytest.raises(Refused):
        push("apart", folder, spec, trainer)
    heldout = load_heldout(pushed.uri, spec, store=promoter, cache=cache)
    assert len(heldout) == 4
    assert heldout.training_digest == pushed.digest
    stored = {info.key.rpartition("/")[2] for info in promoter.list("datasets/apart/objects/")}
    assert not stored & {heldout.entry(index).sha256 for index in range(4)}


def test_a_damaged_cache_is_fetched_again(
    folder: Path, spec: ModelSpec, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    pushed = push("cached", folder, spec, promoter)
    dataset = load_dataset(pushed.uri, spec, store=trainer, cache=cache)
    dataset.fetch()
    truth = dataset.train.image(0)
    (cached,) = cache.rglob(dataset.train.entry(0).sha256)
    cached.write_bytes(b"rotten")
    assert np.array_equal(dataset.train.image(0), truth)
    assert cached.stat().st_size == dataset.train.entry(0).size


def test_a_store_that_is_away_for_each_file_once_costs_no_fetch(
    folder: Path,
    spec: ModelSpec,
    cache: Path,
    promoter: ObjectStore,
    trainer: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("modelport.training.patience._PAUSE_S", 0.01)
    pushed = push("away", folder, spec, promoter)
    dataset = load_dataset(pushed.uri, spec, store=trainer, cache=cache)
    get, asked = trainer.get, set[str]()
    monkeypatch.setattr(trainer, "get", Mock(side_effect=Unavailable("no answer")))
    with pytest.raises(Unavailable):
        dataset.fetch()

    def once_away(key: str) -> bytes:
        if key not in asked:
            asked.add(key)
            raise Unavailable("no answer")
        return get(key)

    monkeypatch.setattr(trainer, "get", once_away)
    said: list[str] = []
    dataset.fetch(Patience(5, said.append))
    monkeypatch.undo()
    monkeypatch.setattr(trainer, "get", Mock(side_effect=Unavailable("no answer")))
    assert dataset.train.image(0).shape == (16, 16, 3)
    assert "no answer; trying for 5 s" in said


def test_a_damaged_object_is_not_trained_on(
    folder: Path, spec: ModelSpec, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    pushed = push("rotten", folder, spec, promoter)
    dataset = load_dataset(pushed.uri, spec, store=trainer, cache=cache)
    entry = dataset.train.entry(0)
    promoter.put(f"datasets/rotten/objects/{entry.sha256}", b"x" * entry.size)
    with pytest.raises(BadInput, match="is damaged"):
        dataset.fetch()
    promoter.delete(f"datasets/rotten/objects/{entry.sha256}")
    with pytest.raises(BadInput, match="is not there"):
        dataset.fetch()
    assert push("rotten", folder, spec, promoter).uploaded == 1
    dataset.fetch()


def test_classes_are_pushed_and_their_ids_follow_the_model(
    tmp_path: Path, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    spec = spec_of("classify", ["dry", "wet"], name="roads")
    folder = write_classes(tmp_path / "road", {"dry": 12, "wet": 8})
    pushed = push("roads", folder, spec, promoter)
    remote = load_dataset(pushed.uri, spec, store=trainer, cache=cache)
    heldout = load_heldout(pushed.uri, spec, store=promoter, cache=cache)
    local = load_dataset(str(folder), spec, store=None, cache=cache)
    assert (remote.digest, remote.selection.ids) == (local.digest, local.selection.ids)
    for split in (remote.train, remote.selection, heldout):
        assert {int(split.target(index)) for index in range(len(split))} == {0, 1}
        assert all(name.startswith(("dry/", "wet/")[int(split.target(i))]) for i, name in enumerate(split.ids))
    check_out_of_reach(pushed, spec, trainer, heldout)
    with pytest.raises(BadInput, match=r"'wet' is no class .* 'snow' of model.yaml has no folder"):
        load_dataset(pushed.uri, spec_of("classify", ["dry", "snow"]), store=trainer, cache=cache)
    with pytest.raises(BadInput, match="is a dataset for classify"):
        load_dataset(pushed.uri, spec_of("detect", ["dry", "wet"]), store=trainer, cache=cache)


def test_boxes_are_pushed_with_the_names_of_their_ids(
    tmp_path: Path, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    spec = spec_of("detect", ["nodule", "mass"], data=", heldout_fraction: 0.3", name="scans")
    folder = write_boxes(tmp_path / "boxes", names=["mass", "nodule"])
    pushed = push("scans", folder, spec, promoter)
    remote = load_dataset(pushed.uri, spec, store=trainer, cache=cache)
    remote.fetch()
    local = load_dataset(str(folder), spec, store=None, cache=cache)
    assert remote.digest == local.digest == pushed.digest
    for index, name in enumerate(remote.train.ids):
        assert remote.train.target(index).tolist() == [[15, 5, 25, 15, 1 - int(name[-1]) % 2]]
        assert np.array_equal(remote.train.target(index), local.train.target(index))
    heldout = load_heldout(pushed.uri, spec, store=promoter, cache=cache)
    assert heldout.target(0)[0, 4] == 1 - int(heldout.ids[0][-1]) % 2
    check_out_of_reach(pushed, spec, trainer, heldout)
    with pytest.raises(BadInput, match="'nodule' is no class of model"):
        load_dataset(pushed.uri, spec_of("detect", ["mass", "other"]), store=trainer, cache=cache)


def test_boxes_without_names_are_neither_pushed_nor_read(
    tmp_path: Path, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    several = spec_of("detect", ["mass", "nodule"], name="bare")
    folder = write_boxes(tmp_path / "boxes", names=None)
    with pytest.raises(BadInput, match="nothing says which of the classes mass, nodule") as caught:
        push("bare", folder, several, promoter)
    assert caught.value.remedy is not None
    assert "classes.txt" in caught.value.remedy
    assert list_datasets(promoter, "bare") == []
    # Of one class the ids say all; a model of two that names the same dataset may not guess.
    for file in (folder / "labels").iterdir():
        file.write_text("0 0.5 0.5 0.25 0.5\n")
    pushed = push("bare", folder, spec_of("detect", ["mass"], name="bare"), promoter)
    assert len(load_dataset(pushed.uri, spec_of("detect", ["mass"]), store=trainer, cache=cache).train)
    with pytest.raises(BadInput, match="nothing says which"):
        load_dataset(pushed.uri, several, store=trainer, cache=cache)
    with pytest.raises(BadInput, match="nothing says which"):
        load_heldout(pushed.uri, several, store=promoter, cache=cache)


PATIENT = ", group_pattern: '^(p\\d\\d)_', heldout_fraction: 0.3"


def test_a_pattern_holds_for_what_was_pushed_without_it(
    tmp_path: Path, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    plain, by_patient = (
        spec_of("detect", ["mass", "nodule"], data=data) for data in (", heldout_fraction: 0.3", PATIENT)
    )
    folder = write_boxes(tmp_path / "boxes")
    pushed = push("patients", folder, plain, promoter)
    load_dataset(pushed.uri, plain, store=trainer, cache=cache)
    with pytest.raises(BadInput, match="are not kept together, the first is 'p0") as caught:
        load_dataset(pushed.uri, by_patient, store=trainer, cache=cache)
    assert caught.value.key == "data.group_pattern"
    assert "push the dataset again" in str(caught.value.remedy)
    with pytest.raises(BadInput, match="to train with and held out, the first is 'p0"):
        load_heldout(pushed.uri, by_patient, store=promoter, cache=cache)
    other = spec_of("detect", ["mass", "nodule"], data=", group_pattern: '^patient(\\d)'")
    with pytest.raises(BadInput, match="finds a group in none of"):
        load_dataset(pushed.uri, other, store=trainer, cache=cache)

    again = push("patients", folder, by_patient, promoter)
    load_dataset(again.uri, by_patient, store=trainer, cache=cache)
    load_heldout(again.uri, by_patient, store=promoter, cache=cache)


def test_groups_of_a_file_stand_beside_a_pattern_on_s3(
    tmp_path: Path, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    spec = spec_of("detect", ["mass", "nodule"], data=PATIENT)
    folder = write_boxes(tmp_path / "boxes")
    for part, suffix in (("images", "png"), ("labels", "txt")):
        (folder / part / f"p00_00.{suffix}").rename(folder / part / f"unnamed.{suffix}")
    (folder / "groups.csv").write_text("id,group\nunnamed,p00\np01_02,p02\np01_03,p02\n")
    pushed = push("listed", folder, spec, promoter)
    load_dataset(pushed.uri, spec, store=trainer, cache=cache)
    load_heldout(pushed.uri, spec, store=promoter, cache=cache)


def test_an_uploaded_zip_is_pushed_by_the_promoter_alone(
    tmp_path: Path, cache: Path, promoter: ObjectStore, trainer: ObjectStore
):
    spec = spec_of("classify", ["dry", "wet"], name="zipped")
    folder = write_classes(tmp_path / "road", {"dry": 6, "wet": 6})
    file = shutil.make_archive(str(tmp_path / "road"), "zip", tmp_path, "road")
    promoter.upload(Path(file), "uploads/road.zip")
    uri = "s3://modelport/uploads/road.zip"
    pushed = push("zipped", uri, spec, promoter)
    assert pushed.digest == load_dataset(str(folder), spec, store=None, cache=cache).digest
    assert push("zipped", Path(file), spec, promoter, cache=cache).digest == pushed.digest
    with pytest.raises(Refused):
        trainer.get("uploads/road.zip")
    with pytest.raises(Refused):
        list(trainer.list("uploads/"))
    with pytest.raises(BadInput, match="no training can read"):
        load_dataset(uri, spec, store=trainer, cache=cache)
    for other in ("s3://modelport/uploads/missing.zip", "s3://modelport/staging/road.zip", "s3://other/uploads/a.zip"):
        with pytest.raises(BadInput, match=r"there is no such zip|is no uploaded zip"):
            push("zipped", other, spec, promoter)


@pytest.mark.parametrize(
    "uri",
    ["s3://modelport/heldout/round", "s3://modelport", "http://somewhere/datasets/x", "s3://modelport/datasets/a/b"],
)
def test_other_addresses_are_refused(uri: str, spec: ModelSpec, cache: Path, trainer: ObjectStore):
    with pytest.raises(BadInput, match="is not the address of a dataset"):
        load_dataset(uri, spec, store=trainer, cache=cache)


def test_store_away(spec: ModelSpec, cache: Path, s3_connection: Connection):
    away = ObjectStore.connect(s3_connection.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}), Role.TRAINER)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        load_dataset("s3://modelport/datasets/round", spec, store=away, cache=cache)


def test_command_line(tmp_path: Path, folder: Path, s3_connection: Connection, monkeypatch: pytest.MonkeyPatch):
    from tiny_project import write_project

    root = write_project(tmp_path / "project")
    s3_connection.save(tmp_path / "connection.json")
    monkeypatch.setenv("MODELPORT_PROJECT", str(root))
    monkeypatch.setenv("MODELPORT_CONNECTION", str(tmp_path / "connection.json"))

    def call(*arguments: str) -> str:
        return CliRunner().invoke(data, arguments, catch_exceptions=False).output

    assert "no version of tiny was pushed" in call("list", "tiny")
    assert " 0 were there already" in call("push", "tiny", str(folder))
    assert "\n0 files uploaded" in call("push", "tiny", str(folder))
    assert "16 train, 4 held out" in call("list", "tiny")
    assert "(latest)" in call("list", "tiny")
    with pytest.raises(BadInput, match="no model here learns from a dataset 'other'"):
        call("push", "other", str(folder))


def test_command_line_for_classes_and_zips(tmp_path: Path, s3_connection: Connection, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "project"
    for name, task in (("weather", "classify"), ("lesions", "detect"), ("shapes", "segment")):
        (root / "models" / name).mkdir(parents=True)
        spec = spec_of(task, ["dry", "wet"], name=name).model_dump(mode="json", exclude_defaults=True)
        if task == "segment":
            spec["data"]["name"] = "lesions"
        (root / "models" / name / "model.yaml").write_text(json.dumps(spec))
    s3_connection.save(tmp_path / "connection.json")
    monkeypatch.setenv("MODELPORT_PROJECT", str(root))
    monkeypatch.setenv("MODELPORT_CONNECTION", str(tmp_path / "connection.json"))

    def call(*arguments: str) -> str:
        return CliRunner().invoke(data, arguments, catch_exceptions=False).output

    write_classes(tmp_path / "road", {"dry": 12, "wet": 2})
    file = shutil.make_archive(str(tmp_path / "road"), "zip", tmp_path, "road")
    said = call("push", "weather", file)
    assert "note: no validation/" in said
    assert "note: class 'wet' has too few groups" in said
    ObjectStore.connect(s3_connection, Role.PROMOTER).upload(Path(file), "uploads/weather.zip")
    assert "\n0 files uploaded" in call("push", "weather", "s3://modelport/uploads/weather.zip")
    assert "(latest)" in call("list", "weather")
    with pytest.raises(BadInput, match="is detect in lesions and segment in shapes") as caught:
        call("push", "lesions", str(tmp_path / "road"))
    assert caught.value.file == str(root / "models" / "shapes" / "model.yaml")
