"""Average precision of boxes: against values counted by hand, and against pycocotools asked in its own way."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
import pytest
from numpy.typing import NDArray

from modelport.promotion.metrics import detect

SMALL, MIDDLE, LARGE = (10, 10, 18, 16), (100, 20, 160, 90), (200, 100, 520, 470)
"""One box of each of COCO's area ranges."""
PERFECT = pytest.approx((1.0, 1.0))


def image(
    truth: Sequence[tuple[Sequence[float], int]],
    found: Sequence[tuple[Sequence[float], int, float]],
    classes: int = 3,
) -> detect.Sample:
    """A sample of objects (box, class) and detections (box, class, score)."""
    return detect.measure(
        {
            "boxes": np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
            "scores": np.array([score for _, _, score in found], np.float32),
            "labels": np.array([label for _, label, _ in found], np.int64),
        },
        np.array([(*box, label) for box, label in truth], np.float32).reshape(-1, 5),
        classes,
    )


def both(*samples: detect.Sample) -> tuple[float, float]:
    found = detect.summarize(samples)
    assert found == {metric: detect.value(samples, metric) for metric in found}
    return found["map50"], found["map50_95"]


def test_perfect_at_every_size() -> None:
    objects = [(SMALL, 0), (MIDDLE, 1), (LARGE, 2)]
    assert both(image(objects, [(box, label, 0.9) for box, label in objects])) == PERFECT


def test_every_size_counts() -> None:
    # Each box is missed in turn, of classes of their own: one third is gone, whatever its area.
    objects = [(SMALL, 0), (MIDDLE, 1), (LARGE, 2)]
    for missed in range(3):
        found = [(box, label, 0.9) for box, label in objects if label != missed]
        assert both(image(objects, found)) == pytest.approx((2 / 3, 2 / 3))


def test_shuffled_labels_find_nothing() -> None:
    objects = [(SMALL, 0), (MIDDLE, 1), (LARGE, 2)]
    assert both(image(objects, [(box, (label + 1) % 3, 0.9) for box, label in objects])) == (0.0, 0.0)


def test_half_found() -> None:
    # Precision 1 at recalls 0, 0.01 .. 0.5, and 0 beyond: 51 of 101.
    assert both(image([(SMALL, 0), (LARGE, 0)], [(LARGE, 0, 0.9)])) == pytest.approx((51 / 101, 51 / 101))


def test_second_detection_of_an_object_is_a_false_positive() -> None:
    sample = image([(SMALL, 0), (LARGE, 0)], [(LARGE, 0, 0.9), (LARGE, 0, 0.8), (SMALL, 0, 0.7)])
    # Precision 1 up to recall 0.5, then 2 of 3.
    assert both(sample)[0] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert detect.per_image(sample) == {"objects": 2, "found": 2, "false_positives": 1}


def test_overlap_decides_from_which_threshold_it_is_found() -> None:
    # Intersection over union 0.72: found at 0.5, 0.55 .. 0.7, five of ten.
    assert both(image([((0, 0, 100, 100), 0)], [((0, 0, 72, 100), 0, 0.9)])) == pytest.approx((1.0, 0.5))


def test_images_without_objects_count_by_false_positives() -> None:
    good = image([(LARGE, 0)], [(LARGE, 0, 0.5)])
    assert both(good, image([], [])) == PERFECT
    assert both(good, image([], [(SMALL, 0, 0.9)])) == pytest.approx((0.5, 0.5))
    assert both(good, image([], [(SMALL, 0, 0.1)])) == PERFECT, "below every true detection it costs nothing"
    assert both(good, image([(LARGE, 0)], [])) == pytest.approx((51 / 101, 51 / 101)), "no detection, one object"


def test_classes_without_objects_are_left_out() -> None:
    assert both(image([(LARGE, 0)], [(LARGE, 0, 0.5), (SMALL, 1, 0.9)])) == PERFECT


def test_no_object_at_all() -> None:
    samples = [image([], []), image([], [(SMALL, 0, 0.9)])]
    assert detect.summarize(samples) == {}
    with pytest.raises(ValueError, match="none of its images has an object"):
        detect.value(samples, "map50")


