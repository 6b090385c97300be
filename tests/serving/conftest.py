"""A real Triton and real agents and gateways over it, with releases small enough to build in milliseconds.

Triton is shared by the session: each test uses a model name, an agent and a gateway of its own.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from modelport.connection import Connection, Role
from modelport.local import ports, triton
from modelport.objects import ObjectStore
from modelport.release import ReleaseManifest
from modelport.serving import ReplicaState, hash_key, new_key
from modelport.serving.agent.triton import TritonServer
from modelport.serving.client import TritonRefused
from tests.plain_http import HTTP
from tests.serving import tiny_release as tiny
from tests.serving.waiting import until

ADMIN_KEY = "admin-key-of-these-tests"


@dataclass
class Process:
    """A process that a test may kill and start again."""

    command: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as stream:
            self.running = subprocess.Popen(
                self.command, stdout=stream, stderr=stream, env={**os.environ, **self.environment}
            )

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.running.wait(timeout=10)
            self.running = None

    def stop(self) -> int:
        assert self.running is not None
        self.running.terminate()
        try:
            return self.running.wait(timeout=30)
        finally:
            self.kill()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Agent:
    """A running `modelport agent`."""

    process: Process
    url: str
    pins: Path
    cache: Path

    def want(self, pins: Mapping[str, str]) -> None:
        """Pin these models, beside those that are pinned already."""
        try:
            before = json.loads(self.pins.read_text())
        except ValueError:
            before = {}
        temporary = self.pins.with_suffix(".new")
        temporary.write_text(json.dumps({**(before if isinstance(before, dict) else {}), **pins}))
        temporary.replace(self.pins)

    def state(self) -> ReplicaState:
        return ReplicaState.model_validate_json(self.get("/state").raise_for_status().content)

    def get(self, path: str) -> httpx.Response:
        return HTTP.get(f"{self.url}{path}")

    def serving(self, model: str, digest: str, seconds: float = 90.0) -> ReplicaState:
        """State once the alias serves this release."""

        def look() -> ReplicaState | None:
            state = self.state()
            now = state.models.get(model)
            return state if now is not None and now.serving == digest else None

        return until(look, f"{model} to serve {digest[:12]} ({self.process.said()[-800:]})", seconds)

    def error(self, model: str, part: str, seconds: float = 40.0) -> str:
        """The model's error once it holds `part`."""

        def look() -> str | None:
            now = self.state().models.get(model)
            return now.error if now is not None and now.error and part in now.error else None

        return until(look, f"an error of {model} with {part!r}", seconds)


@dataclass
class Gateway:
    """A running `modelport gateway`."""

    process: Process
    url: str
    key: str
    keys: Path
    spool: Path

    def predict(self, model: str, data: bytes, **query: Any) -> httpx.Response:
        return HTTP.post(
            f"{self.url}/v1/models/{model}/predict",
            files={"image": ("image", data)},
            headers={"X-API-Key": self.key},
            params=query,
            timeout=40,
        )

    def get(self, path: str) -> httpx.Response:
        return HTTP.get(f"{self.url}{path}", headers={"X-API-Key": self.key})


