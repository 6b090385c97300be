"""A generated dataset, so that a new model can be trained, gated and served before there are images of its own.

The classes look different enough to be learned in seconds, and the same call gives the same bytes. Nothing here
resembles what the model will be for.
"""

import colorsys
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelport.contract import Task
from modelport.imaging import Mask, Pixels

TRAIN, VALIDATION = 24, 8
"""Images of a segmentation or detection, or of each class, where the classes are few."""
_GOLDEN_SIZES = ((120, 160), (90, 90), (150, 110))
"""Height and width: images that are asked about come in any size."""
_BASIC = ("#ff3b30", "#00c7be", "#ffcc00", "#5856d6", "#34c759", "#ff9500", "#007aff", "#ff2d55")
_GREY = 70, 130
"""Darkest and brightest background."""


def colors(count: int) -> list[str]:
    """Display colours #rrggbb for classes, told apart easily as long as they are few."""
    hues = ((0.11 + index * 0.618034) % 1 for index in range(count))
    further = ("#" + bytes(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.95)).hex() for hue in hues)
    return [*_BASIC, *further][:count]


def files(task: Task, classes: Sequence[str]) -> dict[str, bytes]:
    """The sample by path below ``sample/``: train, validation and golden."""
    draw = np.random.default_rng(0)
    made = {Task.CLASSIFY: _classify, Task.SEGMENT: _segment, Task.DETECT: _detect}[task]
    return made(classes, draw)


# Classification: stripes, whose colour, direction and width are the class's.


