"""From a model folder and a dataset to a trained checkpoint: one call, which can be killed and called again."""

import fcntl
import json
import os
import queue
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelport.connection import Connection, Role
from modelport.contract import Bundle, ModelFolder, ModelSpec, duration_seconds
from modelport.data import Dataset, load_dataset
from modelport.errors import BadInput, Conflict, ModelportError, Unavailable
from modelport.objects import ObjectStore
from modelport.project import state_folder
from modelport.training.checkpoints import CheckpointStore, LocalCheckpoints, ObjectCheckpoints
from modelport.training.cluster import RayTooSlow
from modelport.training.driver_process import DriverProcess
from modelport.training.events import Ended, EpochDone, Event, Failed, Note, Ready, Started
from modelport.training.identity import (
    KEY_LENGTH,
    environment,
    is_run_of,
    ordered_spec,
    requirements,
    run_key,
    run_name,
    run_number,
)
from modelport.training.journal import Journal
from modelport.training.patience import Patience, patience_seconds
from modelport.training.tracking import RunRecord, Tracker
from modelport.training.worker import Job

POLL_INTERVAL_S = 0.2
START_LIMIT_S = 180
"""Within this Ray must be there; it takes 10 s where nothing else runs."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished training."""

    run: str
    """Name of the run."""
    run_key: str
    mlflow_run_id: str
    """Empty when there is no MLflow, or it was away to the end."""
    checkpoint: Path
    """Folder that holds ``checkpoint.pt`` of the best epoch."""
    best_epoch: int
    metrics: dict[str, float]
    """Of the best epoch."""
    epochs: list[dict[str, Any]]
    """Every epoch's record: epoch, metrics, order, examples, seconds, time_ms, attempt."""
    spec: ModelSpec
    """With overrides applied."""
    dataset: Dataset
    data_digest: str
    heldout_digest: str | None
    code_digest: str
    resumed: bool
    """Whether this call went on with an earlier one's work, or found it finished."""
    seconds: float
    """Spent in epochs, over all attempts."""
    mlflow_url: str = ""
    """Page of the run in MLflow."""


def start(
    folder: ModelFolder,
    data: str,
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    connection: Connection | None = None,
    again: bool = False,
    run: str | None = None,
    checkpoints_on_s3: bool = False,
    progress: Callable[[Event], None] | None = None,
) -> TrainingResult:
    """Train a model folder on a dataset, or go on with a training of the same that did not end.

    Args:
        folder: The model folder.
        data: Local folder or ``s3://`` address of the dataset.
        overrides: ``KEY=VALUE`` assignments to the specification.
        workers: Number of training processes; None takes the specification's.
        connection: The platform; None trains without MLflow, from and to local files.
        again: Train anew even if the same training is finished.
        run: Name of the run to do, or to find finished; None takes the last one of this training.
        checkpoints_on_s3: Keep checkpoints on the object store instead of in the state folder.
        progress: Called with every event, from the calling thread.

    Raises:
        BadInput: the folder, an override, the dataset or what ``train.py`` reports is wrong.
        Conflict: the same training is running, or this is not the training that `run` is of.
        Unavailable: the object store is away; the last checkpoint is safe.
        ModelportError: ``train.py`` failed, workers were lost too often, or the time limit was reached.
    """
    tell = progress or _tell_nobody
    spec = ordered_spec(folder.spec, overrides, workers)
    bundle = folder.bundle()
    if checkpoints_on_s3 and connection is None:
        raise BadInput(
            "checkpoints on S3 need a platform", key="--checkpoints", remedy="`modelport local up` gives one"
        )
    state = state_folder(folder.path.resolve().parent.parent)
    on_objects = checkpoints_on_s3 or data.startswith("s3://")
    restricted = _for_workers(connection) if connection is not None and on_objects else None
    objects = None if restricted is None else ObjectStore.connect(restricted, Role.TRAINER)
    patience = Patience(patience_seconds(), lambda text: tell(Note(text)))
    dataset = patience(lambda: load_dataset(data, spec, store=objects, cache=state / "cache"))
    for remark in dataset.remarks:
        tell(Note(remark))
    key = run_key(spec, bundle.digest, dataset.digest, spec.train.workers.count)

    if run is not None and not is_run_of(run, key):
        raise Conflict(
            f"run {run} was asked for, but this is training {key[:KEY_LENGTH]}: the folder, its parameters or the "
            "dataset are not what they were then",
            file=folder.path,
            key="--run",
            remedy="submit it again, as it is now",
        )

    runs = state / "runs" / spec.name
    with _only_one(runs, run_name(key)):
        on_store = objects if checkpoints_on_s3 else None
        run, store = (
            patience(lambda: find_run(runs, spec.name, key, on_store, again))
            if run is None
            else (run, checkpoints_of(runs, spec.name, run, on_store))
        )
        training = _Training(
            folder=folder,
            spec=spec,
            bundle=bundle,
            dataset=dataset,
            connection=connection,
            restricted=restricted,
            store=store,
            on_objects=checkpoints_on_s3,
            run=run,
            key=key,
            runs=runs,
            tell=tell,
            patience=patience,
        )
        return training.result()


