"""The platform's own metrics, on what a release answers: training never grades itself.

A task is one module beside the others. Each image is measured once; the task's metrics are then computed over any
list of these samples, so that the gate can resample images for its confidence interval. Where a metric is a mean over
classes, it is over those that occur in the images at hand, in a resample as in the whole split.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from modelport.contract import Task
from modelport.promotion.metrics import classify, detect, segment

Sample = Any
"""What a task's module keeps of one image; nobody else looks into it."""


class TaskMetrics(Protocol):
    """What a task's module offers."""

    LIBRARIES: tuple[str, ...]
    """Distributions that compute the metrics; evidence names their versions."""
    RESAMPLES: int
    """How many resamples an interval is made of; fewer where one takes long."""

    def measure(self, outputs: Mapping[str, NDArray[Any]], truth: NDArray[Any], classes: int) -> Sample:
        """One image, measured; raises ValueError where outputs and truth do not go together."""
        ...

    def shown(self, truth: NDArray[Any]) -> Sequence[int]:
        """Class ids of the examples in one image's truth, each as often as it counts."""
        ...

    def per_image(self, sample: Sample) -> dict[str, float]:
        """What evidence says of one image."""
        ...

    def summarize(self, samples: Sequence[Sample]) -> dict[str, float]:
        """The task's metrics over one image or more, without those that these images do not define."""
        ...

    def value(self, samples: Sequence[Sample], metric: str) -> float:
        """One of the metrics; raises ValueError, saying why, where these images do not define it."""
        ...


_MODULES = {Task.SEGMENT: segment, Task.DETECT: detect, Task.CLASSIFY: classify}


def metrics_of(task: Task) -> TaskMetrics:
    """The metrics of a task."""
    return cast("TaskMetrics", _MODULES[task])
