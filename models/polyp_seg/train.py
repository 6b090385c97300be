"""Training: called in every Ray Train worker."""

import math

import torch

from modelport.learning import Segmentation, SegmentationNet, Views, fit
from modelport.training import Run

VIEWS = Views(turn=math.pi, bend=0.02)
"""An endoscope has no up: any angle. Beyond the rim lies black, as around its view; the gut bends."""


def train(run: Run) -> None:
    """Train to the end, reporting the loss and the selection split's Dice with a checkpoint every epoch."""
    torch.manual_seed(run.seed)
    network = SegmentationNet(len(run.spec.classes), resnet=bool(run.parameters["pretrained"]))
    task = Segmentation(run, VIEWS, mirror=bool(run.parameters["mirror"]))
    fit(run, network, loss=task.loss, evaluate=task.evaluate, start=task.start)
