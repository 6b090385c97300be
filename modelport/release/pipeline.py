"""What a model folder's ``pipeline.py`` returns: the three torch modules that are exported and served as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelport.contract import TASKS, Task

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Pipeline:
    """The served model, in eval mode on the CPU.

    For task ``segment`` the shapes are (S, s: the network's own sizes; C: 1 or the number of classes):

    - preprocess: image uint8 [H, W, 3] -> input float32 [1, 3, S, S]
    - network: input [B, 3, S, S] -> logits float32 [B, C, s, s]; no sample may change another one's logits
    - postprocess: logits [1, C, s, s], image -> mask uint8 [H, W], coverage float32 [1]
    """

    preprocess: "nn.Module"
    network: "nn.Module"
    postprocess: "nn.Module"
    example: "Tensor | None" = None
    """An image uint8 [H, W, 3] to trace with; the first golden image by default."""
    thresholds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Decision thresholds by class, for people who read the manifest; the graphs carry their own."""


@dataclass(frozen=True)
class StepNames:
    """Names of a step's tensors, in the order of its ``forward``'s arguments and results."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


IMAGE = "image"
LOGITS = "logits"


def step_names(task: Task) -> dict[str, StepNames]:
    """Tensor names of the three steps, in the order in which they run; the last one's outputs are what clients see."""
    return {
        "preprocess": StepNames((IMAGE,), ("input",)),
        "network": StepNames(("input",), (LOGITS,)),
        "postprocess": StepNames((LOGITS, IMAGE), tuple(tensor.name for tensor in TASKS[task].outputs)),
    }
