"""What clients see, per task. Tensor names are the contract, also over Triton's own protocol."""

from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What a model answers."""

    SEGMENT = "segment"
    DETECT = "detect"
    CLASSIFY = "classify"


@dataclass(frozen=True)
class Tensor:
    """A named tensor; types and dimensions as Triton writes them (-1 is any size)."""

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class TaskTable:
    """Common part of every model of a task. A model may declare further named inputs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metrics: tuple[str, ...]
    """Metrics that the platform computes for the gate; see `modelport.promotion`."""


LESS_IS_BETTER = frozenset({"calibration_error"})
"""Metrics of the platform of which less is better; of all others more is."""

COVERAGE_SLACK = 0.005
"""How far a coverage may be from its mask's: arithmetic rounds, and a share of something else misses it by more."""

IMAGE = Tensor("image", "TYPE_UINT8", (-1, -1, 3))

TASKS: dict[Task, TaskTable] = {
    Task.SEGMENT: TaskTable(
        inputs=(IMAGE,),
        outputs=(Tensor("mask", "TYPE_UINT8", (-1, -1)), Tensor("coverage", "TYPE_FP32", (1,))),
        metrics=("dice", "iou"),
    ),
    Task.DETECT: TaskTable(
        inputs=(IMAGE,),
        outputs=(
            Tensor("boxes", "TYPE_FP32", (-1, 4)),
            Tensor("scores", "TYPE_FP32", (-1,)),
            Tensor("labels", "TYPE_INT64", (-1,)),
        ),
        metrics=("map50", "map50_95"),
    ),
    Task.CLASSIFY: TaskTable(
        inputs=(IMAGE,),
        outputs=(Tensor("probabilities", "TYPE_FP32", (-1,)),),
        metrics=("accuracy", "balanced_accuracy", "f1", "auroc", "calibration_error"),
    ),
}