def _for_workers(connection: Connection) -> Connection:
    """What a worker may know of the platform: the object store, as the trainer."""
    return Connection(
        s3_endpoint=connection.s3_endpoint,
        s3_region=connection.s3_region,
        bucket=connection.bucket,
        s3_keys={Role.TRAINER: connection.key_for(Role.TRAINER)},
    )


def _tell_nobody(event: Event) -> None:
    del event


@dataclass
class _Training:
    """One call of `start`, after everything that can be wrong beforehand was looked at."""

    folder: ModelFolder
    spec: ModelSpec
    bundle: Bundle
    dataset: Dataset
    connection: Connection | None
    restricted: Connection | None
    store: CheckpointStore
    on_objects: bool
    run: str
    key: str
    runs: Path
    tell: Callable[[Event], None]
    patience: Patience

    def __post_init__(self) -> None:
        self.notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.folder_of_run = self.runs / self.run

    def result(self) -> TrainingResult:
        """Train as far as it is not done, and describe what came of it."""
        journal = self.patience(self.store.read) or Journal(run=self.run)
        before = len(journal.epochs)
        if not journal.finished:
            journal = self._written(journal.started())
        tracker = self._tracker()
        status = "FAILED"
        try:
            if tracker is not None:
                tracker.update(journal)
            if journal.finished:
                self.tell(Note(f"run {self.run} is finished already; --again trains anew"))
            else:
                journal = self._trained(journal, tracker)
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            self.tell(Note("stopped; the same command goes on after the last finished epoch"))
            raise
        finally:
            if tracker is not None:
                tracker.finish(status, timeout_s=60 if status == "FINISHED" else 10)
            self._tell_notes()
        best = journal.best
        assert best is not None
        return TrainingResult(
            run=self.run,
            run_key=self.key,
            mlflow_run_id="" if tracker is None else tracker.run_id,
            mlflow_url="" if tracker is None else tracker.url,
            checkpoint=self.patience(lambda: self.store.fetch(best, self.folder_of_run / "checkpoints")),
            best_epoch=best.epoch,
            metrics=journal.record(best.epoch).metrics,
            epochs=[record.model_dump() for record in journal.epochs],
            spec=self.spec,
            dataset=self.dataset,
            data_digest=self.dataset.digest,
            heldout_digest=self.dataset.heldout_digest,
            code_digest=self.bundle.digest,
            resumed=before > 0,
            seconds=sum(record.seconds for record in journal.epochs),
        )

    def _trained(self, journal: Journal, tracker: Tracker | None) -> Journal:
        """Run the workers to the end of ``train``; the journal that they left, marked as finished."""
        epochs = self.spec.train.parameters.get("epochs")
        self.tell(
            Started(
                run=self.run,
                next_epoch=journal.next_epoch,
                epochs=epochs if isinstance(epochs, int) else None,
                counts=self.dataset.describe(),
                workers=self.spec.train.workers.count,
                place=self.store.place,
            )
        )
        logs = self.folder_of_run / "logs" / f"attempt-{journal.attempt}"
        began = time.monotonic()
        while True:
            try:
                with DriverProcess(self._job(), logs) as driver:
                    self._watch(driver, tracker, logs, began)
                break
            except RayTooSlow:  # until `_watch` finds that there was no time left for it
                self.tell(Note("Ray was not up within half a minute, so busy is this machine; it is started again"))
        journal = self.patience(self.store.read) or journal
        if journal.best is None:
            raise BadInput(
                "train(run) ended without reporting an epoch",
                file=self.folder.path / "train.py",
                remedy="call run.report(metrics, checkpoint, epoch=epoch) at the end of every epoch",
            )
        journal = self._written(journal.ended())
        if tracker is not None:
            tracker.update(journal)
        return journal

    def _written(self, journal: Journal) -> Journal:
        self.patience(lambda: self.store.write(journal))
        return journal

    def _watch(self, driver: DriverProcess, tracker: Tracker | None, logs: Path, began: float) -> None:
        """Pass on events until the workers are done; raises what ended them before."""
        limit = self.spec.train.time_limit
        ready = False
        while True:
            self._tell_notes()
            if not ready and time.monotonic() - began > START_LIMIT_S:
                raise ModelportError(
                    f"Ray did not start within {START_LIMIT_S} s",
                    file=driver.log,
                    remedy="see there why; if RAY_ADDRESS is set, that cluster must be reachable",
                )
            if time.monotonic() - began > duration_seconds(limit):
                raise ModelportError(
                    f"the training was stopped at its time limit of {limit}; its last checkpoint is safe",
                    key="train.time_limit",
                    remedy="run it again to go on for as long; or raise the limit, with --set train.time_limit=6h",
                )
            event = driver.next_event(POLL_INTERVAL_S)
            if isinstance(event, Failed):
                _save_traceback(logs, event.traceback)
                if isinstance(event.error, ModelportError) and event.error.remedy is None:
                    event.error.remedy = f"the traceback is in {logs / _TRACEBACK_FILE}"
                raise event.error
            if isinstance(event, Ended):
                if event.problem is None:
                    return
                _save_traceback(logs, event.details)
                raise ModelportError(
                    f"the training failed: {event.problem}",
                    file=logs / _TRACEBACK_FILE,
                    remedy="its last checkpoint is safe: the same command goes on from there",
                )
            ready = ready or isinstance(event, Ready)
            if event is not None:
                self.tell(event)
            if isinstance(event, EpochDone) and tracker is not None:
                try:
                    current = self.store.read()
                except Unavailable:
                    current = None  # the tracker is given the whole journal each time: the next one will do
                if current is not None:
                    tracker.update(current)

    def _job(self) -> Job:
        return Job(
            spec=self.spec,
            folder=str(self.folder.path),
            bundle=self.bundle.to_bytes(),
            dataset=self.dataset,
            checkpoints=_prefix(self.spec.name, self.run) if self.on_objects else str(self.folder_of_run),
            on_objects=self.on_objects,
            connection=self.restricted,
            patience_s=patience_seconds(),
        )

    def _tracker(self) -> Tracker | None:
        if self.connection is None or not self.connection.tracking_uri:
            return None
        dataset, train = self.dataset, self.spec.train
        record = RunRecord(
            experiment=self.spec.name,
            run=self.run,
            parameters={
                **train.parameters,
                "seed": train.seed,
                "workers": train.workers.count,
                "selection_fraction": self.spec.data.selection_fraction,
                "train_examples": len(dataset.train),
                "selection_examples": len(dataset.selection),
            },
            tags={
                "modelport.model": self.spec.name,
                "modelport.run_key": self.key,
                "modelport.code_digest": self.bundle.digest,
                "modelport.data_digest": dataset.digest,
                "modelport.heldout_digest": dataset.heldout_digest or "",
            },
            artifacts={
                "code/bundle.tar.gz": self.bundle.to_bytes(),
                "data/manifest.json": dataset.manifest.content,
                "data/splits.json": json.dumps(
                    {"train": dataset.train.ids, "selection": dataset.selection.ids}, indent=1
                ).encode(),
                "environment/versions.json": json.dumps(environment(), indent=1).encode(),
                "environment/requirements.txt": requirements().encode(),
                "model.json": self.spec.model_dump_json(indent=1).encode(),
            },
        )
        return Tracker(self.connection, record, self.notes)

    def _tell_notes(self) -> None:
        while not self.notes.empty():
            self.tell(Note(self.notes.get()))


