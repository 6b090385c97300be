"""Draws `sample/`, pictures of roads that nobody photographed: ``python models/dry_wet/sample.py`` draws them anew.

A wet road is darker, and mirrors the sky and what stands at the horizon; a dry one is rough and only grey. Hue and
brightness overlap, so that a network has to look at the road.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COUNTS = {"train": {"dry": 14, "wet": 18}, "validation": {"dry": 7, "wet": 7}}
SIDE = 96


def draw(wet: bool, random: np.random.Generator, height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """A road to the horizon, uint8 [height, width, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    y, x = rows / height, columns / width
    horizon, bend = random.uniform(0.3, 0.5), random.uniform(-0.15, 0.15)
    below = np.clip((y - horizon) / (1 - horizon), 0, 1)
    sky = random.uniform(0.5, 0.9) * np.array([random.uniform(0.75, 1), 0.95, random.uniform(1, 1.15)])
    land = np.array([random.uniform(0.15, 0.5), random.uniform(0.3, 0.5), random.uniform(0.1, 0.3)])
    hills = horizon - 0.12 * (1 + np.sin(random.uniform(6, 20) * x + random.uniform(0, 6))) * random.uniform(0.3, 1)
    picture = np.where((y < hills)[..., None], sky, np.where((y < horizon)[..., None], land * 0.6, land))

    centre = 0.5 + bend * (1 - below) ** 2
    half = 0.04 + 0.5 * below
    road = (y >= horizon) & (np.abs(x - centre) < half)
    tone = random.uniform(0.2, 0.4) if wet else random.uniform(0.32, 0.6)
    surface = np.full((height, width, 3), tone) * (0.9 + 0.2 * below[..., None])
    if wet:
        # What lies as far above the horizon as this place lies below it, blurred along the road.
        mirrored = np.clip((2 * horizon * height - rows).astype(int), 0, height - 1)
        image = picture[mirrored, columns]
        image = (image + np.roll(image, 2, axis=0) + np.roll(image, 4, axis=0)) / 3
        puddles = np.sin(random.uniform(8, 20) * x + random.uniform(0, 6)) * np.sin(random.uniform(6, 25) * y)
        strength = random.uniform(0.35, 0.6) + 0.3 * (puddles > 0.3)
        surface = surface * (1 - strength[..., None]) + image * strength[..., None]
    else:
        surface = surface + random.normal(0, 0.06, (height, width, 1))
    line = road & (np.abs(x - centre) < 0.02 * half / 0.5 + 0.004) & (np.sin(14 / (below + 0.15)) > 0)
    picture = np.where(road[..., None], surface, picture)
    picture = np.where(line[..., None], 0.5 * picture + 0.45, picture)
    picture = picture * random.uniform(0.7, 1.15) + random.normal(0, 0.015, picture.shape)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def main(folder: Path) -> None:
    """Write all files under `folder`."""
    for part, counts in COUNTS.items():
        for name, count in counts.items():
            target = folder / part / name
            target.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                random = np.random.default_rng((part == "train", name == "wet", number))
                Image.fromarray(draw(name == "wet", random)).save(target / f"{number:02}.jpg", quality=85)
    golden = folder / "golden"
    golden.mkdir(exist_ok=True)
    for name, wet, height, width in (
        ("dry.jpg", False, 240, 320),
        ("wet.jpg", True, 240, 320),
        ("tall.png", True, 160, 90),
    ):
        Image.fromarray(draw(wet, np.random.default_rng((2, wet, height)), height, width)).save(golden / name)


if __name__ == "__main__":
    main(Path(__file__).parent / "sample")
