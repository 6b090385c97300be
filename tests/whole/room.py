"""Room on the disk for the whole stack."""

import shutil

from tools.images import IMAGES
from tools.images.build import images_folder, layout_of

ROOM_GB = 25
"""Disk that the images take while they are built and imported, and what the pods write."""
CACHED_ROOM_GB = 6
"""The same where they are there already."""


def too_little_disk() -> str | None:
    """Why the whole stack cannot be brought up for want of disk; None where there is enough."""
    images = images_folder()
    wanted = CACHED_ROOM_GB if all(layout_of(recipe).is_dir() for recipe in IMAGES.values()) else ROOM_GB
    place = next(folder for folder in (images, *images.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    if free >= wanted:
        return None
    return f"the whole stack takes {wanted} GB of disk, and {place} has {free:.0f}"
