"""The platform's own metrics, in numpy: training never grades itself.

A task is one module beside the others. It offers `score`, what one image gives, and `summarize`, which makes the
metrics of a set of images out of that; the gate resamples images for its confidence interval, and summarizes again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from modelport.contract import Task
from modelport.errors import BadInput
from modelport.promotion.metrics import segment


class TaskMetrics(Protocol):
    """What a task's module offers."""

    def score(self, outputs: Mapping[str, NDArray[Any]], truth: NDArray[Any], classes: int) -> dict[str, float]:
        """What one image gives; raises ValueError where outputs and truth do not go together."""
        ...

    def summarize(self, scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The task's metrics over one image or more."""
        ...


_MODULES = {Task.SEGMENT: segment}


def metrics_of(task: Task) -> TaskMetrics:
    """The metrics of a task.

    Raises:
        BadInput: there are none yet.
    """
    if task not in _MODULES:
        raise BadInput(f"models for {task} cannot be gated yet", key="task", remedy=f"tasks: {', '.join(_MODULES)}")
    return cast("TaskMetrics", _MODULES[task])
