"""Training: called in every Ray Train worker."""

import torch

from modelport.learning import Classification, Views, classifier, fit
from modelport.training import Run

VIEWS = Views(rim="reflection")
"""A photograph of a road has an up, and its wetness is in reflections: none of black corners."""


def train(run: Run) -> None:
    """Train to the end, reporting loss and metrics of the selection split with a checkpoint every epoch."""
    torch.manual_seed(run.seed)
    network = classifier(str(run.parameters["network"]), len(run.spec.classes))
    task = Classification(run, VIEWS)
    fit(run, network, loss=task.loss, evaluate=task.evaluate, start=task.start)