def _classify(classes: Sequence[str], draw: np.random.Generator) -> dict[str, bytes]:
    count = len(classes)
    # Many classes get few and small images, so that the sample stays small.
    per_class = {"train": min(TRAIN, max(3, 96 // count)), "validation": min(VALIDATION, max(1, 32 // count))}
    height, width = (48, 64) if count <= 24 else (24, 32)
    made: dict[str, bytes] = {}
    for split, images in per_class.items():
        for class_id, name in enumerate(classes):
            for number in range(images):
                tones = _stripes(class_id, height, width, draw)
                made[f"{split}/{name}/{number:02d}.png"] = _four_tones(tones, _tone(class_id, draw))
    for number, (height, width) in enumerate(_GOLDEN_SIZES):
        class_id = number % count
        pixels = _tone(class_id, draw)[_stripes(class_id, height, width, draw)]
        made[f"golden/{number}.jpg"] = _jpeg(pixels)
    return made


def _stripes(class_id: int, height: int, width: int, draw: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 [H, W] of 0 to 3: light and dark stripes, with some of the pixels disturbed."""
    angle = math.pi * (class_id % 4) / 4 + draw.uniform(-0.15, 0.15)
    period = min(height, width) * (0.2, 0.4, 0.1)[class_id // 4 % 3] * draw.uniform(0.9, 1.1)
    y, x = np.mgrid[:height, :width]
    wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period + draw.uniform(0, 6))
    noise = draw.normal(0, 0.35, (height, width))
    return np.digitize(wave + noise, (-0.5, 0, 0.5)).astype(np.uint8)


def _tone(class_id: int, draw: np.random.Generator) -> Pixels:
    """uint8 [4, 3]: four shades of the class's colour, from dark to light."""
    hue, saturation, _ = _hsv(colors(class_id + 1)[class_id])
    light = draw.uniform(0.8, 1.0)
    shades = [colorsys.hsv_to_rgb(hue, saturation * 0.8, light * value) for value in (0.45, 0.6, 0.8, 0.95)]
    return np.rint(np.array(shades) * 255).astype(np.uint8)


# Segmentation: blobs of the class's colour on grey; a mask's pixels are the ids, its palette shows the colours.


def _segment(classes: Sequence[str], draw: np.random.Generator) -> dict[str, bytes]:
    shown = ["#000000", *colors(len(classes) - 1)]
    palette = np.array([_rgb(color) for color in shown], np.uint8)
    made: dict[str, bytes] = {}
    turn = 0
    for split, images in (("train", TRAIN), ("validation", VALIDATION)):
        for number in range(images):
            ids = [1 + (turn + step) % (len(classes) - 1) for step in range(1 + number % 2)]
            turn += len(ids)
            pixels, mask = _blobs(ids, palette, 96, 128, draw)
            made[f"{split}/images/{number:02d}.jpg"] = _jpeg(pixels)
            made[f"{split}/masks/{number:02d}.png"] = _mask(mask, palette)
    for number, (height, width) in enumerate(_GOLDEN_SIZES):
        pixels, _ = _blobs([1 + number % (len(classes) - 1)], palette, height, width, draw)
        made[f"golden/{number}.jpg"] = _jpeg(pixels)
    return made


def _blobs(
    ids: Sequence[int], palette: Pixels, height: int, width: int, draw: np.random.Generator
) -> tuple[Pixels, Mask]:
    pixels, mask = _background(height, width, draw), np.zeros((height, width), np.uint8)
    for class_id in ids:
        radius = min(height, width) * draw.uniform(0.18, 0.3)
        y, x = np.mgrid[:height, :width] - _centre(height, width, radius, draw)[:, None, None]
        turn, lobes = draw.uniform(0, 6), int(draw.integers(2, 5))
        rim = radius * (1 + 0.2 * np.sin(lobes * np.arctan2(y, x) + turn))
        inside = np.hypot(y, x) < rim
        pixels[inside] = _shaded(palette[class_id], int(inside.sum()), draw)
        mask[inside] = class_id
    return pixels, mask


# Detection: boxes, discs and triangles of the class's colour on grey, with YOLO's labels.


@dataclass(frozen=True)
class _Shape:
    """One object: its class and its box in pixels."""

    class_id: int
    top: int
    left: int
    height: int
    width: int

    def label(self, image_height: int, image_width: int) -> str:
        """Line of a YOLO file: class, centre x, centre y, width, height, as shares of the image's sides."""
        box = (
            (self.left + self.width / 2) / image_width,
            (self.top + self.height / 2) / image_height,
            self.width / image_width,
            self.height / image_height,
        )
        return " ".join([str(self.class_id), *(f"{part:.6f}" for part in box)])


def _detect(classes: Sequence[str], draw: np.random.Generator) -> dict[str, bytes]:
    made: dict[str, bytes] = {"classes.txt": "".join(f"{name}\n" for name in classes).encode()}
    turn = 0
    for split, images in (("train", TRAIN), ("validation", VALIDATION)):
        for number in range(images):
            ids = [(turn + step) % len(classes) for step in range(1 + number % 2)]
            turn += len(ids)
            pixels, shapes = _shapes(ids, 120, 160, draw)
            made[f"{split}/images/{number:02d}.jpg"] = _jpeg(pixels)
            made[f"{split}/labels/{number:02d}.txt"] = "".join(f"{s.label(120, 160)}\n" for s in shapes).encode()
    for number, (height, width) in enumerate(_GOLDEN_SIZES):
        pixels, _ = _shapes([number % len(classes)], height, width, draw)
        made[f"golden/{number}.jpg"] = _jpeg(pixels)
    return made


def _shapes(ids: Sequence[int], height: int, width: int, draw: np.random.Generator) -> tuple[Pixels, list[_Shape]]:
    """An image, and its objects side by side, so that none hides another."""
    pixels = _background(height, width, draw)
    shapes: list[_Shape] = []
    column = width // len(ids)
    for place, class_id in enumerate(ids):
        high, wide = (int(min(height, column) * draw.uniform(0.45, 0.75)) for _ in range(2))
        top, left = int(draw.integers(0, height - high)), place * column + int(draw.integers(0, column - wide))
        shape = _Shape(class_id, top, left, high, wide)
        y, x = np.mgrid[:high, :wide]
        y, x = (y + 0.5) / high * 2 - 1, (x + 0.5) / wide * 2 - 1  # -1..1 across the box
        inside = (np.ones((high, wide), bool), np.hypot(y, x) <= 1, np.abs(x) <= (y + 1) / 2)[class_id % 3]
        color = np.array(_rgb(colors(class_id + 1)[class_id]), np.uint8)
        pixels[top : top + high, left : left + wide][inside] = _shaded(color, int(inside.sum()), draw)
        shapes.append(shape)
    return pixels, shapes


# Common parts.


def _background(height: int, width: int, draw: np.random.Generator) -> Pixels:
    """Grey that grows brighter in one direction, with noise."""
    low, high = sorted(draw.uniform(*_GREY, 2))
    ramp = np.linspace(low, high, width)[None, :] + np.linspace(0, 20, height)[:, None]
    noisy = ramp[:, :, None] + draw.normal(0, 3, (height, width, 1))
    return np.repeat(noisy.clip(0, 255).astype(np.uint8), 3, axis=2)


def _centre(height: int, width: int, radius: float, draw: np.random.Generator) -> NDArray[np.float64]:
    return np.array([draw.uniform(radius, height - radius), draw.uniform(radius, width - radius)])


def _shaded(color: NDArray[np.uint8], count: int, draw: np.random.Generator) -> Pixels:
    """uint8 [count, 3]: a colour in its own light, with noise."""
    lit = color * draw.uniform(0.75, 1.0) + draw.normal(0, 5, (count, 1))
    return lit.clip(0, 255).astype(np.uint8)


def _rgb(color: str) -> tuple[int, int, int]:
    return (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16))


def _hsv(color: str) -> tuple[float, float, float]:
    red, green, blue = _rgb(color)
    return colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)


def _jpeg(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=85, optimize=True)
    return stream.getvalue()


def _mask(mask: Mask, palette: Pixels) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette(palette.tobytes())
    return _png(image)


def _four_tones(tones: NDArray[np.uint8], palette: Pixels) -> bytes:
    """PNG with a palette of four: a few hundred bytes."""
    image = Image.fromarray(tones)
    image.putpalette(palette.tobytes())
    return _png(image, bits=2)


def _png(image: Image.Image, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True, **options)
    return stream.getvalue()


def golden_of(sample: Mapping[str, bytes]) -> str:
    """Path of a golden image, for somebody who wants to ask about one."""
    return next(path for path in sorted(sample) if path.startswith("golden/"))
