"""`modelport demo` whose training is in this process: ``python -m tests.end_to_end.without_ray demo ...``.

For what comes after the training: Ray's dozen processes take half a minute of processor time.
"""

from pathlib import Path
from typing import Any

import modelport.local.demo
from modelport.cli import main
from modelport.connection import Connection
from modelport.contract import ModelFolder
from modelport.training import TrainingResult
from tests.training.in_process import train_here


def start(
    folder: ModelFolder, data: str, *, overrides: tuple[str, ...], connection: Connection, again: bool, progress: Any
) -> TrainingResult:
    """What `modelport.training.start` would give."""
    del progress
    assert again, "a demo shows a training, not the memory of one"
    return train_here(folder, Path(data), overrides, connection)


if __name__ == "__main__":
    modelport.local.demo.start = start
    main()
