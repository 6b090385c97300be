"""Mean average precision of boxes, as COCO defines it, computed by pycocotools.

``map50`` counts an object as found at an intersection over union of 0.5; ``map50_95`` is the mean over 0.5, 0.55 ..
0.95. Both are means over classes of the precision at 101 recalls. Objects of every size count alike (COCO's area range
"all"), and of each class the 100 highest scores of an image.

What is not there: an image without objects counts by its false positives, one without detections by what it misses,
one without both not at all. A class without an object in any of the images is left out of the mean, and what was
detected of it with it. Images without any object do not define a mean; a resample of such images is left out of the
interval.

The boxes are those of the exported graphs, which leave out what is below the release's own score threshold: what a
client never sees does not count.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARIES = ("pycocotools",)
RESAMPLES = 500
_METRICS = ("map50", "map50_95")
_MOST = 100
"""Detections of an image and class that are looked at: COCO's largest limit."""

_Cell = dict[str, Any]
"""What pycocotools finds of one image and class; its ``evalImgs`` is a list of them."""


@dataclass(frozen=True)
class Sample:
    """One image."""

    cells: Mapping[str, Sequence[_Cell | None]]
    """By metric, then by class id; None where there is neither object nor detection. They differ in the thresholds."""
    objects: int
    found: int
    """Objects with a detection of their class at an intersection over union of 0.5."""
    false_positives: int
    """Detections without an object of their own there."""


def measure(outputs: Mapping[str, NDArray[Any]], truth: NDArray[np.float32], classes: int) -> Sample:
    """Match the detections of one image to its objects.

    Args:
        outputs: of the release; ``boxes`` float32 [K, 4] (x1, y1, x2, y2 in pixels of the image), ``scores`` float32
            [K] and ``labels`` int64 [K] are looked at. A box without an inside finds nothing.
        truth: float32 [N, 5], rows (x1, y1, x2, y2, class id).
        classes: number of classes.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a class is unknown.
    """
    boxes, scores, labels = outputs["boxes"], outputs["scores"], outputs["labels"]
    count = len(scores)
    if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
        shapes = ", ".join(f"{name} {list(outputs[name].shape)}" for name in ("boxes", "scores", "labels"))
        raise ValueError(f"the detections do not go together: {shapes}")
    if truth.ndim != 2 or truth.shape[1] != 5:
        raise ValueError(f"the truth has shape {list(truth.shape)}, not [N, 5]")
    if not np.isfinite(boxes).all() or not np.isfinite(scores).all() or not np.isfinite(truth).all():
        raise ValueError("a box or a score is not a finite number")
    for whose, ids in (("detections", labels), ("truth", truth[:, 4])):
        unknown = ids[(ids < 0) | (ids >= classes)]
        if len(unknown):
            raise ValueError(f"the {whose} hold class {int(unknown[0])}, but there are only {classes} classes")
    objects = _coco(truth[:, :4], truth[:, 4], None, classes)
    detections = _coco(boxes, labels, scores, classes)
    cells = _evaluate(objects, detections, classes)
    matched = sum(int(np.count_nonzero(cell["dtMatches"][0])) for cell in cells if cell is not None)
    return Sample(
        cells={"map50": [_first_threshold(cell) for cell in cells], "map50_95": cells},
        objects=len(truth),
        found=matched,
        false_positives=count - matched,
    )


def shown(truth: NDArray[np.float32]) -> Sequence[int]:
    """The class of each object."""
    return truth[:, 4].astype(np.int64).tolist()


def per_image(sample: Sample) -> dict[str, float]:
    """``objects``, ``found`` of them at an intersection over union of 0.5, and ``false_positives``."""
    return {
        "objects": float(sample.objects),
        "found": float(sample.found),
        "false_positives": float(sample.false_positives),
    }


def summarize(samples: Sequence[Sample]) -> dict[str, float]:
    """Both metrics; none where no image has an object."""
    if not any(sample.objects for sample in samples):
        return {}
    return {metric: value(samples, metric) for metric in _METRICS}


def value(samples: Sequence[Sample], metric: str) -> float:
    """One metric, in [0, 1].

    Raises:
        ValueError: no image has an object.
    """
    if not any(sample.objects for sample in samples):
        raise ValueError("none of its images has an object, so there is nothing that could be found")
    precision = _accumulate([sample.cells[metric] for sample in samples], thresholds=1 if metric == "map50" else None)
    return float(np.mean(precision[precision > -1]))


def _coco(boxes: NDArray[Any], labels: NDArray[Any], scores: NDArray[Any] | None, classes: int) -> Any:
    """Boxes of one image as pycocotools wants them, without its detour over a file."""
    from pycocotools.coco import COCO

    rows: list[dict[str, Any]] = []
    for index, (x1, y1, x2, y2) in enumerate(boxes.astype(np.float64).tolist()):
        width, height = max(x2 - x1, 0.0), max(y2 - y1, 0.0)
        rows.append(
            {
                # From 1: an id of 0 would read as "not matched".
                "id": index + 1,
                "image_id": 1,
                "category_id": int(labels[index]),
                "bbox": [x1, y1, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": 1.0 if scores is None else float(scores[index]),
            }
        )
    coco: Any = COCO()
    coco.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": index} for index in range(classes)],
        "annotations": rows,
    }
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _evaluate(objects: Any, detections: Any, classes: int) -> list[_Cell | None]:
    """What pycocotools matches in one image, by class."""
    from pycocotools.cocoeval import COCOeval

    evaluation: Any = COCOeval(objects, detections, "bbox")
    _set(evaluation.params, images=[1], classes=classes)
    with redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    return list(evaluation.evalImgs)


def _accumulate(images: Sequence[Sequence[_Cell | None]], thresholds: int | None) -> NDArray[np.float64]:
    """Precision [thresholds, recalls, classes, 1, 1] over images that were evaluated before; -1 where not defined."""
    from pycocotools.cocoeval import COCOeval

    classes = len(images[0])
    evaluation: Any = COCOeval(iouType="bbox")
    # Numbered anew: an image may be there twice.
    _set(evaluation.params, images=list(range(len(images))), classes=classes)
    evaluation.params.iouThrs = evaluation.params.iouThrs[:thresholds]
    evaluation.evalImgs = [cells[index] for index in range(classes) for cells in images]
    evaluation._paramsEval = evaluation.params  # what evaluate() would leave for accumulate()
    with redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return evaluation.eval["precision"]


def _set(parameters: Any, images: list[int], classes: int) -> None:
    parameters.imgIds, parameters.catIds = images, list(range(classes))
    parameters.areaRng, parameters.areaRngLbl = [[0.0, float("inf")]], ["all"]
    parameters.maxDets = [_MOST]


def _first_threshold(cell: _Cell | None) -> "_Cell | None":
    if cell is None:
        return None
    return cell | {name: cell[name][:1] for name in ("dtMatches", "dtIgnore", "gtMatches")}