@dataclass
class Stand:
    """Object store and Triton, and what a test starts over them."""

    connection: Connection
    triton: Process
    folder: Path
    repository: Path
    client: TritonServer

    @property
    def store(self) -> ObjectStore:
        return ObjectStore.connect(self.connection, Role.PROMOTER)

    @property
    def server_store(self) -> ObjectStore:
        return ObjectStore.connect(self.connection, Role.SERVER)

    def publish(
        self, model: str, *, threshold: float = 0.5, flipped: bool = False, damage: str | None = None, **changes: bytes
    ) -> str:
        """Put a release where promoted ones lie; `damage` names a file whose last byte changes on the way."""
        files = tiny.release_files(model, threshold=threshold, flipped=flipped) | changes
        return self.put(tiny.manifest(model, files), files, damage=damage)

    def put(self, manifest: ReleaseManifest, files: Mapping[str, bytes], *, damage: str | None = None) -> str:
        """The same of a release that is made already."""
        for path, data in files.items():
            sent = data[:-1] + bytes([data[-1] ^ 1]) if path == damage else data
            self.store.put(f"releases/{manifest.digest}/{path}", sent)
        self.store.put(f"releases/{manifest.digest}/manifest.json", manifest.to_bytes())
        return manifest.digest

    def ask(self, name: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Mask that a Triton model gives, asked directly."""
        return self.client.infer(name, {"image": pixels})["mask"]

    def loaded(self, model: str) -> list[str]:
        """Triton names of a model that are ready, the alias too."""
        try:
            ready = self.client.ready()
        except TritonRefused:
            return []  # it looked into the repository at the moment in which a folder went
        return sorted(name for name in ready if name == model or name.startswith(f"{model}."))

    def away(self) -> Connection:
        """The same platform with an object store that does not answer."""
        return self.connection.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{ports.free_ports(1)[0]}"})

    def restart_triton(self) -> None:
        self.triton.kill()
        self.start_triton()

    def start_triton(self) -> None:
        self.triton.start()
        self.client.close()
        self.client = TritonServer(self.connection.triton_grpc, ADMIN_KEY)
        url = f"http://{self.connection.triton_http}/v2/health/ready"
        until(lambda: HTTP.get(url).status_code == 200, "Triton", 60)


@pytest.fixture(scope="session")
def stand(s3_connection: Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("serving")
    environment = triton.ensure_environment(Path(__file__).parents[2], print)
    triton.lay_out(environment, folder)
    names = ("triton-http", "triton-grpc", "triton-metrics")
    taken = dict(zip(names, ports.free_ports(len(names)), strict=True))
    state_id = f"tests{os.getpid()}"
    connection = s3_connection.model_copy(
        update={
            "triton_http": f"127.0.0.1:{taken['triton-http']}",
            "triton_grpc": f"127.0.0.1:{taken['triton-grpc']}",
            "triton_admin_key": ADMIN_KEY,
        }
    )
    server = Process(
        triton.command(environment, folder, taken, ADMIN_KEY, state_id),
        folder / "triton.log",
        triton.process_environment(environment),
    )
    client = TritonServer(connection.triton_grpc, ADMIN_KEY)
    made = Stand(connection, server, folder, folder / "repository", client)
    try:
        made.start_triton()
        yield made
    finally:
        server.kill()
        time.sleep(0.5)
        triton.remove_shared_memory(state_id)


class Starter:
    """Starts agents and gateways, and ends them."""

    def __init__(self, stand: Stand, folder: Path) -> None:
        self.stand = stand
        self.folder = folder
        self.processes: list[Process] = []

    def agent(
        self,
        *models: str,
        wait: bool = True,
        connection: Connection | None = None,
        source: str | None = None,
        cache: Path | None = None,
        grace: float = 1.5,
    ) -> Agent:
        """An agent for these models; it follows a file of pins unless `source` says otherwise."""
        number = len(self.processes)
        path = self.folder / f"connection{number}.json"
        (connection or self.stand.connection).restricted_to(Role.SERVER).save(path)
        pins = self.folder / f"pins{number}.json"
        pins.write_text("{}")
        cache = cache or self.folder / f"cache{number}"
        port = ports.free_ports(1)[0]
        command = [
            *(sys.executable, "-m", "modelport", "agent"),
            *("--repository", str(self.stand.repository), "--cache", str(cache)),
            *("--source", source or str(pins), "--listen", f"127.0.0.1:{port}", "--models", ",".join(models)),
            *("--interval", "0.2", "--grace", str(grace), "--replica", f"replica{number}"),
        ]
        process = self._started(command, f"agent{number}", path)
        agent = Agent(process, f"http://127.0.0.1:{port}", pins, cache)
        if wait:
            until(lambda: agent.get("/healthz").is_success, "the agent", 90)
        return agent

    def gateway(
        self,
        *agents: Agent,
        wait: bool = True,
        connection: Connection | None = None,
        spool: Path | None = None,
        **options: Any,
    ) -> Gateway:
        """A gateway over agents; `options` are those of the command."""
        number = len(self.processes)
        path = self.folder / f"connection{number}.json"
        own = (connection or self.stand.connection).restricted_to(Role.SERVER)
        urls = tuple(agent.url for agent in agents)
        own.model_copy(update={"agent_urls": urls, "triton_admin_key": None}).save(path)
        key = new_key()
        keys = self.folder / f"keys{number}.json"
        keys.write_text(json.dumps({"tester": hash_key(key)}))
        spool = spool or self.folder / f"spool{number}"
        port = ports.free_ports(1)[0]
        command = [*(sys.executable, "-m", "modelport", "gateway"), "--listen", f"127.0.0.1:{port}"]
        command += ["--keys", str(keys), "--spool", str(spool)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        process = self._started(command, f"gateway{number}", path)
        gateway = Gateway(process, f"http://127.0.0.1:{port}", key, keys, spool)
        if wait:
            until(lambda: gateway.get("/healthz").is_success, "the gateway", 90)
        return gateway

    def close(self) -> None:
        for process in self.processes:
            process.kill()

    def _started(self, command: list[str], name: str, connection: Path) -> Process:
        process = Process(command, self.folder / f"{name}.log", {"MODELPORT_CONNECTION": str(connection)})
        self.processes.append(process)
        process.start()
        return process


@pytest.fixture
def start(stand: Stand, tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(stand, tmp_path)
    yield starter
    starter.close()


@pytest.fixture(scope="class")
def agent(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for all tests of a class, which pin models of their own."""
    starter = Starter(stand, tmp_path_factory.mktemp("agent"))
    yield starter.agent()
    starter.close()


@dataclass
class Served:
    """A model that is served through a gateway, for the tests that only ask."""

    model: str
    digest: str
    threshold: float
    agent: Agent
    gateway: Gateway


@pytest.fixture(scope="module")
def served(stand: Stand, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    starter = Starter(stand, tmp_path_factory.mktemp("served"))
    model = f"served_{request.module.__name__.rpartition('.')[2].removeprefix('test_')}"
    digest = stand.publish(model)
    agent = starter.agent(model)
    agent.want({model: digest})
    gateway = starter.gateway(agent, max_megabytes=1, record_seconds=1)
    agent.serving(model, digest)
    until(lambda: gateway.get("/readyz").is_success, "the gateway to be ready")
    yield Served(model, digest, 0.5, agent, gateway)
    starter.close()
