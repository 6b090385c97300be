"""VinBigData's chest X-rays: a table of boxes by several radiologists, made into YOLO labels of one box a finding.

``train.csv`` (or ``annotations.csv``) lies beside ``images/`` (or ``train/``) and has a line per reader and finding:
image_id, class_name, rad_id, x_min, y_min, x_max, y_max in pixels. The class "No finding" has no box. Where the images
were resized and the boxes were not, columns width and height give the size that the boxes were drawn at.
"""

import csv
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelport.data.formats.detect import CLASSES_FILE
from modelport.data.formats.images import named_images
from modelport.data.groups import GROUPS_FILE, read_groups, require_groups
from modelport.errors import BadInput, Unavailable
from modelport.imaging import upright_size

READERS = 3
"""Radiologists who read each training image, independently of each other (Nguyen et al., VinDr-CXR, Scientific Data
9:429, 2022). Another number is taken too, and remarked."""
IOU_THRESHOLD = 0.4
"""Overlap from which boxes of one class are one finding: the one at which VinBigData's own challenge matches boxes
(mean average precision at IoU > 0.4)."""

_VERSION = 1
"""Counts changes of what is written for the same input."""
_TABLES = ("train.csv", "annotations.csv")
_COLUMNS = ("image_id", "class_name", "rad_id", "x_min", "y_min", "x_max", "y_max")
_CORNERS = _COLUMNS[3:]
_NO_FINDING = "no finding"
_LAYOUT = "beside the table of boxes lies images/ (or train/) with IMAGE_ID.png or .jpg"


