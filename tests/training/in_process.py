"""Training a model folder in this process: run, checkpoints and journal are the harness's, and there is no Ray.

For tests of what a folder learns and exports. Ray's dozen processes cost half a minute of processor time before the
first step; that they do what they should is what tests/training, the demo's and the fourth model's tests are about.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modelport.connection import Connection
from modelport.contract import ModelFolder
from modelport.data import load_dataset
from modelport.project import state_folder
from modelport.training import TrainingResult, load_entry
from modelport.training.harness import find_run
from modelport.training.identity import ordered_spec, run_key
from modelport.training.journal import Journal
from modelport.training.patience import Patience
from modelport.training.run import Run
from tests.release.redness import mlflow_run


class _Alone(Run):
    """A run of one worker that nobody started."""

    def prepare(self, module: Any) -> Any:
        return module


def train_here(
    folder: ModelFolder, data: Path, overrides: Sequence[str] = (), connection: Connection | None = None
) -> TrainingResult:
    """Train anew on one worker; what `modelport.training.start` would give.

    Args:
        folder: The model folder; checkpoints go below its project's state folder, as ever.
        data: Local folder of the dataset.
        overrides: ``KEY=VALUE`` assignments to the specification.
        connection: Platform in whose MLflow the result has a run, an empty one.
    """
    spec = ordered_spec(folder.spec, overrides, 1)
    state, bundle = state_folder(folder.path.resolve().parent.parent), folder.bundle()
    dataset = load_dataset(str(data), spec, store=None, cache=state / "cache")
    key = run_key(spec, bundle.digest, dataset.digest, 1)
    runs = state / "runs" / spec.name
    name, store = find_run(runs, spec.name, key, None, again=True)
    store.write(Journal(run=name).started())
    threads = torch.get_num_threads()
    run = _Alone(
        spec,
        dataset,
        store,
        device=torch.device("cpu"),
        rank=0,
        world_size=1,
        threads=threads,
        tell=lambda _: None,
        share=lambda value: value,
        patience=Patience(0, lambda _: None),
    )
    load_entry(folder.path, "train").train(run)
    journal = store.read()
    assert journal is not None
    assert journal.best is not None
    store.write(journal.ended())
    return TrainingResult(
        run=name,
        run_key=key,
        mlflow_run_id="" if connection is None else mlflow_run(connection, spec.name),
        checkpoint=store.fetch(journal.best, runs / name / "checkpoints"),
        best_epoch=journal.best.epoch,
        metrics=journal.record(journal.best.epoch).metrics,
        epochs=[record.model_dump() for record in journal.epochs],
        spec=spec,
        dataset=dataset,
        data_digest=dataset.digest,
        heldout_digest=dataset.heldout_digest,
        code_digest=bundle.digest,
        resumed=False,
        seconds=sum(record.seconds for record in journal.epochs),
    )
