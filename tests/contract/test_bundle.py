from collections.abc import Callable
from pathlib import Path

import pytest

from modelport.contract import ModelFolder, check, discover, pack, unpack, unpack_model
from modelport.errors import BadInput

Edit = Callable[[str, str, str], ModelFolder]


def test_the_bundle_is_the_same_bytes_whatever_the_clock_and_holds_no_samples(folder: ModelFolder) -> None:
    first = folder.bundle()
    training_image = folder.path / "sample" / "train" / "images" / "0.png"
    training_image.parent.mkdir(parents=True)
    training_image.write_bytes(b"0")
    (folder.path / "__pycache__").mkdir()
    (folder.path / "__pycache__" / "train.cpython-311.pyc").write_bytes(b"0")
    for junk in ("README.md", "look.ipynb", ".DS_Store", ".ipynb_checkpoints/train.py", "__pycache__/x.py"):
        (folder.path / junk).parent.mkdir(exist_ok=True)
        (folder.path / junk).write_text("0")
    (folder.path / "sample" / "link").symlink_to(folder.path)
    (folder.path / "train.py").touch()
    second = pack(folder.path)
    assert second.to_bytes() == first.to_bytes()
    assert second.digest == first.digest
    assert "sample/golden/one.png" in dict(first.files)


@pytest.mark.parametrize("name", ["anchors.yaml", "anchors.npy", "nested/words", "triton/network/labels.csv"])
def test_whatever_the_code_may_read_travels_and_counts(folder: ModelFolder, tmp_path: Path, name: str) -> None:
    before = folder.bundle().digest
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).write_bytes(b"\0\xff")
    bundle = folder.bundle()
    assert bundle.digest != before
    unpack(bundle.to_bytes(), tmp_path / "copy")
    assert (tmp_path / "copy" / name).read_bytes() == b"\0\xff"


def test_what_cannot_travel_is_told_by_the_check(folder: ModelFolder) -> None:
    link = folder.path / "shared.py"
    link.symlink_to(folder.path / "train.py")
    (problem,) = check(folder)
    assert (problem.file, "is a link" in problem.message) == (str(link), True)
    link.unlink()
    with (folder.path / "weights.pt").open("wb") as stream:
        stream.truncate(17 * 2**20)  # of zeros, which would pack well
    (problem,) = check(folder)
    assert "weights.pt" in problem.remedy


@pytest.mark.parametrize(
    ("file", "old", "new", "retrains"),
    [
        ("train.py", "pass", "return", True),
        ("model.yaml", "epochs: 2", "epochs: 3", True),
        ("model.yaml", "owner: tests", "owner: somebody", False),
        ("model.yaml", "minimum: 0.5", "minimum: 0.6", False),
        ("model.yaml", "#00ff00", "#00ff01", False),
        ("model.yaml", "name: spot,", "name: dot,", True),
    ],
)
def test_the_code_version_changes_with_what_is_learned_only(
    folder: ModelFolder, edit: Edit, file: str, old: str, new: str, retrains: bool
) -> None:
    before = folder.bundle().digest
    assert (edit(file, old, new).bundle().digest != before) is retrains


def test_a_bundle_unpacks_to_the_same_folder(folder: ModelFolder, tmp_path: Path) -> None:
    bundle = folder.bundle()
    unpack(bundle.to_bytes(), tmp_path / "copy")
    assert pack(tmp_path / "copy").files == bundle.files


def test_a_damaged_bundle_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        unpack(folder.bundle().to_bytes()[:-40], tmp_path / "copy")


def test_a_folder_too_large_for_a_configmap_names_its_largest_file(folder: ModelFolder) -> None:
    import random

    (folder.path / "weights.txt").write_bytes(random.Random(0).randbytes(2_000_000))
    with pytest.raises(BadInput, match=r"weights\.txt"):
        folder.bundle().to_bytes()


def test_a_bundle_file_becomes_a_project_with_the_same_model(folder: ModelFolder, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    file.write_bytes(folder.bundle().to_bytes())
    found = unpack_model(file, folder.name, tmp_path / "project")
    assert found.path == tmp_path / "project" / "models" / folder.name
    assert found.bundle().digest == folder.bundle().digest
    assert [image.name for image in found.golden] == [image.name for image in folder.golden]
    assert discover(tmp_path / "project") == [found]


def test_a_bundle_file_of_something_else_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    with pytest.raises(BadInput, match="No such file") as caught:
        unpack_model(file, folder.name, tmp_path / "project")
    assert caught.value.file == str(file)
    file.write_bytes(folder.bundle().to_bytes())
    with pytest.raises(BadInput, match=f"a bundle of {folder.name}, not of another"):
        unpack_model(file, "another", tmp_path / "project")
    file.write_bytes(b"this is no archive")
    with pytest.raises(BadInput, match="not a bundle"):
        unpack_model(file, folder.name, tmp_path / "project")
