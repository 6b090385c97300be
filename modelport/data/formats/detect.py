"""Detection datasets on disk, in YOLO's format: ``images/NAME.jpg`` (or .png) beside ``labels/NAME.txt``.

A line of a label file is one object: class id, then centre x, centre y, width and height as shares of the upright
image. An empty file, or none, says that the image shows no object, as Ultralytics reads it too; a line that is there
twice is one object.

The ids are those of ``classes.txt`` (one name a line) or of ``data.yaml`` (`names`). They become model.yaml's by
name, so that an order of classes is never believed. A local folder of several classes may lack such a file: its ids are
model.yaml's then, which a remark says. On S3, where model.yaml may change and models may share a dataset, it may not.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.data.files import describe
from modelport.data.formats.images import decoded, named_images, undecodable
from modelport.data.manifest import FileEntry, Item
from modelport.errors import BadInput
from modelport.imaging import upright_size

CLASSES_FILE = "classes.txt"
_NAMES_FILES = (CLASSES_FILE, "data.yaml", "data.yml", f"labels/{CLASSES_FILE}")
_LAYOUT = (
    "a detection dataset has images/NAME.jpg (or .png) and labels/NAME.txt, in YOLO's format, for every NAME; divided "
    "already, train/images and train/labels, and validation/ likewise"
)
_LINE = "write `CLASS CENTRE_X CENTRE_Y WIDTH HEIGHT`, the last four as shares of the image between 0 and 1"


class Detection:
    """Images and boxes."""

    def scan(self, folder: Path, root: Path, classes: Sequence[str]) -> tuple[list[Item], tuple[str, ...]]:
        """Examples under `folder`, by name; see `Format.scan`."""
        images = named_images(folder / "images", _LAYOUT)
        if not images:
            raise BadInput("holds no image: the dataset is empty", file=folder / "images", remedy=_LAYOUT)
        labels = _label_files(folder / "labels")
        for name, path in labels.items():
            if name not in images:
                raise BadInput(
                    "is a label without an image", file=path, remedy=f"add images/{name}.jpg, or remove the label"
                )
        names = _names_file(folder, root)
        shared: dict[str, FileEntry] = {}
        if names is not None:
            _class_ids(str(names), names.read_bytes(), tuple(classes))
            shared = {"classes": describe(names, root)}

        def item(name: str) -> Item:
            files = {"image": describe(images[name], root), **shared}
            if name in labels:
                files["label"] = describe(labels[name], root)
            return Item(id=name, group=name, files=files)

        with ThreadPoolExecutor(max_workers=8) as pool:
            items = list(pool.map(item, images))
        remarks: list[str] = []
        if names is None:
            order = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
            remarks.append(f"no {CLASSES_FILE} or data.yaml in {root}: ids are taken in model.yaml's order ({order})")
        without = len(images) - len(labels)
        if without:
            remarks.append(f"{without} of {len(images)} images in {folder} have no label file: they show no object")
        return items, tuple(remarks)

    def agree(self, items: Sequence[Item], read: Callable[[FileEntry], bytes], classes: Sequence[str]) -> None:
        """Compare the names that the dataset gives its ids with the classes; see `Format.agree`."""
        files = [item.files["classes"] for item in items if "classes" in item.files]
        for entry in {entry.sha256: entry for entry in files}.values():
            _class_ids(entry.path, read(entry), tuple(classes))

    def check_named(self, items: Sequence[Item], classes: Sequence[str]) -> None:
        """With several classes there must be a file that names the ids; see `Format.check_named`."""
        bare = [item for item in items if "classes" not in item.files]
        if bare and len(classes) > 1:
            raise BadInput(
                f"nothing says which of the classes {', '.join(classes)} the ids of the boxes are, so that another "
                "order in a model.yaml would turn them around",
                file=CLASSES_FILE,
                key="classes",
                remedy=f"write {CLASSES_FILE} into the dataset's folder, one name a line, in order of the ids",
            )

    def problem(self, item: Item, root: Path, classes: Sequence[str]) -> BadInput | None:
        """An image that cannot be decoded, or a line of its label that is wrong."""
        wrong = undecodable(root / item.files["image"].path, remedy="replace it, or remove it together with its label")
        entry = item.files.get("label")
        if wrong is not None or entry is None:
            return wrong
        names = item.files.get("classes")
        try:
            count = len(classes) if names is None else len(_names((root / names.path).read_bytes(), names.path))
            parse((root / entry.path).read_bytes(), count, root / entry.path)
        except BadInput as error:
            return error
        return None

    def truth(self, item: Item, read: Callable[[FileEntry], bytes], classes: Sequence[str]) -> NDArray[np.float32]:
        """The objects: float32 [N, 5] rows (x1, y1, x2, y2 in pixels of the upright image, class id), as in the file.

        What reaches over the image's rim is cut off there.
        """
        entry = item.files.get("label")
        if entry is None:
            return np.zeros((0, 5), np.float32)
        names = item.files.get("classes")
        ids = tuple(range(len(classes))) if names is None else _class_ids(names.path, read(names), tuple(classes))
        rows = parse(read(entry), len(ids), entry.path)
        if not len(rows):
            return np.zeros((0, 5), np.float32)
        image = item.files["image"]
        height, width = decoded(image, upright_size, read(image))
        half = rows[:, 3:5] / 2
        corners = np.concatenate([rows[:, 1:3] - half, rows[:, 1:3] + half], axis=1).clip(0, 1)
        labels = np.array([ids[int(row)] for row in rows[:, 0]])
        return np.concatenate([corners * (width, height, width, height), labels[:, None]], axis=1).astype(np.float32)


def absent_classes(items: Sequence[Item], root: Path, classes: Sequence[str]) -> list[str]:
    """Names of the classes that no box under `root` is of.

    Raises:
        BadInput: a label file is wrong.
    """
    shown: set[int] = set()
    for item in items:
        entry, names = item.files.get("label"), item.files.get("classes")
        if entry is None:
            continue
        ids = tuple(range(len(classes)))
        if names is not None:
            ids = _class_ids(names.path, (root / names.path).read_bytes(), tuple(classes))
        rows = parse((root / entry.path).read_bytes(), len(ids), root / entry.path)
        shown |= {ids[int(row)] for row in rows[:, 0]}
    return [name for number, name in enumerate(classes) if number not in shown]


def parse(content: bytes, count: int, file: Path | str) -> NDArray[np.float64]:
    """Rows of a label file as they stand there: float64 [N, 5] of class id, centre x, centre y, width, height.

    Args:
        content: The file's bytes.
        count: How many classes there are.
        file: What errors name.

    Raises:
        BadInput: naming the line.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise BadInput("is not text", file=file, remedy=_LINE) from None
    rows: dict[tuple[float, ...], None] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if words:
            rows[_row(words, count, file, number)] = None
    return np.array(list(rows), np.float64).reshape(-1, 5)


