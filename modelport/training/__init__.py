"""Training: the run that a model folder is given, Ray Train around it, and its record in MLflow.

What is exported here is imported when it is first asked for: a folder's ``train.py`` needs `Run` only as a type, and
the command line needs neither torch nor Ray before it trains.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelport.training.folder import load_entry
    from modelport.training.harness import TrainingResult, start
    from modelport.training.pictures import picture
    from modelport.training.progress import Display
    from modelport.training.run import Parameters, Run
    from modelport.training.tracking import log_picture

_HOMES = {
    "Display": "progress",
    "Parameters": "run",
    "Run": "run",
    "TrainingResult": "harness",
    "load_entry": "folder",
    "log_picture": "tracking",
    "picture": "pictures",
    "start": "harness",
}

__all__ = ["Display", "Parameters", "Run", "TrainingResult", "load_entry", "log_picture", "picture", "start"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
