"""Whether outputs are what torch gave for the golden samples: in parity, in the gate, and before a server is ready."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract import CANDIDATES, LOGITS, Task
from modelport.release.manifest import FP16, FP32, INT8, ReleaseManifest, Tolerance

Tolerances = Mapping[str, Tolerance]
"""By output."""

_UNSEEN = Tolerance(internal=True, compared=False)

TOLERANCES: dict[Task, dict[str, dict[str, Tolerance]]] = {
    Task.SEGMENT: {
        FP32: {
            # Pixels whose logit is almost the threshold's may fall on either side.
            "mask": Tolerance(differing=0.001),
            "coverage": Tolerance(absolute=0.001),
            LOGITS: Tolerance(absolute=0.001, internal=True),
        },
        # 11 bits of mantissa: a wider band of pixels around the contour.
        FP16: {"mask": Tolerance(differing=0.005), "coverage": Tolerance(absolute=0.005), LOGITS: _UNSEEN},
        # 8 bits: contours move by a pixel or two, and small objects that were almost none may come or go. That the
        # quality holds is for the gate to say; this says that it is the same model.
        INT8: {"mask": Tolerance(differing=0.03), "coverage": Tolerance(absolute=0.03), LOGITS: _UNSEEN},
    },
    Task.CLASSIFY: {
        FP32: {
            "probabilities": Tolerance(absolute=1e-4),
            LOGITS: Tolerance(absolute=0.001, internal=True),
        },
        FP16: {"probabilities": Tolerance(absolute=0.01), LOGITS: _UNSEEN},
        # At a probability of one half, 0.1 is 0.4 in the logit: some percent of the usual range of logits.
        INT8: {"probabilities": Tolerance(absolute=0.1), LOGITS: _UNSEEN},
    },
    Task.DETECT: {
        FP32: {
            # Boxes grow with the image, and so do their differences; 0.1 pixels are enough for the smallest.
            "boxes": Tolerance(overlap=0.99, absolute=0.1, differing=0.0),
            "scores": Tolerance(absolute=0.001),
            "labels": Tolerance(differing=0.0),
            # Pixels of the network's input, and scores: distances are sums of 16 products, times a stride of 32.
            CANDIDATES: Tolerance(absolute=0.05, internal=True),
        },
        FP16: {
            "boxes": Tolerance(overlap=0.9, differing=0.05),
            "scores": Tolerance(absolute=0.02),
            "labels": Tolerance(differing=0.0),
            CANDIDATES: _UNSEEN,
        },
        # Which of two overlapping boxes stays may turn with their scores: a share may be without its counterpart.
        INT8: {
            "boxes": Tolerance(overlap=0.6, differing=0.2),
            "scores": Tolerance(absolute=0.15),
            "labels": Tolerance(differing=0.0),
            CANDIDATES: _UNSEEN,
        },
    },
}
"""By task and precision; a release's manifest carries those that it was made under (see `tolerances_for`)."""


def tolerances_for(
    task: Task, thresholds: Mapping[str, float], precisions: Collection[str]
) -> dict[str, dict[str, Tolerance]]:
    """Tolerances of a release with these decision thresholds, by precision.

    Only detections that are clearly above the release's score threshold must have a counterpart: by more than what
    scores may differ.
    """
    chosen: dict[str, dict[str, Tolerance]] = {}
    for precision in precisions:
        chosen[precision] = dict(TOLERANCES[task][precision])
        if task is Task.DETECT and "score" in thresholds:
            margin = chosen[precision]["scores"].absolute or 0.0
            clear = round(thresholds["score"] + margin, 6)
            chosen[precision]["boxes"] = chosen[precision]["boxes"].model_copy(update={"above": clear})
    return chosen


def loosened(manifest: ReleaseManifest) -> list[str]:
    """Where a release's tolerances let more pass than the platform's, by precision and output; none if they do nowhere.

    What a release says nothing of is no looser: a precision without tolerances is held against the platform's, an
    output without one must be equal.
    """
    platform = tolerances_for(manifest.task, manifest.thresholds, TOLERANCES[manifest.task])
    return [
        f"tolerances.{precision}.{name} is {_said(given)}, looser than the platform's {_said(limit)}"
        for precision, limits in platform.items()
        for name, limit in limits.items()
        if (given := manifest.tolerances.get(precision, {}).get(name)) is not None and _is_looser(given, limit)
    ]


def _is_looser(given: Tolerance, limit: Tolerance) -> bool:
    """Whether `given` may let pass what `limit` does not."""
    if not limit.compared:
        return False
    if not given.compared or (given.internal and not limit.internal):
        return True
    # Written so that NaN, which no comparison is true of, is looser. An absolute limit of None is none at all, of the
    # others 0, or that boxes must be equal one by one.
    absolute = given.absolute is None or (limit.absolute is not None and given.absolute <= limit.absolute)
    differing = (given.differing or 0.0) <= (limit.differing or 0.0)
    above = (given.above or 0.0) <= (limit.above or 0.0)
    overlap = given.overlap is None or given.overlap >= (limit.overlap or 0.0)
    return not (absolute and differing and above and overlap)


def _said(tolerance: Tolerance) -> str:
    return (
        ", ".join(f"{name} {value}" for name, value in tolerance.model_dump(exclude_defaults=True).items()) or "equal"
    )


