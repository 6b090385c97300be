"""Zips of datasets: read as their folder is, and harmless whatever is in them."""

import os
import stat
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from modelport.contract import ModelSpec
from modelport.data import load_dataset, load_heldout
from modelport.data.archive import Limits, unpack
from modelport.errors import BadInput, ModelportError
from tests.data.small_datasets import spec_of, write_boxes, write_classes

SPEC = spec_of("classify", ["dry", "wet"])


def pack(folder: Path, file: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, prefix + path.relative_to(folder).as_posix())
    return file


@pytest.fixture
def road(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "road", {"dry": 8, "wet": 8})


@pytest.mark.parametrize("prefix", ["", "road/"])
def test_a_zip_is_the_same_dataset_as_its_folder(road: Path, tmp_path: Path, cache: Path, prefix: str):
    file = pack(road, tmp_path / "road.ZIP", prefix)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("__MACOSX/road/dry/._000.png", b"resource fork")
        archive.writestr(f"{prefix}dry/.DS_Store", b"x")
    zipped = load_dataset(str(file), SPEC, store=None, cache=cache)
    plain = load_dataset(str(road), SPEC, store=None, cache=cache)
    assert zipped.digest == plain.digest
    assert zipped.train.ids == plain.train.ids
    assert np.array_equal(zipped.train.image(0), plain.train.image(0))
    heldout = load_heldout(str(file), SPEC, store=None, cache=cache)
    assert heldout.training_digest == zipped.digest
    assert len(heldout.image(0)) == 20


def test_zips_of_the_other_tasks(folder: Path, spec: ModelSpec, tmp_path: Path, cache: Path):
    masks = pack(folder, tmp_path / "masks.zip")
    assert load_dataset(str(masks), spec, store=None, cache=cache).digest == (
        load_dataset(str(folder), spec, store=None, cache=cache).digest
    )
    boxes = write_boxes(tmp_path / "boxes")
    detect = spec_of("detect", ["mass", "nodule"])
    zipped = load_dataset(str(pack(boxes, tmp_path / "boxes.zip", "deep/")), detect, store=None, cache=cache)
    assert zipped.digest == load_dataset(str(boxes), detect, store=None, cache=cache).digest


def test_it_is_unpacked_once_and_is_found_by_content(road: Path, tmp_path: Path, cache: Path):
    load_dataset(str(pack(road, tmp_path / "a.zip")), SPEC, store=None, cache=cache)
    (made,) = [path for path in (cache / "sources").iterdir() if path.is_dir()]
    before = made.stat().st_mtime_ns
    moved = (tmp_path / "a.zip").rename(tmp_path / "b.zip")
    load_dataset(str(moved), SPEC, store=None, cache=cache)
    assert made.stat().st_mtime_ns == before
    assert stat.S_IMODE((made / "dry" / "000.png").stat().st_mode) == 0o444
    (road / "dry" / "000.png").unlink()
    load_dataset(str(pack(road, moved)), SPEC, store=None, cache=cache)
    assert len([path for path in (cache / "sources").iterdir() if path.is_dir()]) == 2


