"""VinBigData's table: the boxes of several readers become one for each finding, in pixels of the image."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelport.contract import ModelSpec
from modelport.data import Dataset, load_dataset, load_heldout
from modelport.errors import BadInput
from tests.data.small_datasets import refusal_of, spec_of

SPEC = spec_of("detect", ["Nodule/Mass", "aortic enlargement"])
HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
NODULE, AORTA, OTHER = "Nodule/Mass,8", "Aortic_enlargement,0", "Cardiomegaly,3"


def lines_of(image: str) -> list[str]:
    """Three readers: of a nodule all, a bit apart; of the aorta two; one box of a class that nobody asked for."""
    return [
        f"{image},{NODULE},R8,20,20,40,40",
        f"{image},{NODULE},R9,22,20,42,40",
        f"{image},{NODULE},R10,24,20,44,40",
        f"{image},{AORTA},R8,100,100,150,160",
        f"{image},{AORTA},R9,100,100,150,160",
        f"{image},{OTHER},R10,5,5,190,90",
    ]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Eight radiographs of 200x180, every other 16 bits deep; the last without findings."""
    folder = tmp_path / "vinbigdata"
    (folder / "train").mkdir(parents=True)
    rows = [HEADER]
    draw = np.random.default_rng(1)
    for number in range(8):
        wide = draw.integers(0, 65536, (180, 200), dtype=np.uint16)
        pixels = wide if number % 2 else (wide >> 8).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"scan{number}.png")
        rows += lines_of(f"scan{number}") if number < 7 else []
    rows += [f"scan7,No finding,14,R{reader},,,," for reader in (8, 9, 10)]
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


def load(folder: Path, cache: Path, spec: ModelSpec = SPEC) -> Dataset:
    return load_dataset(str(folder), spec, store=None, cache=cache)


def refusal(folder: Path, cache: Path, spec: ModelSpec = SPEC) -> BadInput:
    return refusal_of(folder, cache, spec)


def change(folder: Path, old: str, new: str) -> None:
    file = folder / "train.csv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def truths(folder: Path, cache: Path, spec: ModelSpec = SPEC) -> dict[str, list[list[float]]]:
    dataset = load(folder, cache, spec)
    heldout = load_heldout(str(folder), spec, store=None, cache=cache)
    assert heldout.training_digest == dataset.digest
    splits = (dataset.train, dataset.selection, heldout)
    return {name: split.target(index).tolist() for split in splits for index, name in enumerate(split.ids)}


def test_readers_are_fused_and_boxes_are_in_pixels(scans: Path, cache: Path):
    found = truths(scans, cache)
    assert len(found) == 8
    assert found["scan7"] == []
    assert np.array(found["scan0"]) == pytest.approx(np.array([[22, 20, 42, 40, 0], [100, 100, 150, 160, 1]]), abs=1e-3)


def test_what_was_done_is_said(scans: Path, cache: Path):
    change(scans, f"scan0,{OTHER},R10,5,5,190,90", f"scan0,{NODULE},R10,-3,150,30,170")
    change(scans, "\nscan7,No finding,14,R9,,,,", "")
    Image.new("L", (200, 180)).save(scans / "train" / "unread.png")
    for _ in range(2):  # made, and then found in the cache
        remarks = "\n".join(load(scans, cache).remarks)
        assert "Cardiomegaly (6)" in remarks
        assert "1 boxes reach over the rim" in remarks
        assert "1 images have no line in train.csv" in remarks
        assert "1 images were read by another number of readers than 3" in remarks
        assert "36 boxes of several readers are fused to 15 in 8 images" in remarks
    # Of an image that is left out it may say something; every other has a line.
    said = "id,group\nunread,p9\n" + "".join(f"scan{number}.png,p{number // 2}\n" for number in range(8))
    (scans / "groups.csv").write_text(said)
    groups = {item.id: item.group for item in load(scans, cache).manifest.items}
    assert all(group == f"p{int(name[-1]) // 2}" for name, group in groups.items())
    (scans / "groups.csv").write_text(said.replace("scan0.png,p0\n", ""))
    assert refusal(scans, cache).file == str(scans / "groups.csv")
    (scans / "groups.csv").unlink()
    found = truths(scans, cache)
    assert "unread" not in found
    assert found["scan0"][0] == pytest.approx([0, 150, 30, 170, 0], abs=1e-3)


def test_images_of_8_and_16_bits_are_read_alike(scans: Path, cache: Path):
    split = load(scans, cache).train
    for index, name in enumerate(split.ids):
        original = np.asarray(Image.open(scans / "train" / f"{name}.png")).astype(int)
        expected = original >> 8 if int(name[-1]) % 2 else original
        assert np.array_equal(split.image(index)[..., 0], expected)


