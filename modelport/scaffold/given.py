"""Which classes a dataset of the user's has, read from how it lies in its folder or zip file."""

import csv
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from modelport.contract import Task
from modelport.errors import BadInput
from modelport.scaffold.names import SPLITS

_NAMES_FILES = ("classes.txt", "data.yaml", "data.yml", "labels/classes.txt")
_TABLES = ("train.csv", "annotations.csv")
"""Of boxes, as VinBigData has them."""
_ASIDE = "name the classes yourself: --classes first,second"

Place = Path | zipfile.Path
"""A folder, or one in a zip file; both are walked through alike."""


def classes_of(data: Path, task: Task) -> tuple[str, ...] | None:
    """Names of the classes in order of ids; None for a segmentation, whose masks hold numbers and no names.

    Classification: the folders' names, sorted. Detection: what classes.txt or data.yaml says, in that order; or what a
    table of boxes names, sorted.

    Raises:
        BadInput: there is no such folder or zip file, or it does not say what the classes are.
    """
    root = _opened(data)
    if task is Task.SEGMENT:
        return None
    train = root / "train" if (root / "train").is_dir() else root
    if task is Task.CLASSIFY:
        found = sorted(place.name for place in _visible(train) if place.is_dir() and place.name not in SPLITS)
        if not found:
            remedy = f"put the images of each class into a folder of its name, or {_ASIDE}"
            raise BadInput("holds no folder of a class", file=data, key="--data", remedy=remedy)
        return tuple(found)
    for place in (root, train):
        for name in _NAMES_FILES:
            file = place.joinpath(*name.split("/"))
            if file.is_file():
                return _listed(file.read_text(encoding="utf-8-sig"), name, data)
    for name in _TABLES:
        file = root / name
        if file.is_file():
            return _in_table(file.read_text(encoding="utf-8-sig"), data / name)
    remedy = f"write classes.txt there, a name a line in order of the ids, or {_ASIDE}"
    raise BadInput("does not say what the classes are called", file=data, key="--data", remedy=remedy)


def _opened(data: Path) -> Place:
    if data.is_dir():
        return data
    if not zipfile.is_zipfile(data):
        there = "is neither a folder nor a zip file" if data.exists() else "is not there"
        raise BadInput(there, file=data, key="--data", remedy="give the folder that holds your images, or a zip of it")
    root = zipfile.Path(data)
    # A folder that was zipped as a whole is the only thing in its file.
    inside = _visible(root)
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name not in SPLITS:
        return inside[0]
    return root


def _visible(place: Place) -> Sequence[Place]:
    entries: Iterable[Place] = place.iterdir()
    return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]


def _listed(text: str, name: str, data: Path) -> tuple[str, ...]:
    if name.endswith(".txt"):
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    wrong = BadInput("has no list of names", file=data / name, key="names", remedy="write `names: [FIRST, SECOND]`")
    try:
        content: Any = YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType]
    except YAMLError:
        raise wrong from None
    names: Any = content.get("names") if isinstance(content, dict) else None  # pyright: ignore[reportUnknownMemberType]
    if isinstance(names, dict) and set(names) == set(range(len(names))):  # pyright: ignore[reportUnknownArgumentType]
        names = [names[number] for number in range(len(names))]  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(names, list):
        raise wrong
    return tuple(str(label) for label in names)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _in_table(text: str, file: Path) -> tuple[str, ...]:
    found = {row.get("class_name") or "" for row in csv.DictReader(text.splitlines())}
    # Says that a reader found nothing; it has no box.
    names = sorted(name for name in found if name and name.lower() != "no finding")
    if not names:
        raise BadInput("names no class", file=file, key="class_name", remedy=_ASIDE)
    return tuple(names)
