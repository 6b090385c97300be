"""Detection datasets in YOLO's format: what is read as which box of which class, and what is refused."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelport.contract import ModelSpec
from modelport.data import Dataset, Split, load_dataset, load_heldout
from modelport.errors import BadInput
from tests.data.small_datasets import picture, refusal_of, spec_of, write_boxes

SPEC = spec_of("detect", ["mass", "nodule"])


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    return write_boxes(tmp_path / "boxes")


def load(folder: Path, cache: Path, spec: ModelSpec = SPEC) -> Dataset:
    return load_dataset(str(folder), spec, store=None, cache=cache)


def refusal(folder: Path, cache: Path, spec: ModelSpec = SPEC) -> BadInput:
    return refusal_of(folder, cache, spec)


def truths(dataset: Dataset) -> dict[str, list[list[float]]]:
    return {
        name: split.target(index).tolist()
        for split in (dataset.train, dataset.selection)
        for index, name in enumerate(split.ids)
    }


def test_boxes_come_in_pixels_and_each_split_has_its_own(boxes: Path, cache: Path):
    dataset = load(boxes, cache)
    heldout = load_heldout(str(boxes), SPEC, store=None, cache=cache)
    assert len(dataset.train) + len(dataset.selection) + len(heldout) == 12
    assert dataset.train.image(0).shape == (20, 40, 3)
    target = dataset.train.target(0)
    assert target.dtype == np.float32
    assert target.tolist() == [[15, 5, 25, 15, int(dataset.train.ids[0][-1]) % 2]]


def test_ids_are_mapped_by_name_and_never_by_position(boxes: Path, cache: Path, tmp_path: Path):
    other = shutil.copytree(boxes, tmp_path / "other")
    (other / "classes.txt").write_text("nodule\nmass\n")
    straight, turned = truths(load(boxes, cache)), truths(load(other, cache))
    assert {name: rows[0][4] for name, rows in turned.items()} == {
        name: 1 - rows[0][4] for name, rows in straight.items()
    }
    (other / "classes.txt").unlink()
    (other / "data.yaml").write_text("nc: 2\nnames: {0: nodule, 1: mass}\n")
    assert truths(load(other, cache)) == turned
    (other / "data.yaml").write_text("names: [nodule, mass]\n")
    assert truths(load(other, cache)) == turned


def test_classes_without_a_box_are_said_by_split(boxes: Path, cache: Path):
    for file in (boxes / "labels").iterdir():
        file.write_text("0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5\n")
    assert not any("has no box" in remark for remark in load(boxes, cache).remarks)
    dataset, heldout = load(boxes, cache), load_heldout(str(boxes), SPEC, store=None, cache=cache)
    for split in (dataset.selection, heldout):
        for name in split.ids:
            (boxes / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    said = [remark for remark in load(boxes, cache).remarks if "has no box" in remark]
    assert [remark.partition(":")[0] for remark in said] == [
        "class 'nodule' has no box in the selection split",
        "class 'nodule' has no box in the held-out split",
    ]


def test_without_names_the_order_is_taken_and_said(boxes: Path, cache: Path):
    (boxes / "classes.txt").unlink()
    assert any("0 mass, 1 nodule" in remark for remark in load(boxes, cache).remarks)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("mass\nnodule\neffusion\n", "'effusion' is no class of model.yaml"),
        ("mass\n", "class 'nodule' of model.yaml is not named here"),
        ("mass\nmass\n", "names a class twice"),
        ("", "names no class"),
    ],
)
def test_names_that_are_not_the_model_s(boxes: Path, cache: Path, names: str, said: str):
    (boxes / "classes.txt").write_text(names)
    error = refusal(boxes, cache)
    assert said in error.message
    assert error.file == str(boxes / "classes.txt")


def test_two_files_of_names_that_disagree(boxes: Path, cache: Path):
    (boxes / "data.yaml").write_text("names: [nodule, mass]\n")
    assert "names the ids" in refusal(boxes, cache).message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 0.2 0.2", "class id 2 is none of 0 to 1"),
        ("-1 0.5 0.5 0.2 0.2", "class id -1"),
        ("0.5 0.5 0.5 0.2 0.2", "class id 0.5"),
        ("0 0.5 0.5 0.2", "has 4 columns"),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9", "outlines of a segmentation"),
        ("0 nan 0.5 0.2 0.2", "a number that is none"),
        ("0 0.5 inf 0.2 0.2", "a number that is none"),
        ("0 20 10 5 5", "not between 0 and 1"),
        ("0 -0.1 0.5 0.2 0.2", "not between 0 and 1"),
        ("0 0.5 0.5 0 0.2", "no area"),
        ("mass 0.5 0.5 0.2 0.2", "is not five numbers"),
    ],
)
def test_a_wrong_line_is_named(boxes: Path, cache: Path, line: str, said: str):
    file = boxes / "labels" / f"{load(boxes, cache).train.ids[0]}.txt"
    file.write_text(f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    error = refusal(boxes, cache)
    assert (error.file, error.line) == (str(file), 3)
    assert said in error.message


def test_images_without_objects(boxes: Path, cache: Path):
    dataset = load(boxes, cache)
    empty, none = dataset.train.ids[:2]
    (boxes / "labels" / f"{empty}.txt").write_text("\n")
    (boxes / "labels" / f"{none}.txt").unlink()
    dataset = load(boxes, cache)
    found = truths(dataset)
    assert found[empty] == found[none] == []
    index = dataset.train.ids.index(none)
    assert dataset.train.target(index).shape == (0, 5)
    assert any("1 of 12 images" in remark and "no label file" in remark for remark in dataset.remarks)


def test_a_whole_folder_of_labels_that_is_missing_is_no_dataset_without_objects(boxes: Path, cache: Path):
    for file in (boxes / "labels").iterdir():
        file.unlink()
    assert "holds no label" in refusal(boxes, cache).message
    shutil.rmtree(boxes / "labels")
    assert refusal(boxes, cache).file == str(boxes / "labels")


def test_files_that_belong_to_nothing(boxes: Path, cache: Path):
    (boxes / "labels" / "other.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert "a label without an image" in refusal(boxes, cache).message
    (boxes / "labels" / "other.txt").rename(boxes / "labels" / "p00_00.xml")
    assert refusal(boxes, cache).file == str(boxes / "labels" / "p00_00.xml")


def test_a_line_that_is_there_twice_is_one_object_and_the_rim_cuts(boxes: Path, cache: Path):
    for file in (boxes / "labels").glob("*.txt"):
        file.write_text("0 0.1 0.5 0.4 0.5\n0 0.1 0.5 0.4 0.5\n1 1 1 0.5 0.5\n")
    assert load(boxes, cache).train.target(0).tolist() == [[0, 5, 12, 15, 0], [30, 15, 40, 20, 1]]


def test_boxes_are_of_the_upright_image(boxes: Path, cache: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    for path in (boxes / "images").iterdir():
        stream = io.BytesIO()
        Image.open(path).save(stream, format="PNG", exif=exif)
        path.write_bytes(stream.getvalue())
    split = load(boxes, cache).train
    assert split.image(0).shape == (40, 20, 3)
    assert split.target(0)[0, :4].tolist() == [7.5, 10, 12.5, 30]


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_folders_of_parts(tmp_path: Path, cache: Path, name: str):
    root = tmp_path / "parts"
    write_boxes(root / "train", names=None)
    write_boxes(root / name, count=2, names=None)
    for number, file in enumerate(sorted((root / name / "images").iterdir())):
        file.write_bytes(picture(500 + number))
    (root / "data.yaml").write_text("names: [mass, nodule]\n")
    dataset = load(root, cache)
    assert len(dataset.train) + len(dataset.selection) == 12
    assert len(load_heldout(str(root), SPEC, store=None, cache=cache)) == 2
    assert dataset.remarks == ()


def test_a_group_pattern_holds_patients_together(boxes: Path, cache: Path):
    spec = spec_of("detect", ["mass", "nodule"], data=", group_pattern: '^(p\\d\\d)_', heldout_fraction: 0.3")
    dataset = load(boxes, cache, spec)
    heldout = load_heldout(str(boxes), spec, store=None, cache=cache)
    parts = [patients(split) for split in (dataset.train, dataset.selection, heldout)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 6
    (boxes / "images" / "p00_00.png").rename(boxes / "images" / "unnamed.png")
    (boxes / "labels" / "p00_00.txt").rename(boxes / "labels" / "unnamed.txt")
    error = refusal(boxes, cache, spec)
    assert error.key == "data.group_pattern"
    assert error.file == str(boxes / "images" / "unnamed.png")
    (boxes / "groups.csv").write_text("id,group\nunnamed,p00\n")
    assert len(load(boxes, cache, spec).manifest.items) + len(heldout) == 12


def test_a_patient_on_both_sides_is_refused(tmp_path: Path, cache: Path):
    root = tmp_path / "parts"
    write_boxes(root / "train")
    write_boxes(root / "valid", count=2)
    for number, file in enumerate(sorted((root / "valid" / "images").iterdir())):
        file.write_bytes(picture(500 + number))
    error = refusal(root, cache, spec_of("detect", ["mass", "nodule"], data=", group_pattern: '^(p\\d\\d)_'"))
    assert "group 'p00' is in train/ and in valid/" in error.message


def test_the_same_image_twice_is_one_group(boxes: Path, cache: Path):
    for number in range(1, 8):
        (boxes / "images" / f"p{number // 2:02d}_{number:02d}.png").write_bytes(picture(0))
    dataset = load(boxes, cache)
    heldout = load_heldout(str(boxes), SPEC, store=None, cache=cache)
    places = [split for split in (dataset.train, dataset.selection, heldout) if "p00_00" in patients(split)]
    assert len(places) == 1
    assert sum(places[0].group(index) == "p00_00" for index in range(len(places[0]))) == 8


def patients(split: Split) -> set[str]:
    return {split.group(index) for index in range(len(split))}


def test_radiographs_are_divided_by_patient(data_root: Path, cache: Path):
    spec = spec_of("detect", ["Nodule", "Mass"], data=", group_pattern: '^(.{8})'")
    folder = data_root / "cxr_nih50"
    dataset = load(folder, cache, spec)
    heldout = load_heldout(str(folder), spec, store=None, cache=cache)
    splits = (dataset.train, dataset.selection, heldout)
    assert sum(map(len, splits)) == 39
    assert sum(len(patients(split)) for split in splits) == len(set.union(*map(patients, splits)))
    # The file calls 0 Mass; here that is 1.
    name = "00004132_006_jpg.rf.c61d3e3410d39d8a61dba9a67475657e"
    split = next(split for split in splits if name in split.ids)
    found = split.target(split.ids.index(name))
    assert found[:3, 4].tolist() == [0, 0, 1]
    assert found[2, :4] == pytest.approx([680, 499, 907, 683], abs=0.01)
