"""Accuracy, balanced accuracy, F1, AUROC and calibration error of class probabilities.

scikit-learn computes all but the last. The answer to an image is its most probable class, the first of equal ones.

Classes that do not occur: ``balanced_accuracy`` is the mean recall over the classes that have an image; ``f1`` the mean
over those that have an image or were answered, so that one which was only invented counts 0. ``auroc`` is the mean,
over the classes that have an image, of the area under the curve of this class against all others (with two classes in
the label map, of the second against the first). It takes images of two classes at least; a resample without them is
left out of the interval.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARIES = ("scikit-learn",)
RESAMPLES = 1000
BINS = 15
"""Of the calibration error; equally wide, as in Guo et al. 2017, "On calibration of modern neural networks"."""
_METRICS = ("accuracy", "balanced_accuracy", "f1", "auroc", "calibration_error")
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Sample:
    """One image."""

    truth: int
    """Class id."""
    probabilities: NDArray[np.float64]
    """[C]"""


def measure(outputs: Mapping[str, NDArray[Any]], truth: NDArray[np.int64], classes: int) -> Sample:
    """Keep what one image was answered.

    Args:
        outputs: of the release; ``probabilities`` float32 [C] is looked at.
        truth: class id, int64 [].
        classes: number of classes, C.

    Raises:
        ValueError: they are no probabilities of C classes, or the truth is none of these.
    """
    probabilities = outputs["probabilities"].astype(np.float64)
    if probabilities.shape != (classes,):
        raise ValueError(f"the probabilities have shape {list(probabilities.shape)}, but there are {classes} classes")
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is not a finite number")
    total = float(probabilities.sum())
    if probabilities.min() < 0 or abs(total - 1) > _SUM_TOLERANCE:
        least = float(probabilities.min())
        raise ValueError(f"these are no probabilities: their sum is {total:.4g} and the least one {least:.4g}")
    if truth.shape != () or not 0 <= int(truth) < classes:
        raise ValueError(f"the truth is {truth.tolist()}, which is none of the {classes} class ids")
    return Sample(int(truth), probabilities)


def shown(truth: NDArray[np.int64]) -> Sequence[int]:
    """The class of the image."""
    return [int(truth)]


def per_image(sample: Sample) -> dict[str, float]:
    """Whether the answer is ``correct``, how probable it is (``confidence``), and how probable the truth is."""
    answer = int(sample.probabilities.argmax())
    return {
        "correct": float(answer == sample.truth),
        "confidence": float(sample.probabilities[answer]),
        "truth_probability": float(sample.probabilities[sample.truth]),
    }


def summarize(samples: Sequence[Sample]) -> dict[str, float]:
    """All metrics; without ``auroc`` where all images are of one class."""
    several = len({sample.truth for sample in samples}) > 1
    return {metric: value(samples, metric) for metric in _METRICS if several or metric != "auroc"}


def value(samples: Sequence[Sample], metric: str) -> float:
    """One metric, in [0, 1].

    Raises:
        ValueError: ``auroc``, where all images are of one class.
    """
    # Importing it takes seconds, which a gate of another task need not wait for.
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    truth = np.array([sample.truth for sample in samples])
    probabilities = np.stack([sample.probabilities for sample in samples])
    answers = probabilities.argmax(axis=1)
    with warnings.catch_warnings():
        # scikit-learn warns of classes that do not occur; what they count is said above.
        warnings.simplefilter("ignore")
        match metric:
            case "accuracy":
                found: Any = accuracy_score(truth, answers)
            case "balanced_accuracy":
                found = balanced_accuracy_score(truth, answers)
            case "f1":
                found = f1_score(truth, answers, average="macro")
            case "auroc":
                found = _auroc(truth, probabilities)
            case "calibration_error":
                found = _calibration_error(truth == answers, probabilities.max(axis=1))
            case _:
                raise KeyError(metric)
    return float(found)


def _auroc(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    from sklearn.metrics import roc_auc_score

    present: list[int] = np.unique(truth).tolist()
    if len(present) < 2:
        raise ValueError("all its images are of one class, and AUROC tells classes apart")
    # Of two classes the one says what the other does; computed once, rounding cannot make the two differ.
    classes = [1] if probabilities.shape[1] == 2 else present
    return float(np.mean([roc_auc_score(truth == index, probabilities[:, index]) for index in classes]))


def _calibration_error(correct: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Expected calibration error: how far confidence and accuracy are apart within a bin, weighted by its images.

    Bin b of n holds confidences in (b/n, (b+1)/n], as the paper has it.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, correct.astype(np.float64) - confidence, BINS)
    return float(np.abs(gaps).sum() / len(correct))
