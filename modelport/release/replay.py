"""Whether outputs are what torch gave for the golden samples: in parity, in the gate, and before a server is ready."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelport.contract import Task
from modelport.release.manifest import FP32, Tolerance
from modelport.release.pipeline import LOGITS

TOLERANCES: dict[Task, dict[str, dict[str, Tolerance]]] = {
    Task.SEGMENT: {
        FP32: {
            # Pixels whose logit is almost the threshold's may fall on either side.
            "mask": Tolerance(differing=0.001),
            "coverage": Tolerance(absolute=0.001),
            LOGITS: Tolerance(absolute=0.001, internal=True),
        }
    }
}
"""By task and precision; a release's manifest carries those that it was made under."""


def compare(
    outputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], tolerances: Mapping[str, Tolerance]
) -> list[str]:
    """Problems between outputs and torch's, none when they agree.

    Args:
        outputs: named tensors; those that are not expected are not looked at.
        expected: named tensors of a golden sample.
        tolerances: of one precision, such as ``manifest.tolerances["fp32"]``. An output without one must be equal.
    """
    problems: list[str] = []
    for name, wanted in expected.items():
        tolerance = tolerances.get(name, Tolerance(differing=0.0))
        found = outputs.get(name)
        if found is None:
            if not tolerance.internal:
                problems.append(f"{name} is missing")
        elif found.shape != wanted.shape:
            problems.append(f"{name} has shape {list(found.shape)}, not {list(wanted.shape)}")
        elif found.dtype != wanted.dtype:
            problems.append(f"{name} is {found.dtype}, not {wanted.dtype}")
        elif wanted.size:
            problems += _beyond(name, found, wanted, tolerance)
    return problems


def _beyond(name: str, found: NDArray[Any], wanted: NDArray[Any], tolerance: Tolerance) -> list[str]:
    if tolerance.absolute is not None:
        largest = float(np.max(np.abs(found.astype(np.float64) - wanted.astype(np.float64))))
        # Written so that NaN, which no comparison is true of, is beyond.
        if not largest <= tolerance.absolute:
            return [f"{name} differs by {largest:.2g}; at most {tolerance.absolute:g} is allowed"]
        return []
    share = float(np.mean(found != wanted))
    limit = tolerance.differing or 0.0
    if not share <= limit:
        return [f"{share:.3%} of {name} differ; at most {limit:.3%} is allowed"]
    return []