@dataclass(frozen=True)
class Box:
    """What one reader drew, cut off at the image's rim; corners as shares of the image."""

    reader: str
    label: int
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class Table:
    """A dataset as it was read, in order of the images' names."""

    images: Mapping[str, Path]
    """Those that were read by somebody."""
    readers: Mapping[str, frozenset[str]]
    boxes: Mapping[str, Sequence[Box]]
    classes: tuple[str, ...]
    groups: Mapping[str, str] | None
    """What groups.csv says of these images."""
    remarks: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of everything that decides what `write` writes."""
        content = {
            "version": [_VERSION, IOU_THRESHOLD],
            "images": {name: str(path.resolve()) for name, path in self.images.items()},
            "readers": {name: sorted(readers) for name, readers in self.readers.items()},
            "boxes": {
                name: [(box.reader, box.label, box.corners) for box in boxes] for name, boxes in self.boxes.items()
            },
            "classes": self.classes,
            "groups": self.groups,
            "remarks": self.remarks,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_table(folder: Path) -> bool:
    """Whether a folder's boxes are in a table, and not in YOLO's labels."""
    return _table_file(folder) is not None and not any((folder / part / "labels").is_dir() for part in ("", "train"))


def read(folder: Path, classes: Sequence[str], pattern: str | None) -> Table:
    """Read the table and find its images; classes are compared without regard to case, spaces and underscores.

    Args:
        folder: where the table is.
        classes: names of model.yaml's classes.
        pattern: of the groups that groups.csv does not give, if there is one.

    Raises:
        BadInput: naming the line of a table, or the image, that is wrong.
    """
    file = _table_file(folder) or folder / _TABLES[0]
    rows = _rows(file)
    places = [folder / name for name in ("images", "train/images", "train")]
    available = named_images(next((place for place in places if place.is_dir()), places[0]), _LAYOUT)
    lines: dict[str, int] = {}
    for line, row in rows:
        lines.setdefault(row["image_id"], line)
    for name, line in lines.items():
        if name not in available:
            raise BadInput(f"there is no image {name!r}", file=file, line=line, remedy=f"add it: {_LAYOUT}")
    images = {name: path for name, path in available.items() if name in lines}
    ids = {_plain(name): number for number, name in enumerate(classes)}
    taken, others = _by_class(rows, ids)
    _check_classes(taken, others, classes, file)

    sizes = _drawn_sizes(rows, images, file)
    readers: dict[str, set[str]] = {name: set() for name in images}
    boxes: dict[str, list[Box]] = {name: [] for name in images}
    clipped = 0
    for line, row in rows:
        name = row["image_id"]
        readers[name].add(row["rad_id"])
        label = ids.get(_plain(row["class_name"]))
        if label is None:
            continue
        corners, inside = _corners(row, sizes[name], file, line)
        clipped += corners != inside
        boxes[name].append(Box(row["rad_id"], label, inside))

    remarks: list[str] = []
    if others:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(others.items()))
        remarks.append(f"boxes of classes that model.yaml has not are left out: {listed}")
    if clipped:
        remarks.append(f"{clipped} boxes reach over the rim of their image and are cut off there")
    unread = len(available) - len(images)
    if unread:
        remarks.append(f"{unread} images have no line in {file.name}: nobody read them, and they are left out")
    odd = sum(len(found) != READERS for found in readers.values())
    if odd:
        remarks.append(f"{odd} images were read by another number of readers than {READERS}")
    # Of images that nobody read as well: what is left out is no mistake in groups.csv.
    said = read_groups(folder, available.items())
    require_groups(folder, said, images, pattern)
    return Table(
        images=images,
        readers={name: frozenset(found) for name, found in readers.items()},
        boxes={
            name: sorted(found, key=lambda box: (box.reader, box.label, box.corners)) for name, found in boxes.items()
        },
        classes=tuple(classes),
        groups={name: said[name] for name in images if name in said} if said else None,
        remarks=tuple(remarks),
    )


def write(table: Table, folder: Path) -> tuple[str, ...]:
    """Write a table as a dataset in YOLO's format, with links to its images; the remarks on it.

    Raises:
        Unavailable: the library that fuses boxes is not installed.
        OSError: the folder cannot be written.
    """
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / CLASSES_FILE).write_text("".join(f"{name}\n" for name in table.classes))
    if table.groups is not None:
        with (folder / GROUPS_FILE).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("id", "group"), *table.groups.items()])
    drawn = written = 0
    for name, image in table.images.items():
        link = folder / "images" / image.name
        try:
            link.symlink_to(image.resolve())
        except OSError:
            shutil.copyfile(image, link)
        rows = fuse(table.boxes[name], table.readers[name])
        drawn += len(table.boxes[name])
        written += len(rows)
        (folder / "labels" / f"{name}.txt").write_text("".join(_line(*row) for row in rows))
    return (*table.remarks, f"{drawn} boxes of several readers are fused to {written} in {len(table.images)} images")


def fuse(boxes: Sequence[Box], readers: frozenset[str]) -> list[tuple[int, tuple[float, ...]]]:
    """One box for each finding, by weighted boxes fusion of equal readers: (class id, corners as shares), in order.

    What one reader alone has seen is kept as well.

    Raises:
        Unavailable: the library that does it is not installed.
    """
    if not boxes:
        return []
    try:
        # It brings numba, which takes a second.
        from ensemble_boxes import weighted_boxes_fusion  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise Unavailable(
            f"boxes cannot be fused: {error}", remedy="install the extra that trains: modelport[train]"
        ) from None
    # Readers count alike. Equal scores would be ordered by the processor's own way of sorting: these differ by what
    # moves no box by a thousandth of a pixel.
    scores = {id(box): 1 - number * 1e-7 for number, box in enumerate(boxes)}
    by_reader = [[box for box in boxes if box.reader == reader] for reader in sorted(readers)]
    fused: Any = weighted_boxes_fusion(
        [[box.corners for box in drawn] for drawn in by_reader],
        [[scores[id(box)] for box in drawn] for drawn in by_reader],
        [[box.label for box in drawn] for drawn in by_reader],
        iou_thr=IOU_THRESHOLD,
    )
    return sorted(
        (int(label), tuple(min(max(float(value), 0.0), 1.0) for value in corners))
        for corners, _, label in zip(*fused, strict=True)
    )


def _line(label: int, corners: tuple[float, ...]) -> str:
    left, top, right, bottom = corners
    return f"{label} {(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f} {bottom - top:.6f}\n"


def _table_file(folder: Path) -> Path | None:
    return next((folder / name for name in _TABLES if (folder / name).is_file()), None)


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Lines of the table, with their numbers."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise BadInput(
                    f"lacks the columns {', '.join(missing)}",
                    file=file,
                    line=1,
                    remedy=f"begin it with {','.join(_COLUMNS)}, or give labels/ in YOLO's format",
                )
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"is no table of comma-separated values: {error}", file=file) from None
    if not rows:
        raise BadInput("holds no line: the dataset is empty", file=file, remedy="a line is what one reader found")
    for line, row in rows:
        for column in ("image_id", "class_name", "rad_id"):
            if not row[column].strip():
                raise BadInput("is empty", file=file, line=line, key=column, remedy="fill it in, or remove the line")
    return rows


def _by_class(
    rows: Sequence[tuple[int, Mapping[str, str]]], ids: Mapping[str, int]
) -> tuple[set[int], Mapping[str, int]]:
    """Ids of model.yaml's classes that have a box, and how many boxes the others have, by name."""
    names = Counter(row["class_name"] for _, row in rows if _plain(row["class_name"]) != _NO_FINDING)
    taken = {ids[_plain(name)] for name in names if _plain(name) in ids}
    return taken, {name: count for name, count in names.items() if _plain(name) not in ids}


