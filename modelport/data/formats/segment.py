"""Segmentation datasets on disk: ``images/NAME.jpg`` beside ``masks/NAME.jpg`` (or .png), one mask an image."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from modelport.data.files import describe
from modelport.data.formats.images import decoded, named_images
from modelport.data.manifest import FileEntry, Item
from modelport.errors import BadInput
from modelport.imaging import Mask, decode, decode_mask

_LAYOUT = "a segmentation dataset has images/NAME.jpg and masks/NAME.jpg (or .png) for every NAME"


class Segmentation:
    """Images and masks."""

    def scan(self, folder: Path, root: Path, classes: Sequence[str]) -> tuple[list[Item], tuple[str, ...]]:
        """Examples under `folder`, by name; see `Format.scan`."""
        images = named_images(folder / "images", _LAYOUT)
        if not images:
            raise BadInput("holds no image: the dataset is empty", file=folder / "images", remedy=_LAYOUT)
        masks = named_images(folder / "masks", _LAYOUT)
        for name, path in images.items():
            if name not in masks:
                raise BadInput("has no mask", file=path, remedy=f"add masks/{name}.png, or remove the image")
        for name, path in masks.items():
            if name not in images:
                raise BadInput(
                    "is a mask without an image", file=path, remedy=f"add images/{name}.jpg, or remove the mask"
                )

        def item(name: str) -> Item:
            return Item(
                id=name, group=name, files={"image": describe(images[name], root), "mask": describe(masks[name], root)}
            )

        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(item, images)), ()

    def agree(self, items: Sequence[Item], read: Callable[[FileEntry], bytes], classes: Sequence[str]) -> None:
        """Masks hold ids and no names: there is nothing to compare."""

    def check_named(self, items: Sequence[Item], classes: Sequence[str]) -> None:
        """Masks hold model.yaml's ids by definition."""

    def problem(self, item: Item, root: Path, classes: Sequence[str]) -> BadInput | None:
        """An image or mask that cannot be decoded, or that are not of one size."""
        image_file, mask_file = (root / item.files[role].path for role in ("image", "mask"))
        try:
            image = decode(image_file.read_bytes())
        except BadInput as error:
            return BadInput(error.message, file=image_file, remedy="replace it, or remove it together with its mask")
        try:
            mask = decode_mask(mask_file.read_bytes(), len(classes))
        except BadInput as error:
            return BadInput(error.message, file=mask_file, remedy="replace it, or remove it together with its image")
        if image.shape[:2] != mask.shape:
            return BadInput(
                f"the mask is {mask.shape[1]}x{mask.shape[0]}, but its image {image.shape[1]}x{image.shape[0]}",
                file=mask_file,
                remedy="make the mask at the size of its image, upright as the image is shown",
            )
        return None

    def truth(self, item: Item, read: Callable[[FileEntry], bytes], classes: Sequence[str]) -> Mask:
        """The mask: uint8 [H, W] of class ids, of the image's size."""
        entry = item.files["mask"]
        # A copy that may be written to, as torch.from_numpy wants it.
        return np.array(decoded(entry, lambda content: decode_mask(content, len(classes)), read(entry)))
