"""What makes two trainings the same, and what is recorded about one."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelport.contract import ModelSpec, apply_overrides

KEY_LENGTH = 12
"""Hexadecimal digits of a key that names of runs and of what trains them hold."""

_NAMED = ("modelport", "torch", "torchvision", "ray", "mlflow", "numpy", "pillow", "onnx", "onnxruntime")


def ordered_spec(spec: ModelSpec, overrides: Sequence[str], workers: int | None) -> ModelSpec:
    """The specification that a training follows: with its overrides, and another number of workers if one was given."""
    if workers is not None:
        overrides = [*overrides, f"train.workers.count={workers}"]
    return apply_overrides(spec, overrides)


def run_key(spec: ModelSpec, code_digest: str, data_digest: str, workers: int) -> str:
    """sha256 of everything that decides what a training learns: the same key is the same training."""
    learned = {
        "model": spec.name,
        "code": code_digest,
        "data": data_digest,
        "parameters": spec.train.parameters,
        "seed": spec.train.seed,
        "select": spec.train.select.model_dump(mode="json"),
        "selection_fraction": spec.data.selection_fraction,
        "classes": [label.name for label in spec.classes],
        "workers": workers,
    }
    return hashlib.sha256(json.dumps(learned, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def run_name(key: str, number: int = 1) -> str:
    """Name of the n-th run of a key; a further one begins where the same training is wanted again."""
    return key[:KEY_LENGTH] if number == 1 else f"{key[:KEY_LENGTH]}-{number}"


def run_number(run: str) -> int:
    """Which run of its key this is: the n of `run_name`."""
    return int(run.partition("-")[2] or 1)


def is_run_of(run: str, key: str) -> bool:
    """Whether this is the name of a run of this key."""
    return re.fullmatch(rf"{key[:KEY_LENGTH]}(-[1-9][0-9]*)?", run) is not None


def environment() -> Mapping[str, Any]:
    """Versions of what computes, and on what."""
    installed = installed_versions()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **{name: installed[name] for name in _NAMED if name in installed},
    }


def installed_versions() -> dict[str, str]:
    """Every installed distribution and its exact version, by name."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found[name.lower().replace("_", "-")] = distribution.version
    return dict(sorted(found.items()))


def requirements() -> str:
    """What is installed, as a requirements file."""
    return "".join(f"{name}=={version}\n" for name, version in installed_versions().items())
