"""The three steps of every served model, and the tensors that flow between them."""

from dataclasses import dataclass

from modelport.contract.tasks import TASKS, Task

IMAGE = "image"
LOGITS = "logits"
CANDIDATES = "candidates"
"""What a detector's network gives: every place it looked at, before overlapping boxes are thinned out."""


@dataclass(frozen=True)
class StepNames:
    """Names of a step's tensors, in the order of its ``forward``'s arguments and results."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def step_names(task: Task) -> dict[str, StepNames]:
    """Tensor names of the three steps, in the order in which they run; the last one's outputs are what clients see."""
    given = CANDIDATES if task is Task.DETECT else LOGITS
    return {
        "preprocess": StepNames((IMAGE,), ("input",)),
        "network": StepNames(("input",), (given,)),
        "postprocess": StepNames((given, IMAGE), tuple(tensor.name for tensor in TASKS[task].outputs)),
    }
