"""What runs in each Ray Train worker: unpack the folder, make the run, call its ``train``."""

import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelport.connection import Connection, Role
from modelport.contract import ModelSpec, unpack
from modelport.data import Dataset
from modelport.errors import BadInput, ModelportError
from modelport.objects import ObjectStore
from modelport.training.channel import Channel
from modelport.training.checkpoints import CheckpointStore, LocalCheckpoints, ObjectCheckpoints
from modelport.training.events import Failed, Note
from modelport.training.folder import load_entry
from modelport.training.patience import Patience
from modelport.training.run import Run


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs, in picklable form."""

    spec: ModelSpec
    folder: str
    """Where the model folder is on the driver's machine; only for messages."""
    bundle: bytes
    """Packed: what is edited while a training runs does not change it, not even when a worker is replaced."""
    dataset: Dataset
    checkpoints: str
    """Folder, or prefix in the bucket when there is a connection for them."""
    on_objects: bool
    connection: Connection | None
    """With the trainer's identity only; None when nothing is on the object store."""
    patience_s: float
    threads: int = 1
    """Processor cores of this worker; the driver says."""
    channel: Channel | None = None
    """To the driver, which opens it."""


def checkpoint_store(job: Job, objects: ObjectStore | None) -> CheckpointStore:
    """Keeper of the run's checkpoints."""
    if job.on_objects:
        assert objects is not None
        return ObjectCheckpoints(objects, job.checkpoints)
    return LocalCheckpoints(Path(job.checkpoints))


def work(config: dict[str, Any]) -> None:
    """Entry point of a worker, for `TorchTrainer`.

    An error that would come again is told to the driver, which ends the training; any other is left to Ray Train, which
    starts the workers anew.
    """
    import ray.train

    job: Job = config["job"]
    channel = job.channel
    assert channel is not None
    alone = ray.train.get_context().get_world_size() == 1
    with tempfile.TemporaryDirectory(prefix="modelport-") as temporary:
        folder = Path(temporary) / job.spec.name
        try:
            _train(job, channel, folder)
        except ModelportError as error:
            channel.tell_surely(Failed(error, traceback.format_exc()))
        except Exception as error:
            text = traceback.format_exc().replace(str(folder), job.folder)
            failure = _in_terms_of_folder(error, folder, job.folder)
            if not alone:
                # It may be the echo of another worker's death, such as a lost connection between the two.
                channel.tell_surely(Note(f"a worker failed: {failure}"))
                raise
            channel.tell_surely(Failed(failure, text))


def _train(job: Job, channel: Channel, folder: Path) -> None:
    import ray.train
    import ray.train.collective
    import ray.train.torch
    import torch

    unpack(job.bundle, folder)
    torch.set_num_threads(job.threads)
    objects = None if job.connection is None else ObjectStore.connect(job.connection, Role.TRAINER)
    dataset = job.dataset if objects is None else job.dataset.connected(objects)
    patience = Patience(job.patience_s, lambda text: channel.tell(Note(text)))
    dataset.fetch(patience)
    entry = load_entry(folder, "train")
    if not callable(getattr(entry, "train", None)):
        raise BadInput("has no function train(run)", file=f"{job.folder}/train.py", remedy="write `def train(run)`")
    context = ray.train.get_context()
    run = Run(
        job.spec,
        dataset,
        checkpoint_store(job, objects),
        device=ray.train.torch.get_device(),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        threads=job.threads,
        tell=channel.tell,
        share=ray.train.collective.broadcast_from_rank_zero,
        patience=patience,
    )
    entry.train(run)


def _in_terms_of_folder(error: Exception, folder: Path, shown: str) -> ModelportError:
    """The error at the last line of the model folder's own code that it went through."""
    file, line = f"{shown}/train.py", None
    for frame in traceback.extract_tb(sys.exc_info()[2]):
        if frame.filename.startswith(str(folder)):
            file, line = frame.filename.replace(str(folder), shown), frame.lineno
    return ModelportError(f"{type(error).__name__}: {error}", file=file, line=line)
