"""A tiny project, a program that trains it, and services that a test may kill."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from modelport.connection import Connection, Role
from modelport.contract import find_model
from modelport.errors import Unavailable
from modelport.local import ports, s3
from modelport.local.mlflow import QUIET
from modelport.training import TrainingResult
from tests.training.in_process import train_here

sys.path.insert(0, str(Path(__file__).parent))

from tiny_project import write_dataset, write_driver, write_project

from tests.plain_http import HTTP

DEADLINE_S = 150


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.02)


@dataclass
class Program:
    """A training in a process of its own."""

    process: "subprocess.Popen[bytes]"
    log: Path
    out: Path

    @property
    def told(self) -> str:
        return self.log.read_text()

    def tree(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def worker(self) -> psutil.Process:
        return next(process for process in self.tree() if "RayTrainWorker" in " ".join(process.cmdline()))

    def ends(self, code: int) -> None:
        try:
            found = self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the training did not end:\n{self.told}")
        assert found == code, self.told

    def result(self) -> dict[str, Any]:
        self.ends(0)
        return json.loads(self.out.read_text().splitlines()[-1])


@dataclass
class Tiny:
    """A project with one model, its dataset, and everything that its trainings keep."""

    root: Path
    data: Path
    driver: Path
    programs: list[Program] = field(default_factory=list)

    def start(self, **options: Any) -> Program:
        number = len(self.programs)
        log, out = self.root / f"{number}.log", self.root / f"{number}.out"
        arguments = {"root": str(self.root), "data": str(self.data), **options}
        environment = {**os.environ, "MODELPORT_PATIENCE_S": "2"}
        environment.pop("MODELPORT_STATE", None)
        with log.open("wb") as errors, out.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(self.driver), json.dumps(arguments)], stdout=output, stderr=errors, env=environment
            )
        self.programs.append(Program(process, log, out))
        return self.programs[-1]

    def journal(self) -> dict[str, Any]:
        """The newest run's journal, as it lies on disk."""
        files = sorted(self.root.glob(".modelport/runs/tiny/*/journal.json"), key=lambda file: file.stat().st_mtime)
        return json.loads(files[-1].read_text()) if files else {"epochs": []}

    def reached(self, epochs: int, program: Program | None = None) -> None:
        program = program or self.programs[-1]
        wait_for(
            lambda: len(self.journal()["epochs"]) >= epochs or program.process.poll() is not None, f"{epochs} epochs"
        )
        assert program.process.poll() is None, program.told


def make_tiny(folder: Path) -> Tiny:
    return Tiny(write_project(folder / "project"), write_dataset(folder / "dataset"), write_driver(folder))


def end(tiny: Tiny) -> None:
    for program in tiny.programs:
        if program.process.poll() is None:
            for process in program.tree():
                process.kill()
            program.process.wait(10)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Tiny]:
    """A project of the test's own."""
    made = make_tiny(tmp_path)
    yield made
    end(made)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A training that nothing happened to, on one worker, without Ray: the measure of the others."""
    made = make_tiny(tmp_path_factory.mktemp("uninterrupted"))
    return train_here(find_model("tiny", made.root), made.data)


@dataclass
class Service:
    """A real server that can be killed and started again on the same port with the same data."""

    command: list[str]
    log: Path
    answers: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                self.command, stdout=stream, stderr=stream, env={**os.environ, **self.environment}
            )
        wait_for(self.answers, f"{self.command[0]}; see {self.log}", 60)

    def kill(self) -> None:
        if self.process is not None:
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                process.kill()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[tuple[Service, Connection]]:
    """An MLflow server, and a connection to it and to nothing else."""
    (port,) = ports.free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    folder = tmp_path / "mlflow"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]

    def answers() -> bool:
        try:
            return HTTP.get(f"{uri}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    service = Service(command, folder / "log", answers, QUIET)
    service.start()
    yield service, Connection(s3_endpoint="", tracking_uri=uri)
    service.kill()


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[tuple[Service, Connection]]:
    """A SeaweedFS, and a connection to it with every role."""
    folder = tmp_path / "s3"
    (folder / "data").mkdir(parents=True)
    keys = s3.new_keys()
    s3.write_config(folder / "identities.json", keys, "modelport")
    port, *internal = ports.free_ports(1 + len(s3.INTERNAL_PORTS))
    endpoint = f"http://127.0.0.1:{port}"
    named = dict(zip(s3.INTERNAL_PORTS, internal, strict=True))
    command = s3.command(s3.weed_program(), folder / "data", folder / "identities.json", port, named)

    def answers() -> bool:
        try:
            s3.prepare(endpoint, keys[s3.Identity.ADMIN], "modelport")
        except Unavailable:
            return False
        return True

    service = Service(command, folder / "log", answers, dict(s3.environment(secrets.token_hex(16))))
    service.start()
    yield (
        service,
        Connection(
            s3_endpoint=endpoint, s3_keys={role: keys[s3.Identity(role.value)] for role in Role}, tracking_uri=""
        ),
    )
    service.kill()
    s3.remove_sockets((port, *internal))
