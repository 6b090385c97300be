"""A local folder as a dataset: what is taken, what is refused, and with which words."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from modelport.contract import ModelSpec
from modelport.data import Dataset, load_dataset, load_heldout
from modelport.errors import BadInput
from modelport.imaging import encode_png


def load(folder: Path, spec: ModelSpec, cache: Path) -> Dataset:
    return load_dataset(str(folder), spec, store=None, cache=cache)


def refusal(folder: Path, spec: ModelSpec, cache: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load(folder, spec, cache)
    assert caught.value.remedy
    return caught.value


def test_examples_are_divided_and_decoded(folder: Path, spec: ModelSpec, cache: Path):
    dataset = load(folder, spec, cache)
    assert dataset.describe()["train"] == 13
    assert dataset.describe()["selection"] == 3
    assert dataset.describe()["heldout"] == 4
    assert not set(dataset.train.ids) & set(dataset.selection.ids)
    assert dataset.train.image(0).shape == (16, 16, 3)
    assert set(np.unique(dataset.train.target(0))) == {0, 1}


def test_the_division_depends_on_the_seed_only(folder: Path, spec: ModelSpec, cache: Path, tmp_path: Path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert load(folder, spec, cache).selection.ids == load(moved, spec, cache).selection.ids
    assert load(folder, spec, cache).digest == load(moved, spec, cache).digest
    reseeded = spec.model_copy(update={"train": spec.train.model_copy(update={"seed": 8})})
    assert load(folder, reseeded, cache).selection.ids != load(folder, spec, cache).selection.ids
    assert load(folder, reseeded, cache).digest == load(folder, spec, cache).digest


def test_groups_are_not_divided(folder: Path, spec: ModelSpec, cache: Path):
    names = [path.stem for path in sorted((folder / "train" / "images").iterdir())]
    # With a byte order mark, as spreadsheets write it, and file names beside ids.
    rows = "".join(f"{name}{'.png' * (number % 2)},patient{number // 4}\n" for number, name in enumerate(names))
    (folder / "groups.csv").write_text("id,group\n" + rows, encoding="utf-8-sig")
    shutil.rmtree(folder / "validation")
    dataset = load(folder, spec, cache)
    heldout = load_heldout(str(folder), spec, store=None, cache=cache)
    parts = [
        {split.group(index) for index in range(len(split))} for split in (dataset.train, dataset.selection, heldout)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 4


@pytest.mark.parametrize(
    ("place", "rows", "line", "said"),
    [
        (".", ["train/00,p0"], 2, "there is no image 'train/00'; an image of this dataset is called '00'"),
        (".", ["00.jpg,p0"], 2, "there is no image '00.jpg'"),
        (".", ["00,p0", "00.png,p1"], 3, "'00' is in group 'p0' already"),
        (".", ["00,p0", "01,"], 3, "group: is empty"),
        (".", [",p0"], 2, "id: is empty"),
        (".", ["00"], 2, "group: is empty"),
        (".", ["00,p0", "00,p0"], None, "has no line for 15 of the examples, such as '01'"),
        ("train", ["00,p0"], None, "is not read there"),
    ],
)
def test_groups_are_taken_whole_or_refused(
    folder: Path, spec: ModelSpec, cache: Path, place: str, rows: list[str], line: int | None, said: str
):
    file = folder / place / "groups.csv"
    file.write_text("\n".join(["id,group", *rows]) + "\n")
    error = refusal(folder, spec, cache)
    assert (error.file, error.line) == (str(file), line)
    assert said in str(error)


def test_groups_that_are_no_table(folder: Path, spec: ModelSpec, cache: Path):
    for content in (b"name,patient\n00,p0\n", b"id;group\n00;p0\n", "id,group\n00,März\n".encode("latin-1")):
        (folder / "groups.csv").write_bytes(content)
        assert refusal(folder, spec, cache).file == str(folder / "groups.csv")


def test_without_validation_the_heldout_split_is_carved_and_said_so(folder: Path, spec: ModelSpec, cache: Path):
    shutil.rmtree(folder / "validation")
    dataset = load(folder, spec, cache)
    heldout = load_heldout(str(folder), spec, store=None, cache=cache)
    assert "held out" in dataset.remarks[0]
    assert len(heldout) == dataset.manifest.heldout_items > 0
    assert heldout.digest == dataset.heldout_digest
    assert heldout.training_digest == dataset.digest
    assert not set(heldout.ids) & {*dataset.train.ids, *dataset.selection.ids}


@pytest.mark.parametrize("name", ["valid", "val"])
def test_the_held_out_split_has_the_names_that_other_tasks_take(folder: Path, spec: ModelSpec, cache: Path, name: str):
    before = load_heldout(str(folder), spec, store=None, cache=cache).ids
    (folder / "validation").rename(folder / name)
    assert load_heldout(str(folder), spec, store=None, cache=cache).ids == before
    assert load(folder, spec, cache).remarks == ()


def test_what_is_held_out_stays_so_when_examples_are_added(folder: Path, spec: ModelSpec, cache: Path):
    shutil.rmtree(folder / "validation")
    before = set(load_heldout(str(folder), spec, store=None, cache=cache).ids)
    for part in ("images", "masks"):
        for number in range(16):
            new = np.full((16, 16), 255 * (number % 2), np.uint8)
            new[0, 0] = number
            (folder / "train" / part / f"new{number}.png").write_bytes(encode_png(new))
    dataset = load(folder, spec, cache)
    assert not before & {*dataset.train.ids, *dataset.selection.ids}


def test_training_has_no_way_to_heldout_files(folder: Path, spec: ModelSpec, cache: Path):
    dataset = load(folder, spec, cache)
    for part in (dataset, dataset.train, dataset.selection):
        assert b"validation/" not in pickle.dumps(part)
    assert dataset.heldout_digest is not None


def test_no_masks(folder: Path, spec: ModelSpec, cache: Path):
    shutil.rmtree(folder / "train" / "masks")
    error = refusal(folder, spec, cache)
    assert error.file == str(folder / "train" / "masks")
    assert "no folder masks/" in error.message


def test_one_mask_missing(folder: Path, spec: ModelSpec, cache: Path):
    (folder / "train" / "masks" / "03.png").unlink()
    error = refusal(folder, spec, cache)
    assert error.file == str(folder / "train" / "images" / "03.png")
    assert "has no mask" in error.message


def test_empty(folder: Path, spec: ModelSpec, cache: Path):
    for file in (folder / "train" / "images").iterdir():
        file.unlink()
    error = refusal(folder, spec, cache)
    assert "empty" in error.message
    assert error.file == str(folder / "train" / "images")


def test_no_such_folder(tmp_path: Path, spec: ModelSpec, cache: Path):
    assert refusal(tmp_path / "missing", spec, cache).file == str(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n cut off"])
def test_unreadable_image(folder: Path, spec: ModelSpec, cache: Path, content: bytes):
    file = folder / "train" / "images" / "05.png"
    file.write_bytes(content)
    assert refusal(folder, spec, cache).file == str(file)
    # Told at every start, not only at the first.
    assert refusal(folder, spec, cache).file == str(file)


def test_every_damaged_file_is_counted(folder: Path, spec: ModelSpec, cache: Path):
    for name in ("05", "06", "07"):
        (folder / "train" / "images" / f"{name}.png").write_bytes(b"x")
    assert "2 more such files" in refusal(folder, spec, cache).message


def test_mask_of_another_size(folder: Path, spec: ModelSpec, cache: Path):
    file = folder / "train" / "masks" / "02.png"
    file.write_bytes(encode_png(np.zeros((16, 12), np.uint8)))
    error = refusal(folder, spec, cache)
    assert error.file == str(file)
    assert "12x16" in error.message
    assert "16x16" in error.message


def test_a_format_that_would_be_passed_over_is_refused(folder: Path, spec: ModelSpec, cache: Path):
    (folder / "train" / "images" / "99.tif").write_bytes(b"II*\0")
    assert refusal(folder, spec, cache).file == str(folder / "train" / "images" / "99.tif")


def test_an_image_on_both_sides_is_refused(folder: Path, spec: ModelSpec, cache: Path):
    shutil.copy(folder / "train" / "images" / "00.png", folder / "validation" / "images" / "00.png")
    assert "the same image" in refusal(folder, spec, cache).message
    with pytest.raises(BadInput, match="the same image"):
        load_heldout(str(folder), spec, store=None, cache=cache)


def test_a_file_that_changes_during_training_is_noticed(folder: Path, spec: ModelSpec, cache: Path):
    dataset = load(folder, spec, cache)
    name = dataset.train.ids[0]
    file = folder / "train" / "images" / f"{name}.png"
    file.write_bytes(encode_png(np.zeros((16, 16, 3), np.uint8)))
    with pytest.raises(BadInput, match="was changed since the training began"):
        dataset.train.image(0)
    file.unlink()
    with pytest.raises(BadInput, match="is gone since the training began"):
        dataset.train.image(0)


def test_kvasir_is_read_as_it_lies(data_root: Path, spec: ModelSpec, cache: Path):
    dataset = load(data_root / "kvasir_seg", spec, cache)
    assert len(dataset.train) + len(dataset.selection) == 800
    assert len(load_heldout(str(data_root / "kvasir_seg"), spec, store=None, cache=cache)) == 100