def test_several_at_once_and_what_a_killed_one_left(road: Path, tmp_path: Path, cache: Path):
    file = pack(road, tmp_path / "road.zip")
    load_dataset(str(file), SPEC, store=None, cache=cache)
    (made,) = [path for path in (cache / "sources").iterdir() if path.is_dir()]
    half = made.rename(made.with_name(f".{made.name}.part"))
    (half / "dry" / "000.png").unlink()
    digests: list[str] = []
    threads = [
        threading.Thread(target=lambda: digests.append(load_dataset(str(file), SPEC, store=None, cache=cache).digest))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [load_dataset(str(road), SPEC, store=None, cache=cache).digest] * 4
    assert not half.exists()


def member(name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, content


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("../outside.png")], "leads outside"),
        ([member("dry/../../outside.png")], "leads outside"),
        ([member("/tmp/outside.png")], "leads outside"),
        ([member("..\\outside.png")], "leads outside"),
        ([member("dry/link", b"/etc/passwd", stat.S_IFLNK | 0o777)], "is a link"),
        ([member("dry/pipe", b"", stat.S_IFIFO | 0o644)], "no plain file"),
        ([member("dry/a.png"), member("dry/a.png")], "twice"),
        ([member("dry"), member("dry/a.png")], "as a file and as a folder"),
        ([member(".hidden")], "holds no file"),
        ([member(f"dry/{number}.png") for number in range(6)], "holds 6 files"),
        ([member("dry/bomb.png", bytes(3_000_000))], "too large when it is unpacked"),
        ([member(f"dry/{number}.png", bytes(400_000)) for number in range(3)], "too large when it is unpacked"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_attacks(members: list[tuple[zipfile.ZipInfo, bytes]], said: str, tmp_path: Path):
    file = tmp_path / "attack.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for info, content in members:
            archive.writestr(info, content)
    inside = tmp_path / "there" / "inside"
    inside.mkdir(parents=True)
    with pytest.raises(BadInput, match=said) as caught:
        unpack(file, inside, Limits(max_files=5, max_bytes=1_000_000))
    assert caught.value.file == str(file)
    assert list((tmp_path / "there").iterdir()) == [inside]
    assert sum(path.stat().st_size for path in inside.rglob("*") if path.is_file()) <= 1_000_000


def test_a_bomb_is_known_by_its_ratio(tmp_path: Path):
    file = tmp_path / "bomb.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dry/a.png", bytes(2_000_000))
    (tmp_path / "inside").mkdir()
    with pytest.raises(BadInput, match="too large"):
        unpack(file, tmp_path / "inside", Limits(free_bytes=1_000_000))


def test_a_lie_about_the_size_is_not_believed(tmp_path: Path):
    file = tmp_path / "liar.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dry/a.png", os.urandom(1000))
    content = file.read_bytes().replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    file.write_bytes(content)
    (tmp_path / "inside").mkdir()
    with pytest.raises(BadInput):
        unpack(file, tmp_path / "inside")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_no_zip_at_all(content: bytes, tmp_path: Path, cache: Path):
    file = tmp_path / "bad.zip"
    file.write_bytes(content)
    with pytest.raises(BadInput, match="is no whole zip") as caught:
        load_dataset(str(file), SPEC, store=None, cache=cache)
    assert caught.value.file == str(file)


def test_a_damaged_member_leaves_nothing_behind(road: Path, tmp_path: Path, cache: Path):
    file = pack(road, tmp_path / "road.zip")
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(BadInput):
        load_dataset(str(file), SPEC, store=None, cache=cache)
    assert not [path for path in (cache / "sources").iterdir() if path.is_dir()]


def test_an_encrypted_zip(road: Path, tmp_path: Path, cache: Path):
    file = pack(road, tmp_path / "road.zip")
    content = bytearray(file.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(signature, place + 4)
    file.write_bytes(content)
    with pytest.raises(BadInput, match="cannot be unpacked"):
        load_dataset(str(file), SPEC, store=None, cache=cache)


def test_no_room_for_it(road: Path, tmp_path: Path):
    file = pack(road, tmp_path / "road.zip")
    (tmp_path / "cache").write_text("a file where a folder is to be")
    with pytest.raises(ModelportError, match="cannot be written"):
        load_dataset(str(file), SPEC, store=None, cache=tmp_path / "cache")


def test_a_zip_on_s3_is_to_be_pushed(cache: Path):
    uri = "s3://modelport/uploads/road.zip"
    with pytest.raises(BadInput, match="no training can read") as caught:
        load_dataset(uri, SPEC, store=None, cache=cache)
    assert f"modelport data push NAME {uri}" in str(caught.value.remedy)
