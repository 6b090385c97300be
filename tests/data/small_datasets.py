"""Specifications and small datasets of each task, written by the tests so that they may damage them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from modelport.contract import ModelSpec, parse_spec
from modelport.data import load_dataset
from modelport.errors import BadInput
from modelport.imaging import encode_png


def spec_of(task: str, classes: Sequence[str], data: str = "", name: str = "tiny") -> ModelSpec:
    """A specification with these classes; `data` are further keys of its data section."""
    metric = {"segment": "dice", "detect": "map50", "classify": "accuracy"}[task]
    return parse_spec(
        f"name: {name}\ntask: {task}\nowner: tests\nlicense: Apache-2.0\n"
        f"classes: [{', '.join(f'{{name: {label}}}' for label in classes)}]\n"
        f"data: {{name: {name}, selection_fraction: 0.2{data}}}\n"
        f"train: {{seed: 3, select: {{metric: {metric}}}}}\n"
        f"gate: {{metric: {metric}, minimum: 0.1}}\n"
    )


def refusal_of(folder: Path, cache: Path, spec: ModelSpec) -> BadInput:
    """Why a dataset is not loaded, with a remedy."""
    with pytest.raises(BadInput) as caught:
        load_dataset(str(folder), spec, store=None, cache=cache)
    assert caught.value.remedy
    return caught.value


def picture(number: int, height: int = 20, width: int = 40) -> bytes:
    """A PNG that no other number has."""
    return encode_png(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_boxes(root: Path, count: int = 12, names: Sequence[str] | None = ("mass", "nodule")) -> Path:
    """A detection dataset of 40x20 images in YOLO's format; each has one box, of the classes in turn."""
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(count):
        (root / "images" / f"p{number // 2:02d}_{number:02d}.png").write_bytes(picture(number))
        (root / "labels" / f"p{number // 2:02d}_{number:02d}.txt").write_text(f"{number % 2} 0.5 0.5 0.25 0.5\n")
    if names is not None:
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def write_classes(root: Path, counts: dict[str, int]) -> Path:
    """A folder of images per class."""
    number = 1000
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            number += 1
            (root / name / f"{index:03d}.png").write_bytes(picture(number))
    return root
