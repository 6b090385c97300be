"""Folders of classes: names decide, each class is in every part, and nothing is divided that belongs together."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from modelport.contract import ModelSpec
from modelport.data import Dataset, Split, load_dataset, load_heldout
from modelport.errors import BadInput
from tests.data.small_datasets import picture, spec_of, write_classes

SPEC = spec_of("classify", ["wet", "dry"], data=", heldout_fraction: 0.2")


@pytest.fixture
def road(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "road", {"dry": 40, "wet": 10})


def load(folder: Path, cache: Path, spec: ModelSpec = SPEC) -> Dataset:
    return load_dataset(str(folder), spec, store=None, cache=cache)


def all_splits(folder: Path, cache: Path, spec: ModelSpec = SPEC) -> tuple[Split, Split, Split]:
    dataset = load(folder, cache, spec)
    return dataset.train, dataset.selection, load_heldout(str(folder), spec, store=None, cache=cache)


def counts(split: Split) -> dict[str, int]:
    return dict(Counter(name.partition("/")[0] for name in split.ids))


def refusal(folder: Path, cache: Path, spec: ModelSpec = SPEC) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load(folder, cache, spec)
    assert caught.value.remedy
    return caught.value


def test_the_id_follows_from_the_name_of_the_folder(road: Path, cache: Path):
    for split in all_splits(road, cache):
        for index, name in enumerate(split.ids):
            target = split.target(index)
            assert (target.dtype, target.shape) == (np.int64, ())
            assert int(target) == {"wet": 0, "dry": 1}[name.partition("/")[0]]
    turned = spec_of("classify", ["dry", "wet"], data=", heldout_fraction: 0.2")
    assert load(road, cache, turned).digest == load(road, cache).digest
    first = load(road, cache, turned).train
    assert int(first.target(0)) == ["dry", "wet"].index(first.ids[0].partition("/")[0])


def test_each_class_is_in_every_part_by_its_share(tmp_path: Path, cache: Path):
    folder = write_classes(tmp_path / "many", {"dry": 200, "wet": 3})
    train, selection, heldout = (counts(split) for split in all_splits(folder, cache))
    assert train["wet"] == selection["wet"] == heldout["wet"] == 1
    assert 25 <= heldout["dry"] <= 55
    assert abs(selection["dry"] - 0.2 * (200 - heldout["dry"])) <= 1


def test_what_is_held_out_stays_so_when_examples_are_added(road: Path, cache: Path):
    before = set(all_splits(road, cache)[2].ids)
    for number in range(30):
        (road / "wet" / f"new{number}.png").write_bytes(picture(5000 + number))
    train, selection, _ = all_splits(road, cache)
    assert not before & {*train.ids, *selection.ids}


def test_a_class_too_small_to_be_everywhere_is_said(tmp_path: Path, cache: Path):
    folder = write_classes(tmp_path / "small", {"dry": 20, "wet": 2})
    dataset = load(folder, cache)
    assert any("'wet' has too few" in remark for remark in dataset.remarks)
    assert counts(dataset.train)["wet"] == counts(dataset.selection)["wet"] == 1


def test_groups_over_classes_are_not_divided_and_leave_every_class_something(road: Path, cache: Path):
    # Every wet example has the number of a dry one, as pictures of one camera before and after the rain.
    spec = spec_of("classify", ["wet", "dry"], data=", heldout_fraction: 0.4, group_pattern: '/(.*)'")
    splits = all_splits(road, cache, spec)
    groups = [{split.group(index) for index in range(len(split))} for split in splits]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40
    assert all(set(counts(split)) == {"dry", "wet"} for split in splits)


def test_groups_name_an_image_with_its_class(road: Path, cache: Path):
    images = sorted(path.relative_to(road) for path in road.glob("*/*.png"))
    (road / "groups.csv").write_text("id,group\n" + "".join(f"{path},camera{path.stem}\n" for path in images))
    groups = [{split.group(index) for index in range(len(split))} for split in all_splits(road, cache)]
    assert sum(map(len, groups)) == len(set.union(*groups))
    (road / "groups.csv").write_text("id,group\n" + "".join(f"{path.stem},camera{path.stem}\n" for path in images))
    assert "is called 'dry/000'" in refusal(road, cache).message


def test_parts_that_the_dataset_brings(tmp_path: Path, cache: Path):
    root = tmp_path / "parts"
    write_classes(root / "train", {"dry": 6, "wet": 6})
    shutil.move(write_classes(tmp_path / "more", {"dry": 8, "wet": 8}), root / "val")
    for name in ("dry", "wet"):
        for number in range(6):
            (root / "val" / name / f"{number:03d}.png").unlink()
    for number, file in enumerate(sorted((root / "val").rglob("*.png"))):
        file.write_bytes(picture(9000 + number))
    train, selection, heldout = all_splits(root, cache)
    assert len(train) + len(selection) == 12
    assert counts(heldout) == {"dry": 2, "wet": 2}
    shutil.rmtree(root / "val" / "wet")
    assert "class 'wet' of model.yaml has no folder" in refusal(root, cache).message


def test_a_class_may_be_called_train(tmp_path: Path, cache: Path):
    spec = spec_of("classify", ["bus", "train"])
    folder = write_classes(tmp_path / "vehicles", {"bus": 6, "train": 6})
    assert set(counts(load(folder, cache, spec).train)) == {"bus", "train"}
    shutil.rmtree(folder / "bus")
    shutil.rmtree(folder / "train")
    write_classes(folder / "train", {"bus": 6, "train": 6})
    assert set(counts(load(folder, cache, spec).train)) == {"bus", "train"}


def test_other_folders_than_classes(road: Path, cache: Path):
    (road / "dry").rename(road / "Dry")
    error = refusal(road, cache)
    assert "folder 'Dry' is no class of model.yaml" in error.message
    assert "class 'dry' of model.yaml has no folder" in error.message
    (road / "Dry").rename(road / "dry")
    (road / "snow").mkdir()
    assert "'snow'" in refusal(road, cache).message
    (road / "snow").rmdir()
    (road / "loose.jpg").write_bytes(picture(1))
    assert refusal(road, cache).file == str(road / "loose.jpg")


def test_what_a_class_s_folder_may_hold(road: Path, cache: Path):
    (road / "wet" / ".DS_Store").write_bytes(b"x")
    load(road, cache)
    (road / "wet" / "night").mkdir()
    assert "is a folder" in refusal(road, cache).message
    (road / "wet" / "night").rmdir()
    (road / "wet" / "000.gif").write_bytes(b"GIF89a")
    assert refusal(road, cache).file == str(road / "wet" / "000.gif")
    for file in (road / "wet").iterdir():
        file.unlink()
    assert "the class is empty" in refusal(road, cache).message


def test_damaged_images_are_counted(road: Path, cache: Path):
    for file in (road / "dry").iterdir():
        file.write_bytes(file.name.encode())
    assert "more such files" in refusal(road, cache).message


def test_one_image_of_two_classes(road: Path, cache: Path):
    shutil.copy(road / "dry" / "001.png", road / "wet" / "wrong.png")
    error = refusal(road, cache)
    assert "the same image as dry/001.png" in error.message
    assert error.file == str(road / "wet" / "wrong.png")


def test_the_same_image_twice_is_not_divided(road: Path, cache: Path):
    for number in range(1, 10):
        shutil.copy(road / "dry" / "000.png", road / "dry" / f"again{number}.png")
    holding = [split for split in all_splits(road, cache) if any("again" in name for name in split.ids)]
    assert len(holding) == 1
    assert sum("again" in name for name in holding[0].ids) == 9


def test_road_photographs(data_root: Path, cache: Path):
    train, selection, heldout = all_splits(data_root / "road", cache)
    assert len(train) + len(selection) + len(heldout) == 214
    for name, count in (("dry", 85), ("wet", 129)):
        assert 0.1 < counts(heldout)[name] / count < 0.3
        assert 0.15 < counts(selection)[name] / (count - counts(heldout)[name]) < 0.25
