"""Draws `sample/train` and `sample/validation`: nobody's chests. ``python models/cxr_detect/sample.py`` draws anew.

Enough to try the folder with: a mass is a large bright ellipse in a lung, a nodule a small one.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SIDE = 256
MASS, NODULE = 0, 1
NAMES = ("Mass", "Nodule")
PATIENTS = {"train": range(24), "validation": range(100, 108)}


def main(folder: Path) -> None:
    """Write the dataset under `folder`, in YOLO's format."""
    folder.joinpath("classes.txt").write_text("\n".join(NAMES) + "\n")
    for split, patients in PATIENTS.items():
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for patient in patients:
            pixels, rows = draw(np.random.default_rng(patient))
            name = f"synth{patient:03d}_000"
            Image.fromarray(pixels).save(folder / split / "images" / f"{name}.jpg", quality=80)
            lines = [f"{label} " + " ".join(f"{value:.6f}" for value in box) for label, *box in rows]
            (folder / split / "labels" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def draw(random: np.random.Generator) -> tuple[NDArray[np.uint8], list[tuple[float, ...]]]:
    """Grey image [SIDE, SIDE] of something like a chest, and rows (class, centre x, centre y, width, height)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    tilt = random.normal(0, 0.02)
    x, y = x + tilt * (y - 0.5) + random.normal(0, 0.02), y + random.normal(0, 0.02)
    pixels = 0.55 - 0.3 * np.abs(x - 0.5)
    for middle in (0.29, 0.71):
        pixels -= 0.38 * soft(((x - middle) / 0.19) ** 2 + ((y - 0.47) / 0.36) ** 2)
    for rib in range(8):
        arch = y - (0.16 + 0.085 * rib) - 0.35 * (np.abs(x - 0.5) - 0.2) ** 2
        pixels += 0.05 * np.exp(-((arch / 0.012) ** 2)) * (np.abs(x - 0.5) < 0.4)
    pixels += 0.2 * np.exp(-(((x - 0.5) / 0.05) ** 2))
    pixels += 0.3 * soft(((x - 0.56) / 0.13) ** 2 + ((y - 0.66) / 0.15) ** 2)
    rows: list[tuple[float, ...]] = []
    for label in [MASS] * int(random.integers(0, 2)) + [NODULE] * int(random.integers(1, 3)):
        radius = random.uniform(0.07, 0.11) if label == MASS else random.uniform(0.022, 0.032)
        middle = (random.choice([0.28, 0.72]) + random.uniform(-0.08, 0.08), random.uniform(0.28, 0.65))
        spread = [abs(middle[0] - row[1]) + abs(middle[1] - row[2]) for row in rows]
        if min(spread, default=1) < 0.22:
            continue  # objects that lie on each other would be told apart by nobody
        stretch = random.uniform(0.85, 1.15)
        across, along = radius * stretch, radius / stretch
        inside = soft(((x - middle[0]) / across) ** 2 + ((y - middle[1]) / along) ** 2)
        pixels += 0.34 * inside
        rows.append((label, *edges(inside)))
    pixels += random.normal(0, 0.015, pixels.shape)
    image = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    return np.asarray(image), rows


def soft(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 inside of an ellipse (squared distance below 1), 0 outside, a narrow slope between."""
    return 1 / (1 + np.exp(((distance - 1) * 8).clip(max=50)))


def edges(inside: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Box of what is more than half inside, as shares of the image."""
    rows, columns = (np.flatnonzero((inside > 0.5).any(axis=axis)) for axis in (1, 0))
    left, right, top, bottom = (int(value) for value in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
    return (left + right) / 2 / SIDE, (top + bottom) / 2 / SIDE, (right - left) / SIDE, (bottom - top) / SIDE


if __name__ == "__main__":
    main(Path(__file__).parent / "sample")
