"""What trainings of classification share: images in memory, losses, calibration, metrics, the answer that is served."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modelport.data import Split
from modelport.errors import BadInput
from modelport.learning.learner import load_average
from modelport.learning.memory import forward, load_images
from modelport.learning.networks import load_pretrained
from modelport.learning.preprocess import Preprocess
from modelport.learning.views import Views
from modelport.release import Pipeline
from modelport.training import Run

LOSSES = ("weighted", "focal")
FOCUS = 2.0
"""Exponent of the focal loss."""
BINS = 15
"""Of the calibration error."""


class Classification:
    """A run's images and labels in memory, at the network's size, and what `fit` asks for."""

    def __init__(self, run: Run, views: Views) -> None:
        """Reads the parameters ``size``, ``loss`` (weighted or focal) and ``pretrained``.

        Args:
            run: As given to ``train(run)``.
            views: Of the training images.

        Raises:
            BadInput: a parameter is wrong, or the training split has no image of a class.
        """
        self.run, self.views = run, views
        self.kind = str(run.parameters["loss"])
        if self.kind not in LOSSES:
            known = " or ".join(LOSSES)
            raise BadInput(f"is {self.kind!r}", key="train.parameters.loss", remedy=f"write {known}")
        self.preprocess = Preprocess(int(run.parameters["size"]))
        self.images = load_images(run.train, self.preprocess)
        self.labels = load_labels(run.train)
        self.weights = class_weights(self.labels, [label.name for label in run.spec.classes])
        self.selection = load_images(run.selection, self.preprocess)
        self.truth = load_labels(run.selection)

    def start(self, network: nn.Module) -> None:
        """Load pretrained weights, if the parameters say so."""
        if self.run.parameters["pretrained"]:
            load_pretrained(network)

    def loss(self, network: nn.Module, indices: Sequence[int], epoch: int) -> Tensor:
        """Of a batch's views."""
        device = self.run.device
        images, labels = self.images[indices].to(device).float(), self.labels[indices].to(device)
        preprocess = self.preprocess.to(device)
        pixels = self.views.of(preprocess.pixels(images), seed=self.run.seed, epoch=epoch, indices=indices)
        images = preprocess.normalise(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(images)
        if self.kind == "focal":
            return focal_loss(logits.float(), labels)
        return cross_entropy(logits.float(), labels, self.weights.to(device))

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Fit the temperature on the selection split, and measure what would be served with it."""
        logits = forward(network, self.selection, self.run.device)
        temperature = fit_temperature(logits, self.truth)
        return {"temperature": temperature, **measure((logits / temperature).softmax(1), self.truth)}


def classification_pipeline(checkpoint: Path, network: nn.Module, *, size: int, unsure: float) -> Pipeline:
    """What is served: a checkpoint's averaged weights, loaded into `network`, and its temperature.

    Args:
        checkpoint: Folder of the best epoch's ``checkpoint.pt``.
        network: Built with the parameters of the training.
        size: Side of the square that it sees.
        unsure: Below this largest probability the answer is `unsure`.
    """
    metrics = load_average(checkpoint, network)
    return Pipeline(
        preprocess=Preprocess(size).eval(),
        network=network.eval(),
        postprocess=Postprocess(metrics["temperature"]).eval(),
        thresholds={"unsure": unsure},
    )


class Postprocess(nn.Module):
    """Calibrated probabilities: the softmax of logits that were divided by a temperature (Guo et al., ICML 2017)."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logits [1, C] and the image, which is not looked at -> probabilities float32 [C]."""
        del image
        return (logits[0] / self.temperature).softmax(0)


def load_labels(split: Split) -> Tensor:
    """Class ids int64 [N]."""
    return torch.tensor([int(split.target(index)) for index in range(len(split))], dtype=torch.int64)


def class_weights(labels: Tensor, names: Sequence[str]) -> Tensor:
    """Weights that let each class count as much as another, float32 [C]: 1 for each where they are equally frequent.

    Raises:
        BadInput: a class has no example.
    """
    counts = labels.bincount(minlength=len(names))
    for name, count in zip(names, counts.tolist(), strict=True):
        if not count:
            raise BadInput(
                f"the training split has no image of {name!r}", key="classes", remedy="add some, or remove the class"
            )
    return len(labels) / (len(names) * counts.float())


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy that examples count less for, the surer they are answered rightly (Lin et al., ICCV 2017)."""
    entropy = cross_entropy(logits, labels, reduction="none")
    return ((1 - (-entropy).exp()) ** FOCUS * entropy).mean()


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """The temperature under which the truth is most probable; logits [N, C], truth int64 [N].

    It leaves each answer what it is, and changes how sure it is. A handful of images that are all answered rightly
    would ask for a temperature of 0: a prior (log-normal around 1, a standard deviation of 1) weighs as much as a few
    images, and the answers are no less probable than without a temperature.
    """
    given = logits.double()
    with torch.enable_grad():
        log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

        def objective() -> Tensor:
            optimizer.zero_grad()
            entropy = cross_entropy(given / log_temperature.exp(), truth, reduction="sum")
            total = entropy + log_temperature.square() / 2
            total.backward()
            return total

        optimizer.step(objective)  # pyright: ignore[reportArgumentType]
    fitted = log_temperature.exp().item()
    # Logits of a training that diverges have no best temperature; the loss tells.
    return fitted if math.isfinite(fitted) else 1.0


def measure(probabilities: Tensor, truth: Tensor) -> dict[str, float]:
    """Metrics of probabilities [N, C] against class ids [N]; ``auroc`` only where two classes occur, NaN if one is NaN.

    ``nll``, the mean negative log-likelihood, is what to select epochs by: on a few images the others take few values,
    so that epochs tie, and a lucky early one stays the best.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

    answers, wanted = probabilities.argmax(1).numpy(), truth.numpy()
    with warnings.catch_warnings():
        # scikit-learn warns of classes that do not occur; a selection split may be that small.
        warnings.simplefilter("ignore")
        found = {
            "nll": float(-probabilities.gather(1, truth[:, None]).clamp_min(1e-12).log().mean()),
            "accuracy": float(accuracy_score(wanted, answers)),
            "balanced_accuracy": float(balanced_accuracy_score(wanted, answers)),
            "f1": float(f1_score(wanted, answers, average="macro")),
            "calibration_error": calibration_error(probabilities, truth),
        }
    present = truth.unique().tolist()
    if len(present) > 1:
        # scikit-learn refuses what is not finite; the other metrics are what becomes of it.
        each = [
            float(roc_auc_score(wanted == label, probabilities[:, label].numpy()))
            if probabilities[:, label].isfinite().all()
            else math.nan
            for label in present
        ]
        found["auroc"] = sum(each) / len(each)
    return found


def calibration_error(probabilities: Tensor, truth: Tensor) -> float:
    """How far confidence and accuracy are apart, in bins of confidence, weighted by the images in them."""
    confidence, answers = probabilities.max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS).index_add(0, bins, (answers == truth).float() - confidence.float())
    return float(gaps.abs().sum() / len(truth))