def test_the_same_table_gives_the_same_dataset_in_any_process(scans: Path, cache: Path, tmp_path: Path):
    digest = load(scans, cache).digest
    rows = (scans / "train.csv").read_text().splitlines()
    (scans / "train.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    program = (
        "import json, sys; from pathlib import Path; from modelport.contract import ModelSpec; "
        "from modelport.data import load_dataset; spec = ModelSpec.model_validate_json(sys.argv[1]); "
        "print(load_dataset(sys.argv[2], spec, store=None, cache=Path(sys.argv[3])).digest)"
    )
    command = [sys.executable, "-c", program, SPEC.model_dump_json(), str(scans), str(tmp_path / "other")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert done.stdout.strip() == digest


def test_sizes_that_boxes_were_drawn_at(scans: Path, cache: Path):
    straight = truths(scans, cache)
    for path in (scans / "train").iterdir():
        image = Image.open(path)
        image.resize((100, 90)).save(path)
    error = refusal(scans, cache)
    assert (error.file, error.line) == (str(scans / "train.csv"), 5)
    assert "outside of its image, which is 100x90" in error.message
    assert "width and height" in str(error.remedy)
    header, *rows = (scans / "train.csv").read_text().splitlines()
    (scans / "train.csv").write_text("\n".join([f"{header},width,height", *(f"{row},200,180" for row in rows)]))
    halved = truths(scans, cache)
    assert np.array(halved["scan0"])[:, :4] * 2 == pytest.approx(np.array(straight["scan0"])[:, :4], abs=1e-3)
    change(scans, "scan1,Aortic_enlargement,0,R8,100,100,150,160,200,180", f"scan1,{AORTA},R8,100,100,150,160,180,200")
    assert refusal(scans, cache).key == "width, height"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("scan0,Nodule/Mass,8,R9,22,20,42,40", "scan0,Nodule/Mass,8,R9,42,20,22,40", "is a box with no area"),
        ("scan0,Nodule/Mass,8,R9,22,20,42,40", "scan0,Nodule/Mass,8,R9,22,20,42,20", "is a box with no area"),
        ("scan0,Nodule/Mass,8,R9,22,20,42,40", "scan0,Nodule/Mass,8,R9,,,,", "is '', no number"),
        ("scan0,Nodule/Mass,8,R9,22,20,42,40", "scan0,Nodule/Mass,8,R9,22,20,nan,40", "is 'nan', no number"),
        ("scan0,Nodule/Mass,8,R9,22,20,42,40", "scan99,Nodule/Mass,8,R9,22,20,42,40", "there is no image 'scan99'"),
        ("scan0,Nodule/Mass,8,R9,22,20,42,40", "scan0,Nodule/Mass,8,,22,20,42,40", "is empty"),
        ("scan0,Nodule/Mass,8,R9,22,20,42,40", "scan0,Nodule/Mass,8,R9,22,20", "is '', no number"),
    ],
)
def test_a_wrong_line_is_named(scans: Path, cache: Path, old: str, new: str, said: str):
    change(scans, old, new)
    error = refusal(scans, cache)
    assert (error.file, error.line) == (str(scans / "train.csv"), 3)
    assert said in error.message


def test_classes_that_the_table_has_not(scans: Path, cache: Path):
    error = refusal(scans, cache, spec_of("detect", ["Nodule/Mass", "Pneumothorax"]))
    assert "no box of Pneumothorax" in error.message
    assert "Cardiomegaly" in error.message
    assert "no box of a, b" in refusal(scans, cache, spec_of("detect", ["a", "b"])).message


def test_what_is_no_such_table(scans: Path, cache: Path):
    (scans / "train.csv").write_text("image_id,boxes\nscan0,1 2 3 4\n")
    error = refusal(scans, cache)
    assert (error.line, "lacks the columns class_name" in error.message) == (1, True)
    (scans / "train.csv").write_text(HEADER + "\n")
    assert "holds no line" in refusal(scans, cache).message
    (scans / "train.csv").write_text("\n".join([HEADER, *lines_of("scan0")]))
    (scans / "train" / "scan1.dicom").write_bytes(b"DICM")
    assert refusal(scans, cache).file == str(scans / "train" / "scan1.dicom")


def test_labels_beside_a_table_are_yolo_s(scans: Path, cache: Path):
    (scans / "train").rename(scans / "images")
    (scans / "labels").mkdir()
    for number in range(8):
        (scans / "labels" / f"scan{number}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert json.dumps(truths(scans, cache)["scan3"]) == "[[90.0, 81.0, 110.0, 99.0, 0.0]]"