def _check_classes(taken: set[int], others: Mapping[str, int], classes: Sequence[str], file: Path) -> None:
    missing = [name for number, name in enumerate(classes) if number not in taken]
    if missing:
        raise BadInput(
            f"has no box of {', '.join(missing)}, of model.yaml's classes {', '.join(classes)} "
            f"(other classes in it: {', '.join(sorted(others)) or 'none'})",
            file=file,
            key="class_name",
            remedy="call the classes in model.yaml as they are called here, or remove those without examples",
        )


def _drawn_sizes(
    rows: Sequence[tuple[int, Mapping[str, str]]], images: Mapping[str, Path], file: Path
) -> Mapping[str, tuple[float, float]]:
    """(width, height) in pixels that each image's boxes were drawn at: of the table, else the image's own."""
    sizes: dict[str, tuple[float, float]] = {}
    if {"width", "height"} <= rows[0][1].keys():
        for line, row in rows:
            drawn = _number(row, "width", file, line), _number(row, "height", file, line)
            if min(drawn) <= 0 or sizes.setdefault(row["image_id"], drawn) != drawn:
                raise BadInput(
                    f"{row['image_id']} cannot be {drawn[0]:g}x{drawn[1]:g} here",
                    file=file,
                    line=line,
                    key="width, height",
                    remedy="give the same width and height, in pixels, on every line of an image",
                )
        return sizes

    def size(path: Path) -> tuple[float, float]:
        try:
            height, width = upright_size(path.read_bytes())
        except BadInput as error:
            raise BadInput(error.message, file=path, remedy="replace it, or remove it with its lines") from None
        return width, height

    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(images, pool.map(size, images.values()), strict=True))


def _corners(
    row: Mapping[str, str], size: tuple[float, float], file: Path, line: int
) -> tuple[tuple[float, ...], tuple[float, float, float, float]]:
    """A box as shares of the image: as it was drawn, and cut off at the rim."""
    left, top, right, bottom = (_number(row, column, file, line) for column in _CORNERS)
    if right <= left or bottom <= top:
        raise BadInput(
            f"is a box with no area: x {left:g} to {right:g}, y {top:g} to {bottom:g}",
            file=file,
            line=line,
            remedy="correct it, or remove the line",
        )
    width, height = size
    drawn = (left / width, top / height, right / width, bottom / height)
    inside = (max(drawn[0], 0.0), max(drawn[1], 0.0), min(drawn[2], 1.0), min(drawn[3], 1.0))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise BadInput(
            f"is a box outside of its image, which is {width:g}x{height:g}: x {left:g} to {right:g}, "
            f"y {top:g} to {bottom:g}",
            file=file,
            line=line,
            remedy="if images were resized after the boxes were drawn, add columns width and height with the old size",
        )
    return drawn, inside


def _number(row: Mapping[str, str], column: str, file: Path, line: int) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"is {row[column]!r}, no number", file=file, line=line, key=column, remedy="give it in pixels")
    return value


def _plain(name: str) -> str:
    """A class's name as it is compared."""
    return " ".join(name.replace("_", " ").lower().split())
