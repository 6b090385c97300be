"""The platform's own metrics of masks, against values counted by hand; and what all tasks' metrics have in common."""

import subprocess
import sys

import numpy as np
import pytest

from modelport.promotion.metrics import segment

ONE = np.array([[0, 1], [1, 1]], np.uint8)


def score(mask: list[list[int]], truth: list[list[int]], classes: int = 2) -> tuple[float, float]:
    found = segment.per_image(segment.measure({"mask": np.array(mask, np.uint8)}, np.array(truth, np.uint8), classes))
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
    found = segment.measure({"mask": mask}, truth, 256)
    dice = [2 * np.sum((mask == c) & (truth == c)) / (np.sum(mask == c) + np.sum(truth == c)) for c in range(1, 256)]
    assert found["dice"] == pytest.approx(float(np.mean(dice)))


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="shape"):
        segment.measure({"mask": ONE}, ONE[:1], 2)
    with pytest.raises(ValueError, match="only 2 classes"):
        segment.measure({"mask": ONE * 2}, ONE, 2)
    for coverage in (0.74, np.nan):
        with pytest.raises(ValueError, match=r"but 0\.750 of the mask is not background"):
            segment.measure({"mask": ONE, "coverage": np.array([coverage], np.float32)}, ONE, 2)


def test_small_images_count_as_much_as_large_ones() -> None:
    rows = [{"dice": 1.0, "iou": 1.0}, {"dice": 0.0, "iou": 0.0}, {"dice": 0.5, "iou": 0.4}]
    assert segment.summarize(rows) == pytest.approx({"dice": 0.5, "iou": 1.4 / 3})


TABLES = """
import sys
from modelport.promotion.isolation import refuse_imports, refused_modules
refuse_imports()
import numpy as np
from modelport.contract import TASKS, Task
from modelport.promotion.metrics import metrics_of

box = np.array([[0, 0, 9, 9]], np.float32)
answers = {
    Task.SEGMENT: [({"mask": np.ones((2, 2), np.uint8)}, np.ones((2, 2), np.uint8))],
    Task.DETECT: [
        ({"boxes": box, "scores": np.ones(1, np.float32), "labels": np.zeros(1, np.int64)}, np.c_[box, [[0]]])
    ],
    Task.CLASSIFY: [
        ({"probabilities": np.eye(2, dtype=np.float32)[index]}, np.array(index)) for index in range(2)
    ],
}
for task, images in answers.items():
    metrics = metrics_of(task)
    found = metrics.summarize([metrics.measure(outputs, truth, 2) for outputs, truth in images])
    wanted = {name: 0.0 if name == "calibration_error" else 1.0 for name in TASKS[task].metrics}
    assert {name: round(value, 9) for name, value in found.items()} == wanted
assert refused_modules() == []
"""


def test_every_metric_of_the_contract_is_computed_where_training_libraries_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", TABLES], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "the gate's findings are the only thing on stdout"
