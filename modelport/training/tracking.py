"""The record of a run in MLflow. The journal on disk is the truth; this sends what MLflow does not have yet.

MLflow may be away for a while or for good: training goes on, and what could not be sent is sent later, at the next
epoch, at the end, or when the same command is run again. Sending twice changes nothing there.
"""

import os
import queue
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelport.connection import Connection
from modelport.errors import Unavailable
from modelport.training.journal import Journal

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "modelport.run"
RETRY_INTERVAL_S = 10.0
_METRICS_PER_CALL = 500
_NOT_TRIED = "it was not reached in time"


@dataclass(frozen=True)
class RunRecord:
    """What does not change while a run trains."""

    experiment: str
    """The model's name."""
    run: str
    """Name of the run, unique in the experiment."""
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    artifacts: Mapping[str, bytes]
    """Files by path."""


class Tracker:
    """Sends a run's record in a thread of its own, so that a slow or absent MLflow never holds up the training."""

    def __init__(self, connection: Connection, record: RunRecord, notes: "queue.SimpleQueue[str]") -> None:
        """Begin; remarks for the user are put into `notes`."""
        connection.configure_tracking()
        # What the user should see of MLflow is ours to print.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._uri = connection.tracking_uri
        self._record = record
        self._notes = notes
        self._run_id = ""
        self._experiment_id = ""
        self._described = False
        self._kept = False
        self._sent = 0
        self._attempt = -1
        self._status: str | None = None
        self._journal: Journal | None = None
        self._away = False
        self._problem = _NOT_TRIED
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._done = threading.Event()
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty while MLflow has not been reached."""
        return self._run_id

    @property
    def url(self) -> str:
        """Page of the run; that of the server while MLflow has not been reached."""
        page = f"/#/experiments/{self._experiment_id}/runs/{self._run_id}" if self._run_id else ""
        return self._uri + page

    def update(self, journal: Journal) -> None:
        """Take note of how far the run is. Returns at once."""
        with self._lock:
            self._journal = journal
        self._wake.set()

    def finish(self, status: str, timeout_s: float = 60) -> bool:
        """Send what is left and the status (FINISHED, FAILED, KILLED); whether MLflow has all of it now."""
        with self._lock:
            self._status = status
        self._wake.set()
        complete = self._done.wait(timeout_s)
        if not complete:
            self._notes.put(
                f"MLflow at {self._uri} does not have all of this run ({self._problem}); nothing is lost: "
                "run the same command again when it answers"
            )
        return complete

    def _work(self) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        client = MlflowClient(self._uri)
        while not self._done.is_set():
            self._wake.wait(RETRY_INTERVAL_S if self._away else None)
            self._wake.clear()
            with self._lock:
                journal, status = self._journal, self._status
            if journal is None:
                continue
            try:
                self._send(client, journal, status)
            except (MlflowException, RequestException, OSError) as error:
                self._problem = str(error).splitlines()[0][:300]
                if not self._away:
                    self._notes.put(f"MLflow does not take the record of this run; training goes on ({self._problem})")
                self._away = True
                if status is not None:
                    time.sleep(1)
                    self._wake.set()
                continue
            if self._away:
                self._away = False
                self._notes.put("MLflow answers again, and has what it missed")
            if status is not None:
                self._done.set()

    def _send(self, client: "MlflowClient", journal: Journal, status: str | None) -> None:
        from mlflow.entities import Metric

        if not self._run_id:
            self._run_id = self._find_or_create(client)
        if journal.attempt != self._attempt:
            client.update_run(self._run_id, status="RUNNING")
            client.set_tag(self._run_id, "modelport.attempts", str(journal.attempt))
            self._attempt = journal.attempt
        if not self._described:
            self._describe(client)
            self._described = True
        metrics = [
            Metric(name, value, record.time_ms, record.epoch)
            for record in journal.epochs[self._sent :]
            for name, value in {**record.metrics, "epoch_seconds": record.seconds}.items()
        ]
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
        self._sent = len(journal.epochs)
        if not self._kept:
            # Last, since files need the object store as well, which metrics do not.
            _keep(client, self._run_id, self._record.artifacts)
            self._kept = True
        if status is not None:
            if journal.best is not None:
                client.set_tag(self._run_id, "modelport.best_epoch", str(journal.best.epoch))
            client.set_terminated(self._run_id, status)

    def _find_or_create(self, client: "MlflowClient") -> str:
        """The run of this name: a resumed training goes on in the MLflow run that it began."""
        from mlflow.exceptions import MlflowException

        name = self._record.experiment
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                experiment_id = client.create_experiment(name)
            except MlflowException:
                experiment = client.get_experiment_by_name(name)  # somebody else made it at the same time
                if experiment is None:
                    raise
                experiment_id = experiment.experiment_id
        else:
            experiment_id = experiment.experiment_id
        self._experiment_id = experiment_id
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{self._record.run}'", max_results=1)
        if found:
            return found[0].info.run_id
        tags = {RUN_TAG: self._record.run, **self._record.tags}
        return client.create_run(experiment_id, tags=tags, run_name=self._record.run).info.run_id

    def _describe(self, client: "MlflowClient") -> None:
        from mlflow.entities import Param

        parameters = [Param(name, str(value)) for name, value in self._record.parameters.items()]
        client.log_batch(self._run_id, params=parameters)


def log_picture(connection: Connection, run_id: str, name: str, png: bytes) -> None:
    """Keep a picture with an MLflow run, as ``pictures/<name>.png``.

    Raises:
        Unavailable: MLflow or its store is away.
    """
    connection.configure_tracking()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        _keep(MlflowClient(connection.tracking_uri), run_id, {f"pictures/{name}.png": png})
    except (MlflowException, RequestException, OSError) as error:
        raise Unavailable(
            f"MLflow did not take the picture {name!r}: {error}", file=connection.tracking_uri, remedy="run it again"
        ) from error


def _keep(client: "MlflowClient", run_id: str, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
        for path, content in files.items():
            file = Path(folder) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        client.log_artifacts(run_id, folder)
