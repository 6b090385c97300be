"""The platform's own metrics, against values counted by hand."""

import numpy as np
import pytest

from modelport.contract import TASKS, Task
from modelport.promotion.metrics import metrics_of, segment

ONE = np.array([[0, 1], [1, 1]], np.uint8)


def score(mask: list[list[int]], truth: list[list[int]], classes: int = 2) -> tuple[float, float]:
    found = segment.score({"mask": np.array(mask, np.uint8)}, np.array(truth, np.uint8), classes)
    return found["dice"], found["iou"]


@pytest.mark.parametrize(
    ("mask", "truth", "dice", "iou"),
    [
        ([[0, 1], [1, 1]], [[0, 1], [1, 1]], 1, 1),
        ([[1, 0], [0, 0]], [[0, 1], [1, 1]], 0, 0),
        ([[1, 1], [0, 0]], [[0, 1], [0, 1]], 0.5, 1 / 3),
        ([[1, 1], [1, 1]], [[0, 0], [0, 1]], 0.4, 0.25),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]], 1, 1),  # nothing there, nothing found
        ([[0, 0], [0, 0]], [[0, 0], [0, 1]], 0, 0),  # missed
        ([[0, 1], [0, 0]], [[0, 0], [0, 0]], 0, 0),  # invented
    ],
)
def test_binary(mask: list[list[int]], truth: list[list[int]], dice: float, iou: float) -> None:
    assert score(mask, truth) == pytest.approx((dice, iou))


def test_classes_that_are_not_there_are_left_out() -> None:
    # Class 1 half right, class 2 not found, class 3 nowhere: the mean is over the first two.
    assert score([[1, 1, 0]], [[1, 0, 2]], classes=4) == pytest.approx(((2 / 3 + 0) / 2, (1 / 2 + 0) / 2))


def test_large_masks_of_many_classes() -> None:
    rng = np.random.default_rng(0)
    mask, truth = rng.integers(0, 256, (2, 500, 700), dtype=np.uint8)
    found = segment.score({"mask": mask}, truth, 256)
    dice = [2 * np.sum((mask == c) & (truth == c)) / (np.sum(mask == c) + np.sum(truth == c)) for c in range(1, 256)]
    assert found["dice"] == pytest.approx(float(np.mean(dice)))


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="shape"):
        segment.score({"mask": ONE}, ONE[:1], 2)
    with pytest.raises(ValueError, match="only 2 classes"):
        segment.score({"mask": ONE * 2}, ONE, 2)


def test_small_images_count_as_much_as_large_ones() -> None:
    rows = [{"dice": 1.0, "iou": 1.0}, {"dice": 0.0, "iou": 0.0}, {"dice": 0.5, "iou": 0.4}]
    assert segment.summarize(rows) == pytest.approx({"dice": 0.5, "iou": 1.4 / 3})
    assert set(metrics_of(Task.SEGMENT).summarize(rows)) == set(TASKS[Task.SEGMENT].metrics)
