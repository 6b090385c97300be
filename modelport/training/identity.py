"""What makes two trainings the same, and what is recorded about one."""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

from modelport.contract import ModelSpec

_NAMED = ("modelport", "torch", "torchvision", "ray", "mlflow", "numpy", "pillow", "onnx", "onnxruntime")


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