def test_boxes_without_an_inside_find_nothing() -> None:
    sample = image([(LARGE, 0)], [((520, 470, 200, 100), 0, 0.9), ((5, 5, 5, 5), 0, 0.8)])
    assert both(sample) == (0.0, 0.0)
    assert detect.per_image(sample) == {"objects": 1, "found": 0, "false_positives": 2}


def test_resampling_is_evaluating_the_resampled_images_anew() -> None:
    rng = np.random.default_rng(0)
    cases = [random_case(rng, detections) for detections in (3, 12, 0, 8, 450, 5)]
    samples = [detect.measure(outputs, truth, 3) for outputs, truth in cases]
    for drawn in ([0, 1, 2, 3, 4, 5], [1, 1, 4, 3, 1, 0], [5, 5, 5, 5, 5, 5]):
        wanted = pycocotools_own_way([cases[index] for index in drawn])
        assert both(*(samples[index] for index in drawn)) == pytest.approx(wanted, abs=1e-12)
        assert 0.01 < wanted[1] < wanted[0] < 0.99, "the case says something"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.ones(1, np.float32)}, r"do not go together: boxes \[2, 4\], scores \[1\], labels \[2\]"),
        ({"boxes": np.ones((2, 5), np.float32)}, "do not go together"),
        ({"boxes": np.full((2, 4), np.nan, np.float32)}, "not a finite number"),
        ({"scores": np.array([0.5, np.inf], np.float32)}, "not a finite number"),
        ({"labels": np.array([0, 3])}, "the detections hold class 3, but there are only 3 classes"),
        ({"labels": np.array([-1, 0])}, "the detections hold class -1"),
    ],
)
def test_what_does_not_go_together(change: dict[str, NDArray], message: str) -> None:
    outputs = {
        "boxes": np.array([SMALL, LARGE], np.float32),
        "scores": np.array([0.9, 0.8], np.float32),
        "labels": np.array([0, 1]),
    }
    truth = np.array([(*SMALL, 0)], np.float32)
    detect.measure(outputs, truth, 3)
    with pytest.raises(ValueError, match=message):
        detect.measure(outputs | change, truth, 3)
    with pytest.raises(ValueError, match="the truth hold class 7"):
        detect.measure(outputs, np.array([(*SMALL, 7)], np.float32), 3)


Case = tuple[dict[str, NDArray], NDArray[np.float32]]


def random_case(rng: np.random.Generator, detections: int) -> Case:
    """Objects of three classes, moved a little by the detections, among false ones."""
    corners = rng.uniform(0, 300, (6, 2))
    truth = np.hstack([corners, corners + rng.uniform(10, 200, (6, 2)), rng.integers(0, 3, (6, 1))]).astype(np.float32)
    copies = truth[rng.integers(0, 6, detections)]
    labels = np.where(rng.random(detections) < 0.9, copies[:, 4], rng.integers(0, 3, detections)).astype(np.int64)
    boxes = (copies[:, :4] + rng.normal(0, 6, (detections, 4))).astype(np.float32)
    scores = np.sort(rng.random(detections).astype(np.float32))[::-1].copy()
    return {"boxes": boxes, "scores": scores, "labels": labels}, truth


def pycocotools_own_way(cases: Sequence[Case]) -> tuple[float, float]:
    """All images in one data set, results by `loadRes`, numbers by `summarize`, parameters as they come."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def box(row: NDArray) -> list[float]:
        x1, y1, x2, y2 = map(float, row[:4])
        return [x1, y1, x2 - x1, y2 - y1]

    objects = [
        {"image_id": number, "category_id": int(row[4]), "bbox": box(row), "area": box(row)[2] * box(row)[3]}
        for number, (_, truth) in enumerate(cases)
        for row in truth
    ]
    results = [
        {"image_id": number, "category_id": int(label), "bbox": box(row), "score": float(score)}
        for number, (outputs, _) in enumerate(cases)
        for row, score, label in zip(outputs["boxes"], outputs["scores"], outputs["labels"], strict=True)
    ]
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(len(cases))],
            "categories": [{"id": index} for index in range(3)],
            "annotations": [{"id": index + 1, "iscrowd": 0, **row} for index, row in enumerate(objects)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])
