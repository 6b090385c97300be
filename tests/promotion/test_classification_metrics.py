"""Metrics of class probabilities: against scikit-learn on whole arrays, and against values counted by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from modelport.promotion.metrics import classify


def measured(truth: Sequence[int], probabilities: NDArray) -> list[classify.Sample]:
    return [
        classify.measure({"probabilities": row.astype(np.float32)}, np.array(label, np.int64), probabilities.shape[1])
        for label, row in zip(truth, probabilities, strict=True)
    ]


def sure(answers: Sequence[int], confidence: float, classes: int = 2) -> NDArray[np.float64]:
    """Probabilities with the same confidence in each answer."""
    rows = np.full((len(answers), classes), (1 - confidence) / (classes - 1))
    rows[np.arange(len(answers)), answers] = confidence
    return rows


@pytest.mark.parametrize("classes", [2, 5])
def test_against_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(0)
    # Classes of unequal size, so that macro and plain means differ.
    truth = np.minimum(rng.integers(0, classes, 300), rng.integers(0, classes, 300))
    probabilities = rng.dirichlet(np.ones(classes), 300)
    probabilities[np.arange(300), truth] += 0.3
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)
    answers = probabilities.argmax(axis=1)
    found = classify.summarize(measured(truth.tolist(), probabilities))
    ranks = (
        roc_auc_score(truth, probabilities[:, 1])
        if classes == 2
        else roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    )
    wanted = {
        "accuracy": accuracy_score(truth, answers),
        "balanced_accuracy": balanced_accuracy_score(truth, answers),
        "f1": f1_score(truth, answers, average="macro"),
        "auroc": ranks,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert len({round(value, 6) for value in found.values()}) == 5, "the case tells the metrics apart"


def test_counted_by_hand() -> None:
    # Class 0: 3 of 4 right; class 1: 1 of 2.
    truth, answers = [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]
    found = classify.summarize(measured(truth, sure(answers, 0.8)))
    assert found == pytest.approx(
        {
            "accuracy": 4 / 6,
            "balanced_accuracy": (3 / 4 + 1 / 2) / 2,
            "f1": (2 * 3 / (4 + 4) + 2 * 1 / (2 + 2)) / 2,
            # Of 8 pairs: 3 rightly ordered, 1 wrongly, 4 equal.
            "auroc": (3 + 4 / 2) / 8,
            "calibration_error": 0.8 - 4 / 6,
        }
    )


@pytest.mark.parametrize(
    ("right", "confidence", "error"),
    [
        ([1] * 8 + [0] * 2, 0.8, 0.0),  # as sure as it is right
        ([1] * 5 + [0] * 5, 1.0, 0.5),  # much too sure
        ([1] * 10, 0.6, 0.4),  # too modest
    ],
)
def test_calibration_error(right: list[int], confidence: float, error: float) -> None:
    samples = measured(right, sure([1] * len(right), confidence))
    assert classify.value(samples, "calibration_error") == pytest.approx(error, abs=1e-6)


def test_calibration_error_by_the_papers_formula() -> None:
    rng = np.random.default_rng(1)
    truth, probabilities = rng.integers(0, 3, 500), rng.dirichlet(np.ones(3), 500)
    confidence = probabilities.astype(np.float32).astype(np.float64).max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    wanted = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            wanted += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = classify.value(measured(truth.tolist(), probabilities), "calibration_error")
    assert found == pytest.approx(wanted, abs=1e-9)


def test_classes_that_do_not_occur() -> None:
    # Class 2 has no image, class 3 neither image nor answer; class 2 was answered once.
    truth, answers = [0, 0, 1, 1], [0, 2, 1, 1]
    found = classify.summarize(measured(truth, sure(answers, 0.7, classes=4)))
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    # Class 0 against the rest: of 4 pairs 2 rightly ordered, 2 equal; class 1: all rightly ordered.
    assert found["auroc"] == pytest.approx((3 / 4 + 1) / 2)


def test_images_of_one_class_have_no_auroc() -> None:
    samples = measured([1, 1], sure([1, 0], 0.9))
    assert set(classify.summarize(samples)) == {"accuracy", "balanced_accuracy", "f1", "calibration_error"}
    with pytest.raises(ValueError, match="all its images are of one class"):
        classify.value(samples, "auroc")


def test_of_one_image() -> None:
    row = np.array([[0.2, 0.5, 0.3]])
    assert classify.per_image(measured([2], row)[0]) == pytest.approx(
        {"correct": 0.0, "confidence": 0.5, "truth_probability": 0.3}
    )
    assert classify.per_image(measured([1], row)[0])["correct"] == 1.0


@pytest.mark.parametrize(
    ("probabilities", "truth", "message"),
    [
        ([0.5, 0.5], 0, r"shape \[2\], but there are 3 classes"),
        ([[0.5, 0.3, 0.2]], 0, "shape"),
        ([0.5, np.nan, 0.5], 0, "not a finite number"),
        ([2.0, 1.0, 0.5], 0, r"no probabilities: their sum is 3\.5"),
        ([0.5, 0.3, 0.198], 0, r"their sum is 0\.998"),
        ([1.1, -0.1, 0.0], 0, r"least one -0\.1"),
        ([0.5, 0.3, 0.2], 3, "the truth is 3, which is none of the 3 class ids"),
    ],
)
def test_what_does_not_go_together(probabilities: list[float], truth: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classify.measure({"probabilities": np.array(probabilities, np.float32)}, np.array(truth), 3)
    classify.measure({"probabilities": np.array([0.5, 0.3, 0.1995], np.float32)}, np.array(0), 3)
