"""Dice and intersection over union of masks, at the images' own size.

Both are means over the foreground classes (all but id 0) of one image; the gate takes their mean over the images, so
that a small image counts as much as a large one.

Empty masks: a class that is in neither mask of an image says nothing and is left out of that image's mean. Where no
foreground class is in either mask, the image was answered rightly and scores 1. A class in only one of the two
scores 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract.tasks import COVERAGE_SLACK

LIBRARIES: tuple[str, ...] = ()
RESAMPLES = 2000
_METRICS = ("dice", "iou")


def measure(outputs: Mapping[str, NDArray[Any]], truth: NDArray[np.uint8], classes: int) -> dict[str, float]:
    """``dice`` and ``iou`` of one image, each in [0, 1].

    Args:
        outputs: of the release: ``mask`` uint8 [H, W], and ``coverage`` float32 [1] where it is there.
        truth: class ids uint8 [H, W].
        classes: number of classes, with the background.

    Raises:
        ValueError: the masks differ in size, or hold unknown classes; the coverage is not the mask's.
    """
    mask = outputs["mask"]
    if mask.shape != truth.shape:
        raise ValueError(f"the mask has shape {list(mask.shape)}, the truth {list(truth.shape)}")
    if int(mask.max(initial=0)) >= classes:
        raise ValueError(f"the mask holds class {int(mask.max())}, but there are only {classes} classes")
    share = float(np.mean(mask > 0))
    coverage = float(outputs["coverage"][0]) if "coverage" in outputs else share
    if not abs(coverage - share) <= COVERAGE_SLACK:
        raise ValueError(f"the coverage is {coverage:.3f}, but {share:.3f} of the mask is not background")
    # Counted in one pass: table[t, m] is the number of pixels of class t that the mask calls m.
    pairs = truth.astype(np.int64).ravel() * classes + mask.astype(np.int64).ravel()
    table = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    both = np.diagonal(table)[1:].astype(np.float64)
    sizes = (table.sum(axis=0) + table.sum(axis=1))[1:].astype(np.float64)
    present = sizes > 0
    if not present.any():
        return {"dice": 1.0, "iou": 1.0}
    both, sizes = both[present], sizes[present]
    return {"dice": float(np.mean(2 * both / sizes)), "iou": float(np.mean(both / (sizes - both)))}


def shown(truth: NDArray[np.uint8]) -> Sequence[int]:
    """The classes that the mask shows, once each: what counts is images."""
    return np.unique(truth).tolist()


def per_image(sample: Mapping[str, float]) -> dict[str, float]:
    """``dice`` and ``iou`` of the image."""
    return dict(sample)


def summarize(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over images of ``dice`` and ``iou``."""
    return {metric: value(samples, metric) for metric in _METRICS}


def value(samples: Sequence[Mapping[str, float]], metric: str) -> float:
    """Mean over images of one of the two."""
    return float(np.mean([sample[metric] for sample in samples]))
