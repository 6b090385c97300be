"""Losses against values worked out by hand, calibration, and the metrics of an epoch."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from modelport.errors import BadInput
from modelport.learning.classify import (
    Postprocess,
    calibration_error,
    class_weights,
    fit_temperature,
    focal_loss,
    measure,
)


def of(probability: float) -> list[float]:
    """Logits of two classes that give the first one this probability."""
    return [math.log(probability / (1 - probability)), 0.0]


def test_weights_let_each_class_count_as_much() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    weights = class_weights(labels, ["dry", "wet"])
    assert weights.tolist() == pytest.approx([4 / 6, 2.0])
    assert (weights[0] * 3).item() == pytest.approx((weights[1] * 1).item())
    logits = torch.tensor([of(0.9), of(0.9), of(0.9), of(0.9)])
    dry, wet = -math.log(0.9), -math.log(0.1)
    assert cross_entropy(logits, labels, weights).item() == pytest.approx((dry + wet) / 2, rel=1e-5)


def test_class_without_an_image_is_named() -> None:
    with pytest.raises(BadInput, match="'snow'"):
        class_weights(torch.tensor([0, 1, 1]), ["dry", "wet", "snow"])


def test_focal_loss() -> None:
    """(1 - p)^2 times cross entropy: of p = 0.9 a hundredth, of p = 0.5 a quarter."""
    logits, labels = torch.tensor([of(0.9), of(0.5)]), torch.tensor([0, 0])
    expected = (0.01 * -math.log(0.9) + 0.25 * -math.log(0.5)) / 2
    assert focal_loss(logits, labels).item() == pytest.approx(expected, rel=1e-4)


def overconfident(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `scale` times too large for how often they are right."""
    random = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, 3, generator=random) * 2
    truth = torch.multinomial(honest.softmax(1), 1, generator=random)[:, 0]
    return honest * scale, truth


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_temperature_undoes_wrong_confidence(scale: float) -> None:
    logits, truth = overconfident(scale)
    temperature = fit_temperature(logits, truth)
    assert temperature == pytest.approx(scale, rel=0.05)
    scaled = logits / temperature
    assert cross_entropy(scaled, truth) <= cross_entropy(logits, truth)
    assert torch.equal(scaled.argmax(1), logits.argmax(1))
    assert calibration_error(scaled.softmax(1), truth) < 0.03


def test_temperature_of_a_few_images_without_a_mistake_stays_moderate() -> None:
    logits, truth = torch.tensor([of(0.8), of(0.7), of(0.9)]), torch.zeros(3, dtype=torch.int64)
    temperature = fit_temperature(logits, truth)
    assert 0.2 < temperature < 1
    assert cross_entropy(logits / temperature, truth) < cross_entropy(logits, truth)


def test_temperature_is_fitted_where_gradients_are_off() -> None:
    logits, truth = overconfident(2.0)
    with torch.no_grad():
        assert fit_temperature(logits, truth) == pytest.approx(2, rel=0.05)


def test_postprocess_gives_calibrated_probabilities() -> None:
    image = torch.zeros(5, 7, 3, dtype=torch.uint8)
    answer = Postprocess(2.0)(torch.tensor([[2 * math.log(3.0), 0.0]]), image)
    assert answer.tolist() == pytest.approx([0.75, 0.25])


def test_metrics() -> None:
    """Three dry, one of them answered wrongly, and a wet one answered rightly."""
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    found = measure(probabilities, torch.tensor([0, 0, 0, 1]))
    assert found["accuracy"] == pytest.approx(0.75)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["auroc"] == pytest.approx(1)
    assert found["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.4) + math.log(0.7)) / 4)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.6 + 0.3) / 4)


def test_metrics_of_a_training_that_diverged() -> None:
    """It can be reported, and so the training can end: NaN is never the best."""
    found = measure(torch.tensor([[0.9, 0.1], [math.nan, math.nan]]), torch.tensor([0, 1]))
    assert set(found) == {"nll", "accuracy", "balanced_accuracy", "f1", "calibration_error", "auroc"}
    assert math.isnan(found["auroc"])


def test_metrics_of_one_class_have_no_auroc() -> None:
    assert "auroc" not in measure(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