_TRACEBACK_FILE = "error.txt"


def _save_traceback(logs: Path, text: str) -> None:
    logs.mkdir(parents=True, exist_ok=True)
    (logs / _TRACEBACK_FILE).write_text(text)


def _prefix(model: str, run: str) -> str:
    return f"checkpoints/{model}/{run}"


def checkpoints_of(runs: Path, model: str, run: str, objects: ObjectStore | None) -> CheckpointStore:
    """Keeper of a run's checkpoints, on the object store where there is one."""
    if objects is None:
        return LocalCheckpoints(runs / run)
    return ObjectCheckpoints(objects, _prefix(model, run))


def find_run(
    runs: Path, model: str, key: str, objects: ObjectStore | None, again: bool, done: str | None = None
) -> tuple[str, CheckpointStore]:
    """Name and keeper of the run to do: the last one of this key, or a further one if `again` and it is finished.

    Runs up to `done` are finished, though their journals may have expired.
    """
    finished: tuple[str, CheckpointStore] | None = None
    number = 0
    while True:
        number += 1
        run = run_name(key, number)
        store = checkpoints_of(runs, model, run, objects)
        journal = store.read()
        expired = journal is None and done is not None and number <= run_number(done)
        if expired or (journal is not None and journal.finished):
            finished = run, store
        elif journal is None and finished is not None and not again:
            return finished
        else:
            return run, store


@contextmanager
def _only_one(runs: Path, key: str) -> Generator[None]:
    """Hold the lock of a run; it is freed when this process ends, however it ends."""
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / f".{key}.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise Conflict(
                f"the same training is running already (process {holder})",
                file=runs / key,
                remedy="wait for it, or train with other parameters: --set train.NAME=VALUE",
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
