"""What ``train(run)`` in a model folder is given: parameters, data, device, and a way to report each epoch."""

import hashlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelport.contract import ModelSpec
from modelport.data import Dataset, Split
from modelport.errors import BadInput, ModelportError, Unavailable
from modelport.training.checkpoints import CHECKPOINT_FILE, CheckpointStore, checkpoint_ref
from modelport.training.events import EpochDone, Event, Note, Stepped
from modelport.training.journal import CheckpointRef, EpochRecord, Journal, now_ms
from modelport.training.patience import Patience

if TYPE_CHECKING:
    import torch

PROGRESS_INTERVAL_S = 0.5


class Parameters(dict[str, Any]):
    """Parameters of the training by name, as ``model.yaml`` and ``--set`` give them."""

    def __missing__(self, name: str) -> Any:
        raise BadInput(
            "is not in model.yaml, but train.py asks for it",
            key=f"train.parameters.{name}",
            remedy=f"add it there; its parameters are: {', '.join(sorted(self)) or 'none'}",
        )


class Run:
    """One worker's view of a training.

    Build the network and what else has state, call `resume` and load what it returns, then go through `epochs`, take
    each epoch's examples from `shard`, and call `report` at its end. A run that was killed then goes on after its last
    reported epoch, with the data order and random numbers that it would have had.
    """

    spec: ModelSpec
    parameters: Parameters
    seed: int
    """For everything drawn at random. `random`, NumPy and torch are seeded anew for every epoch."""
    device: "torch.device"
    rank: int
    """Number of this worker, from 0."""
    world_size: int
    """How many workers there are."""
    threads: int
    """Processor cores of this worker."""
    train: Split
    selection: Split

    def __init__(
        self,
        spec: ModelSpec,
        dataset: Dataset,
        store: CheckpointStore,
        *,
        device: "torch.device",
        rank: int,
        world_size: int,
        threads: int,
        tell: Callable[[Event], None],
        share: Callable[[Any], Any],
        patience: Patience,
    ) -> None:
        """Made by the harness.

        Args:
            tell: Hands an event to whoever watches, without waiting.
            share: Gives every worker what the first one passes; a barrier.
            patience: With an object store that is away.
        """
        self.spec = spec
        self.parameters = Parameters(spec.train.parameters)
        self.seed = spec.train.seed
        self.device = device
        self.rank = rank
        self.world_size = world_size
        self.threads = threads
        self.train = dataset.train
        self.selection = dataset.selection
        self._store = store
        self._tell = tell
        self._share = share
        self._patience = patience
        # The first worker decides for all what is resumed: another might read after the next epoch was committed.
        self._journal = patience(lambda: _read(store, spec.name)) if rank == 0 else None
        position: tuple[int, CheckpointRef | None] = share(
            None if self._journal is None else (self._journal.next_epoch, self._journal.latest)
        )
        self._next_epoch, self._latest = position
        self._order = hashlib.sha256()
        self._examples = 0
        self._began = self._progressed = time.monotonic()
        self._seed_epoch(self._next_epoch)

    def resume(self) -> dict[str, Any] | None:
        """State that the last finished epoch reported, on the CPU; None on a fresh start. Build the network before it.

        Raises:
            BadInput: the checkpoint is gone or damaged.
            Unavailable: the object store is away.
        """
        import torch

        latest = self._latest
        if latest is None:
            return None
        with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
            file = self._patience(lambda: self._store.fetch(latest, Path(folder))) / CHECKPOINT_FILE
            state = torch.load(file, map_location="cpu", weights_only=True)
        self._seed_epoch(self._next_epoch)
        return state

    def epochs(self, count: int) -> Iterator[int]:
        """Numbers of the epochs still to be done out of `count`, each begun with random numbers of its own."""
        for epoch in range(self._next_epoch, count):
            self._seed_epoch(epoch)
            yield epoch

    def prepare(self, module: Any) -> Any:
        """The module on this worker's device; with several workers, wrapped so that gradients are averaged."""
        from ray.train.torch import prepare_model

        return prepare_model(module)

    def shard(self, indices: Sequence[int]) -> list[int]:
        """This worker's part of an epoch's global order of training examples, of equal length on all workers.

        Where it does not come out even, the first ones of the order are given out twice. The order is recorded, so
        that a resumed run can be shown to have had the same.
        """
        order = list(indices)
        if not order:
            raise BadInput("run.shard was given no examples", remedy="pass the whole epoch's order of indices")
        ids = self.train.ids
        for index in order:
            self._order.update(f"{ids[index]}\n".encode())
        self._examples += len(order)
        short = -len(order) % self.world_size
        padded = order + [order[position % len(order)] for position in range(short)]
        return padded[self.rank :: self.world_size]

    def progress(self, step: int, steps: int, **metrics: float) -> None:
        """Tell how far this epoch is. Cheap: most calls do nothing."""
        now = time.monotonic()
        if self.rank != 0 or now - self._progressed < PROGRESS_INTERVAL_S:
            return
        self._progressed = now
        self._tell(Stepped(step, steps, {name: float(value) for name, value in metrics.items()}))

    def report(self, metrics: dict[str, float], checkpoint: dict[str, Any], *, epoch: int) -> None:
        """End an epoch, on every worker: the first one's metrics and checkpoint are committed together.

        Args:
            metrics: By name; must hold ``train.select.metric`` of the spec, computed on `selection`.
            checkpoint: Everything that `resume` must give back: tensors, numbers, strings, lists, dicts.
            epoch: Its number, from 0; each comes once, in order.

        Raises:
            BadInput: a metric is missing, the epoch is out of turn, or the checkpoint holds other kinds of objects.
            Unavailable: the object store is away; the earlier checkpoint is safe.
            Conflict: another process has taken over this run.
        """
        failure: ModelportError | None = None
        if self._journal is not None:
            try:
                self._journal = self._commit(self._journal, self._checked(metrics, epoch), checkpoint, epoch)
            except ModelportError as error:
                failure = error
        failure = self._share(failure)
        if failure is not None:
            raise failure
        self._next_epoch = epoch + 1
        self._order = hashlib.sha256()
        self._examples = 0
        self._began = time.monotonic()
        self._seed_epoch(epoch + 1)

    def _checked(self, metrics: dict[str, float], epoch: int) -> dict[str, float]:
        wanted = self.spec.train.select.metric
        if wanted not in metrics:
            raise BadInput(
                f"report() was given no metric {wanted!r}",
                key="train.select.metric",
                remedy=f"report it, or select by one that is: {', '.join(sorted(metrics)) or 'none'}",
            )
        expected = self._next_epoch
        if epoch != expected:
            raise BadInput(
                f"report() was called for epoch {epoch}, but epoch {expected} is next",
                remedy="load what run.resume() returns and go through run.epochs(count)",
            )
        return {name: float(value) for name, value in metrics.items()}

    def _commit(self, journal: Journal, metrics: dict[str, float], checkpoint: dict[str, Any], epoch: int) -> Journal:
        record = EpochRecord(
            epoch=epoch,
            metrics=metrics,
            order=self._order.hexdigest(),
            examples=self._examples,
            seconds=time.monotonic() - self._began,
            time_ms=now_ms(),
            attempt=journal.attempt,
        )
        select = self.spec.train.select
        with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
            file = Path(folder) / CHECKPOINT_FILE
            _write(checkpoint, file)
            if not journal.epochs:
                # What cannot be read back is told at the first epoch, not when a resume needs it.
                _check_readable(file)
            ref = checkpoint_ref(file, epoch)
            advanced = journal.with_epoch(record, ref, select.metric, select.direction)
            try:
                self._patience(lambda: self._store.save(file, ref.name))
                self._patience(lambda: self._store.write(advanced))
            except Unavailable as error:
                raise Unavailable(
                    f"the checkpoint cannot be stored: {error.message}; "
                    + (f"that of epoch {epoch - 1} is safe" if epoch else "there is no earlier one"),
                    file=self._store.place,
                    remedy="when the object store answers again, run the same command: it goes on from there",
                ) from error
        self._tell(EpochDone(record, best=advanced.best == ref))
        try:
            self._store.sweep(advanced.kept)
        except Unavailable as error:
            self._tell(Note(f"old checkpoints stay for now: {error.message}"))
        return advanced

    def _seed_epoch(self, epoch: int) -> None:
        import numpy as np
        import torch

        drawn = int.from_bytes(hashlib.sha256(f"{self.seed}/{epoch}/{self.rank}".encode()).digest()[:4])
        random.seed(drawn)
        np.random.seed(drawn)
        torch.manual_seed(drawn)


def _read(store: CheckpointStore, name: str) -> Journal:
    journal = store.read()
    if journal is None:
        raise BadInput(
            f"the journal of this training of {name} is not there",
            file=store.place,
            remedy="workers on other machines than the command need their checkpoints on S3: --checkpoints s3",
        )
    return journal


def _write(checkpoint: dict[str, Any], file: Path) -> None:
    import torch

    try:
        torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        raise ModelportError(
            f"the checkpoint cannot be written: {error}; earlier ones are safe",
            file=file.parent,
            remedy="make room there (TMPDIR names another place) and run the same command again",
        ) from error


def _check_readable(file: Path) -> None:
    import pickle

    import torch

    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"the checkpoint given to report() holds objects that are not restored: {str(error).splitlines()[0]}",
            remedy="put only tensors, numbers, strings, lists and dicts into it (NumPy numbers as float(x))",
        ) from None