def _row(words: Sequence[str], count: int, file: Path | str, line: int) -> tuple[float, ...]:
    def wrong(message: str, remedy: str = _LINE) -> BadInput:
        return BadInput(message, file=file, line=line, remedy=remedy)

    if len(words) != 5:
        hint = "; outlines of a segmentation are no boxes" if len(words) > 5 else ""
        raise wrong(f"has {len(words)} columns instead of 5{hint}")
    try:
        row = tuple(float(word) for word in words)
    except ValueError:
        raise wrong(f"is not five numbers: {' '.join(words)!r}") from None
    label, *box = row
    if not all(math.isfinite(value) for value in row):
        raise wrong(f"holds a number that is none: {' '.join(words)!r}")
    if not label.is_integer() or not 0 <= label < count:
        raise wrong(f"class id {words[0]} is none of 0 to {count - 1}", "correct it, or name the class")
    if min(box) < 0 or max(box) > 1:
        raise wrong(f"holds numbers that are not between 0 and 1: {' '.join(words[1:])}")
    x, y, width, height = box
    if min(width, height, x + width / 2, y + height / 2, 1 - x + width / 2, 1 - y + height / 2) <= 0:
        raise wrong("is a box with no area", "correct or remove the line")
    return row


def _label_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        # One missing file is an image without objects; all of them missing is a wrong folder.
        raise BadInput("there is no folder labels/", file=folder, remedy=_LAYOUT)
    labels: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == CLASSES_FILE:
            continue
        if path.suffix != ".txt" or not path.is_file():
            raise BadInput("is not a label file NAME.txt", file=path, remedy=_LAYOUT)
        labels[path.stem] = path
    if not labels:
        raise BadInput("holds no label: no image has an object", file=folder, remedy=_LAYOUT)
    return labels


def _names_file(folder: Path, root: Path) -> Path | None:
    """The file that names the ids, in the dataset's folder or in this part of it."""
    places = dict.fromkeys([*(root / name for name in _NAMES_FILES), *(folder / name for name in _NAMES_FILES)])
    files = [path for path in places if path.is_file()]
    for other in files[1:]:
        first, second = (_names(path.read_bytes(), path) for path in (files[0], other))
        if first != second:
            raise BadInput(
                f"names the ids {', '.join(second)}, but {files[0].name} {', '.join(first)}",
                file=other,
                remedy=f"keep one of {files[0]} and {other}",
            )
    return files[0] if files else None


@lru_cache(maxsize=64)
def _class_ids(file: str, content: bytes, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Model.yaml's class id of each of the dataset's ids."""
    names = _names(content, file)
    if set(names) != set(classes):
        unknown, missing = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
        said = [f"{name!r} is no class of model.yaml" for name in unknown]
        said += [f"class {name!r} of model.yaml is not named here" for name in missing]
        raise BadInput(
            f"{'; '.join(said)} (here: {', '.join(names)}; classes: {', '.join(classes)})",
            file=file,
            key="classes",
            remedy="make the names of both the same; their order may differ",
        )
    return tuple(classes.index(name) for name in names)


@lru_cache(maxsize=64)
def _names(content: bytes, file: Path | str) -> tuple[str, ...]:
    """Class names in the order of the dataset's ids."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput("is not text", file=file, remedy="write one class name a line") from None
    if Path(file).suffix == ".txt":
        names = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        names = _yaml_names(text, file)
    if not names or len(set(names)) < len(names):
        raise BadInput(
            "names a class twice" if names else "names no class", file=file, remedy="name every class once, by id"
        )
    return tuple(names)


def _yaml_names(text: str, file: Path | str) -> list[str]:
    """`names` of Ultralytics' data.yaml: a list, or a mapping of ids to names."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data: Any = YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType]
    except YAMLError as error:
        raise BadInput(f"is not valid YAML: {error}", file=file) from None
    names: Any = data.get("names") if isinstance(data, dict) else None  # pyright: ignore[reportUnknownMemberType]
    if isinstance(names, dict):
        rows: dict[Any, Any] = dict(names)  # pyright: ignore[reportUnknownArgumentType]
        if set(rows) != set(range(len(rows))):
            raise BadInput("has ids that do not count from 0", file=file, key="names", remedy="name every id")
        names = [rows[number] for number in range(len(rows))]
    if not isinstance(names, list):
        raise BadInput("has no list of names", file=file, key="names", remedy="write `names: [FIRST, SECOND]`")
    return [str(name) for name in names]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
