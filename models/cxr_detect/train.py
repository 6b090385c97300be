"""Training: called in every Ray Train worker."""

from pathlib import Path

import torch

from modelport.learning import Views, fit
from modelport.learning.detect import Detection
from modelport.learning.yolo import Yolo11, load_weights
from modelport.training import Run

VIEWS = Views(turn=0.1, zoom=1.25, stretch=1.1, saturation=0, cast=0)
"""Patients stand upright before the detector, some a little askew; radiographs have no colour."""


def train(run: Run) -> None:
    """Train to the end, reporting the loss and the selection split's mAP with a checkpoint every epoch."""
    torch.manual_seed(run.seed)
    network = Yolo11(str(run.parameters["architecture"]), len(run.spec.classes))
    task = Detection(run, network, VIEWS if run.parameters["augment"] else None)
    weights = str(run.parameters["weights"])
    start = (lambda fresh: load_weights(fresh, Path(weights))) if weights else None
    fit(run, network, loss=task.loss, evaluate=task.evaluate, start=start)
