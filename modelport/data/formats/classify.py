"""Classification datasets on disk: one folder per class, called like it; ``dry/NAME.jpg``, ``wet/NAME.jpg``.

An example is called CLASS/NAME. Its class follows from the name of its folder and never from an order of folders.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from modelport.data.files import describe
from modelport.data.formats.images import IMAGE_SUFFIXES, named_images, undecodable
from modelport.data.manifest import FileEntry, Item
from modelport.errors import BadInput

_LAYOUT = "a classification dataset has one folder of images per class, called as the class is in model.yaml"
_PARTS = ("train", "validation", "valid", "val")


def class_of(item: Item) -> str:
    """Name of an example's class."""
    return PurePosixPath(item.files["image"].path).parent.name


class Classification:
    """Images in folders of classes."""

    def scan(self, folder: Path, root: Path, classes: Sequence[str]) -> tuple[list[Item], tuple[str, ...]]:
        """Examples under `folder`, by class and name; see `Format.scan`."""
        found: list[str] = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir() and not (folder == root and path.name in _PARTS and path.name not in classes):
                found.append(path.name)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                raise BadInput("is an image in no class's folder", file=path, remedy=_LAYOUT)
        _compare(found, classes, folder)
        images = [(name, path) for name in found for path in named_images(folder / name, _LAYOUT).values()]
        for name in found:
            if not any(label == name for label, _ in images):
                raise BadInput("holds no image: the class is empty", file=folder / name, remedy=_LAYOUT)

        def item(image: tuple[str, Path]) -> Item:
            name, path = image
            label = f"{name}/{path.stem}"
            return Item(id=label, group=label, files={"image": describe(path, root)})

        with ThreadPoolExecutor(max_workers=8) as pool:
            items = list(pool.map(item, images))
        _contradictions(items, root)
        return items, ()

    def agree(self, items: Sequence[Item], read: Callable[[FileEntry], bytes], classes: Sequence[str]) -> None:
        """Compare the names of the folders with those of the classes; see `Format.agree`."""
        _compare({class_of(item) for item in items}, classes, "the dataset")

    def check_named(self, items: Sequence[Item], classes: Sequence[str]) -> None:
        """The folders are names."""

    def problem(self, item: Item, root: Path, classes: Sequence[str]) -> BadInput | None:
        """An image that cannot be decoded."""
        return undecodable(root / item.files["image"].path, remedy="replace or remove it")

    def truth(self, item: Item, read: Callable[[FileEntry], bytes], classes: Sequence[str]) -> NDArray[np.int64]:
        """The class id: int64 []."""
        name = class_of(item)
        if name not in classes:
            _compare([name], classes, item.files["image"].path)
        return np.array(classes.index(name), np.int64)


def _compare(found: Iterable[str], classes: Sequence[str], place: Path | str) -> None:
    found = sorted(found)
    if set(found) == set(classes):
        return
    unknown, missing = sorted(set(found) - set(classes)), sorted(set(classes) - set(found))
    said = [f"folder {name!r} is no class of model.yaml" for name in unknown]
    said += [f"class {name!r} of model.yaml has no folder" for name in missing]
    raise BadInput(
        f"{'; '.join(said)} (folders: {', '.join(found) or 'none'}; classes: {', '.join(classes)})",
        file=place,
        key="classes",
        remedy="call the folders exactly as the classes; " + _LAYOUT,
    )


def _contradictions(items: Sequence[Item], root: Path) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(item.files["image"].sha256, item)
        if class_of(other) != class_of(item):
            raise BadInput(
                f"is the same image as {other.files['image'].path}, of another class",
                file=root / item.files["image"].path,
                remedy="remove it from the class that it does not belong to",
            )
