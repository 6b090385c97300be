"""The agent's process: a worker per model, the look at the source, heartbeats, and what it says over HTTP."""

import fcntl
import logging
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelport.connection import Connection, Role
from modelport.errors import BadInput, Conflict, ModelportError
from modelport.objects import ObjectStore
from modelport.serving.agent.heartbeat import Heart
from modelport.serving.agent.metrics import AgentMetrics
from modelport.serving.agent.releases import ReleaseCache
from modelport.serving.agent.repository import Repository
from modelport.serving.agent.source import FileSource, LogSource, Source
from modelport.serving.agent.triton import TritonServer
from modelport.serving.agent.worker import ModelWorker, Pace
from modelport.serving.http import serve
from modelport.serving.state import ModelState, ReplicaState

log = logging.getLogger("modelport.agent")


@dataclass(frozen=True)
class AgentSettings:
    """What an agent is told."""

    repository: Path
    """Triton's model repository; this agent alone writes to it."""
    cache: Path | None = None
    """Folder of verified releases; None puts it beside the repository, as ``<repository>.cache``."""
    models: tuple[str, ...] = ()
    """Models to serve; none means every model that the source knows (those of the file, and no others)."""
    pins: Path | None = None
    """File of what to serve (see `FileSource`); None follows the promotion logs."""
    replica: str = ""
    """Name of this replica; empty takes the machine's."""
    gpu: bool = False
    """Whether steps run on the replica's GPU."""
    pace: Pace = field(default_factory=Pace)

    @property
    def cache_folder(self) -> Path:
        """Where verified releases lie."""
        return self.cache or self.repository.with_name(f"{self.repository.name}.cache")


class Agent:
    """Makes one Triton serve the desired version of every model."""

    def __init__(self, settings: AgentSettings, connection: Connection) -> None:
        if not connection.triton_grpc:
            raise BadInput("names no Triton", key="triton_grpc", remedy="set it in the connection file")
        self._settings = settings
        self._store = ObjectStore.connect(connection, Role.SERVER)
        self._triton = TritonServer(connection.triton_grpc, connection.triton_admin_key)
        self._source: Source = (
            LogSource(self._store, settings.models)
            if settings.pins is None
            else FileSource(settings.pins, self._store, settings.models)
        )
        self.metrics = AgentMetrics()
        self._replica = settings.replica or socket.gethostname()
        self._workers: dict[str, ModelWorker] = {}
        self._was_ready = False
        self._asked = False
        self._source_error: str | None = None
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._watch_source, name="agent-source", daemon=True)
        self._heart = Heart(self._replica, self._store, self._states, self.metrics)
        self._lock: int | None = None

    def start(self) -> None:
        """Begin with what was served last, before the source is asked.

        Raises:
            Conflict: another agent has this repository.
        """
        folder = self._settings.cache_folder
        folder.mkdir(parents=True, exist_ok=True)
        self._settings.repository.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder / "lock")
        for model in {path.parent.name for path in folder.glob("*/serving.json")}:
            if not self._settings.models or model in self._settings.models:
                self._worker(model)
        self._watch.start()
        self._heart.start()

    def stop(self) -> None:
        """End. Triton goes on serving what it has."""
        self._stop.set()
        self._watch.join(5)
        for worker in self._workers.values():
            worker.stop(5)
        self._heart.stop(1)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def state(self) -> ReplicaState:
        """What is so now."""
        workers = dict(self._workers)
        models = {model: worker.state for model, worker in sorted(workers.items())}
        settled = not any(worker.holds_up for worker in workers.values())
        # That there is nothing to serve is known only where the source was read: else a new replica would be ready with
        # nothing, and the last one that serves be ended for it.
        error = self._source_error
        idle = error is None and all(state.desired is None for state in models.values())
        useful = any(state.serving for state in models.values()) or idle
        ready = self._asked and settled and useful
        return ReplicaState(replica=self._replica, ready=ready, models=models, source_error=error)

    def _states(self) -> Mapping[str, ModelState]:
        return self.state().models

    def _worker(self, model: str) -> ModelWorker:
        if model in self._workers and self._workers[model].stopped:
            self._retire(model)  # it came back before all of it was gone
        if model not in self._workers:
            settings = self._settings
            repository = Repository(settings.repository, model)
            repository.clean()
            worker = ModelWorker(
                model,
                triton=self._triton,
                repository=repository,
                cache=ReleaseCache(settings.cache_folder, model, self._store),
                metrics=self.metrics,
                pace=settings.pace,
                gpu=settings.gpu,
                newcomer=self._was_ready,
            )
            worker.start()
            self._workers = {**self._workers, model: worker}
        return self._workers[model]

    def _watch_source(self) -> None:
        while not self._stop.is_set():
            try:
                reading = self._source.read()
                for model, version in reading.versions.items():
                    self._worker(model).want(version)
                if reading.models is not None:
                    for model in self._workers.keys() - reading.models:
                        self._retire(model)
                if reading.problem:
                    self._lament(reading.problem)
                else:
                    self._source_error = None
            except ModelportError as error:
                self._lament(error.message)
            except Exception as error:
                log.exception("unexpected failure of the source")
                self._lament(f"unexpected failure: {error!r}")
            self._asked = True
            self._was_ready = self._was_ready or self.state().ready
            self._stop.wait(self._settings.pace.interval)

    def _retire(self, model: str) -> None:
        """Take a model away that this replica is no longer to serve; what fails is tried at the next look."""
        self._workers[model].retire()
        self._workers = {name: worker for name, worker in self._workers.items() if name != model}

    def _lament(self, message: str) -> None:
        self.metrics.source_failures.inc()
        if message != self._source_error:
            log.error("desired versions cannot be followed: %s", message)
        self._source_error = message


def create_app(agent: Agent) -> Any:
    """The agent's HTTP side: ``/healthz``, ``/readyz``, ``/state``, ``/metrics``. It carries no secrets."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def readyz(_: Request) -> Response:
        state = agent.state()
        errors = {model: m.error for model, m in state.models.items() if m.error}
        answer = {"ready": state.ready, "errors": errors, "source_error": state.source_error}
        return JSONResponse(answer, status_code=200 if state.ready else 503)

    def state(_: Request) -> Response:
        return Response(agent.state().model_dump_json(), media_type="application/json")

    def metrics(_: Request) -> Response:
        return Response(generate_latest(agent.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    routes = [Route(f"/{handler.__name__}", handler) for handler in (healthz, readyz, state, metrics)]
    return Starlette(routes=routes)


def run_agent(settings: AgentSettings, connection: Connection, host: str, port: int) -> None:
    """Run until a signal ends it.

    Raises:
        Conflict: another agent has this repository.
    """
    agent = Agent(settings, connection)
    agent.start()
    try:
        serve(create_app(agent), host, port)
    finally:
        agent.stop()


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Conflict(
            "another agent has this model repository", file=path, remedy="stop it, or give this one another repository"
        ) from None
    return descriptor
