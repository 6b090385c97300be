"""Segmentation datasets on disk: ``images/NAME.jpg`` beside ``masks/NAME.jpg`` (or .png), one mask an image."""

import csv
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modelport.data.files import describe
from modelport.data.manifest import Item
from modelport.errors import BadInput
from modelport.imaging import decode, decode_mask

_SUFFIXES = (".jpg", ".jpeg", ".png")
_LAYOUT = "a segmentation dataset has images/NAME.jpg and masks/NAME.jpg (or .png) for every NAME"


def scan(folder: Path, root: Path) -> list[Item]:
    """Examples under `folder`, by name, with the hashes of their files; paths are relative to `root`.

    Examples belong to the group that ``groups.csv`` (columns id, group) gives them, or each to its own.

    Raises:
        BadInput: naming the file or folder that is missing, superfluous or in another format.
    """
    images = _named_files(folder / "images")
    if not images:
        raise BadInput("holds no image: the dataset is empty", file=folder / "images", remedy=_LAYOUT)
    masks = _named_files(folder / "masks")
    for name, path in images.items():
        if name not in masks:
            raise BadInput("has no mask", file=path, remedy=f"add masks/{name}.png, or remove the image")
    for name, path in masks.items():
        if name not in images:
            raise BadInput("is a mask without an image", file=path, remedy=f"add images/{name}.jpg, or remove the mask")
    groups = _groups(root / "groups.csv")

    def item(name: str) -> Item:
        files = {"image": describe(images[name], root), "mask": describe(masks[name], root)}
        return Item(id=name, group=groups.get(name, name), files=files)

    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(item, images))


def check(items: Iterable[Item], root: Path, classes: int) -> None:
    """Decode every image and mask once, so that a damaged one is told now and not after hours of training.

    Raises:
        BadInput: naming the first file by name, and how many others there are.
    """

    def problem_of(item: Item) -> BadInput | None:
        return _problem(item, root, classes)

    with ThreadPoolExecutor(max_workers=4) as pool:
        problems = [problem for problem in pool.map(problem_of, items) if problem is not None]
    if problems:
        first, others = problems[0], len(problems) - 1
        more = f" ({others} more such file{'s' if others > 1 else ''})" if others else ""
        raise BadInput(first.message + more, file=first.file, remedy=first.remedy)


def _problem(item: Item, root: Path, classes: int) -> BadInput | None:
    image_file, mask_file = (root / item.files[role].path for role in ("image", "mask"))
    try:
        image = decode(image_file.read_bytes())
    except BadInput as error:
        return BadInput(error.message, file=image_file, remedy="replace it, or remove it together with its mask")
    try:
        mask = decode_mask(mask_file.read_bytes(), classes)
    except BadInput as error:
        return BadInput(error.message, file=mask_file, remedy="replace it, or remove it together with its image")
    if image.shape[:2] != mask.shape:
        return BadInput(
            f"the mask is {mask.shape[1]}x{mask.shape[0]}, but its image {image.shape[1]}x{image.shape[0]}",
            file=mask_file,
            remedy="make the mask at the size of its image, upright as the image is shown",
        )
    return None


def _named_files(folder: Path) -> Mapping[str, Path]:
    """Image files by their name without suffix, sorted."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder.name}/", file=folder, remedy=_LAYOUT)
    named: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in _SUFFIXES:
            # Passing over it would train on fewer images than the user believes.
            raise BadInput("is not a JPEG or PNG file", file=path, remedy="convert it, or move it elsewhere")
        if path.stem in named:
            raise BadInput(f"has the same name as {named[path.stem].name}", file=path, remedy="rename or remove one")
        named[path.stem] = path
    return named


def _groups(file: Path) -> Mapping[str, str]:
    if not file.is_file():
        return {}
    with file.open(newline="") as stream:
        rows = csv.DictReader(stream)
        if not {"id", "group"} <= set(rows.fieldnames or ()):
            raise BadInput("lacks the columns id and group", file=file, line=1, remedy="begin it with `id,group`")
        return {row["id"]: row["group"] for row in rows if row["id"] and row["group"]}