def compare(
    outputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], tolerances: Tolerances
) -> list[str]:
    """Problems between outputs and torch's, none when they agree.

    Detections are compared as sets: each one that is clearly above the threshold, on either side, must have a
    counterpart of its own on the other, of the same label, that overlaps enough and has about the same score.

    Args:
        outputs: named tensors; those that are not expected are not looked at.
        expected: named tensors of a golden sample.
        tolerances: of one precision, such as ``manifest.tolerances["fp32"]``. An output without one must be equal.
    """
    problems: list[str] = []
    boxes = tolerances.get("boxes")
    together = boxes is not None and boxes.overlap is not None and expected.keys() >= _DETECTIONS
    for name, wanted in expected.items():
        tolerance = tolerances.get(name, Tolerance(differing=0.0))
        as_set = together and name in _DETECTIONS
        found = outputs.get(name)
        if not tolerance.compared:
            continue
        if found is None:
            if not tolerance.internal:
                problems.append(f"{name} is missing")
        elif found.ndim != wanted.ndim or found.shape[int(as_set) :] != wanted.shape[int(as_set) :]:
            problems.append(f"{name} has shape {list(found.shape)}, not {list(wanted.shape)}")
        elif found.dtype != wanted.dtype:
            problems.append(f"{name} is {found.dtype}, not {wanted.dtype}")
        elif wanted.size and not as_set:
            problems += _beyond(name, found, wanted, tolerance)
    if together and not problems:
        problems += _unmatched(outputs, expected, tolerances)
    return problems


_DETECTIONS = frozenset({"boxes", "scores", "labels"})


def _beyond(name: str, found: NDArray[Any], wanted: NDArray[Any], tolerance: Tolerance) -> list[str]:
    if tolerance.absolute is not None:
        largest = float(np.max(np.abs(found.astype(np.float64) - wanted.astype(np.float64))))
        # Written so that NaN, which no comparison is true of, is beyond.
        if not largest <= tolerance.absolute:
            return [f"{name} differs by {largest:.2g}; at most {tolerance.absolute:g} is allowed"]
        return []
    share = float(np.mean(found != wanted))
    limit = tolerance.differing or 0.0
    if not share <= limit:
        return [f"{share:.3%} of {name} differ; at most {limit:.3%} is allowed"]
    return []


def _unmatched(
    outputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], tolerances: Tolerances
) -> list[str]:
    counts = {len(outputs[name]) for name in _DETECTIONS}
    if len(counts) > 1:
        return [f"boxes, scores and labels are of {', '.join(map(str, sorted(counts)))} detections"]
    if not all(np.isfinite(outputs[name]).all() for name in ("boxes", "scores")):
        return ["boxes or scores are not finite"]
    boxes = tolerances["boxes"]
    above, allowed = boxes.above or 0.0, boxes.differing or 0.0
    fits = _fitting(outputs, expected, boxes, tolerances.get("scores", Tolerance()).absolute or 0.0)
    paired_outputs, paired_expected = _pair(fits)
    problems: list[str] = []
    for side, scores, paired in (
        ("torch's", expected["scores"], paired_expected),
        ("the", outputs["scores"], paired_outputs),
    ):
        clear = scores >= above
        alone = int(np.sum(clear & ~paired))
        if alone and alone > allowed * int(np.sum(clear)):
            problems.append(
                f"{alone} of {side} {int(np.sum(clear))} clear detections have no counterpart; at most {allowed:.0%} "
                "may have none"
            )
    return problems


def _fitting(
    outputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], limits: Tolerance, apart: float
) -> NDArray[np.float64]:
    """Intersection over union, [found, wanted]; 0 where two detections cannot be counterparts."""
    found, wanted = outputs["boxes"].astype(np.float64)[:, None], expected["boxes"].astype(np.float64)[None]
    sides = np.minimum(found[..., 2:], wanted[..., 2:]) - np.maximum(found[..., :2], wanted[..., :2])
    shared = np.prod(np.clip(sides, 0, None), axis=-1)
    total = np.prod(found[..., 2:] - found[..., :2], axis=-1) + np.prod(wanted[..., 2:] - wanted[..., :2], axis=-1)
    ious = shared / np.maximum(total - shared, 1e-9)
    if limits.absolute is not None:
        ious = np.where(np.max(np.abs(found - wanted), axis=-1, initial=0.0) <= limits.absolute, 1.0, ious)
    scores = np.abs(outputs["scores"].astype(np.float64)[:, None] - expected["scores"].astype(np.float64)[None])
    same = outputs["labels"][:, None] == expected["labels"][None]
    return np.where(same & (scores <= apart) & (ious >= (limits.overlap or 0.0)), ious, 0.0)


def _pair(ious: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the two sides have a counterpart of their own, the closest pairs first."""
    rows, columns = np.zeros(ious.shape[0], np.bool_), np.zeros(ious.shape[1], np.bool_)
    for place in np.argsort(-ious, axis=None, kind="stable"):
        row, column = divmod(int(place), ious.shape[1])
        if ious[row, column] <= 0:
            break
        if not rows[row] and not columns[column]:
            rows[row] = columns[column] = True
    return rows, columns
