"""Real services that tests of all rooms share; each is started once per session, and only when a test asks for it."""

import gc
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from modelport.connection import Connection, Role
from modelport.errors import Unavailable
from modelport.local import down, ports, s3, up
from modelport.local.layout import Layout
from modelport.local.mlflow import QUIET
from modelport.local.processes import marked
from tests.cluster.fixtures import control_plane
from tests.plain_http import HTTP

__all__ = ["control_plane"]

PROJECT = Path(__file__).resolve().parent.parent

# Torch's threads burn a core while they wait for each other; beside other tests that made them three times as slow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# As on the command line; here more is imported than anywhere.
gc.set_threshold(100_000)

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would everything that they start and
# then interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TOGETHER = (
    ("whole",),
    ("training", "models", "scaffold", "end_to_end"),
    ("infra",),
    ("engine", "examples", "cluster", "remote"),
    ("serving", "page"),
    ("release", "promotion"),
    ("local",),
    ("learning",),
    ("loadtest",),
)
"""Folders of tests that run one after the other where several processes share the work, the longest first.

Two trainings at once on two cores take each other's time until something gives up; and what shares a service that takes
long to start is to start it once. All others are by file, and quick, so that no process is left with much when the rest
is done.
"""


def together(nodeid: str) -> tuple[int, str]:
    """Place in `TOGETHER`, and name, of what a test runs one after the other with: its folder's, or else its file."""
    file = nodeid.partition("::")[0]
    folder = file.removeprefix("tests/").partition("/")[0]
    place = next((place for place, folders in enumerate(TOGETHER) if folder in folders), None)
    return (len(TOGETHER), file) if place is None else (place, TOGETHER[place][0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; otherwise as they stand."""
    items.sort(key=lambda item: together(item.nodeid)[0])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A session's services end with the tests of `TOGETHER` that wanted them.

    Until the session ends they would take a twentieth of a core, each of them, and pytest has no scope in between.
    """
    place, group = together(item.nodeid)
    if place < len(TOGETHER) and nextitem is not None and together(nextitem.nodeid)[1] != group:
        item.session._setupstate.teardown_exact(None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where `MODELPORT_NO_SKIPS` is set, a test that could not run has failed: in CI nobody reads why it did not."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("MODELPORT_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("tests were skipped, and MODELPORT_NO_SKIPS is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class Together(LoadScopeScheduling):
    """Gives a process all tests that run one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid)[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    """What `-n` shares the work with."""
    config.option.loadscopereorder = False
    return Together(config, log)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets: ``$MODELPORT_DATA``, or ``shared/data`` beside the project."""
    named = os.environ.get("MODELPORT_DATA")
    folder = Path(named) if named else PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MODELPORT_DATA to the folder that holds kvasir_seg/")
    return folder


@pytest.fixture
def no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without torch's cache of weights and without a way to fill it."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)


@pytest.fixture(scope="session")
def s3_connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A connection to a real SeaweedFS with the platform's identities and rights; nothing else is running.

    Rights hold for reading, writing and listing alike (see `modelport.local.s3`). Tests share the bucket: use model and
    data set names of your own.
    """
    folder = tmp_path_factory.mktemp("s3")
    (folder / "data").mkdir()
    keys = s3.new_keys()
    s3.write_config(folder / "identities.json", keys, "modelport")
    port, *internal = ports.free_ports(1 + len(s3.INTERNAL_PORTS))
    endpoint = f"http://127.0.0.1:{port}"
    command = s3.command(
        s3.weed_program(),
        folder / "data",
        folder / "identities.json",
        port,
        dict(zip(s3.INTERNAL_PORTS, internal, strict=True)),
    )
    log = folder / "s3.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **s3.environment(secrets.token_hex(16))}
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                s3.prepare(endpoint, keys[s3.Identity.ADMIN], "modelport")
                break
            except Unavailable as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    pytest.fail(f"SeaweedFS did not start: {error}\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.2)
        yield Connection(
            s3_endpoint=endpoint,
            s3_keys={role: keys[s3.Identity(role.value)] for role in Role},
            tracking_uri="",
        )
    finally:
        # It survives a kill without losing what it acknowledged; a graceful stop of its filer takes 15 s.
        process.kill()
        process.wait(timeout=10)
        s3.remove_sockets((port, *internal))


@pytest.fixture(scope="session")
def platform_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State folder of `platform`."""
    return tmp_path_factory.mktemp("platform") / "state"


@pytest.fixture(scope="session")
def platform(platform_state: Path) -> Iterator[Connection]:
    """The whole local platform: S3, MLflow, Triton, agent, gateway; the connection holds every role.

    Tests share it, and leave it running: who kills services starts a platform of his own.
    """
    try:
        yield up(PROJECT, state=platform_state)
    finally:
        down(PROJECT, state=platform_state)
        assert not marked(Layout.of(PROJECT, platform_state).state_id), "`down` left processes"


@pytest.fixture(scope="session")
def tracked_connection(s3_connection: Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """`s3_connection` with a real MLflow server, without logins; what is needed from training to promotion."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = ports.free_ports(1)[0]
    command = [
        *(sys.executable, "-P", "-m", "mlflow", "server", f"--backend-store-uri=sqlite:///{folder}/mlflow.db"),
        *(f"--artifacts-destination={folder}/artifacts", "--host=127.0.0.1", f"--port={port}", "--workers=1"),
    ]
    log = folder / "mlflow.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **QUIET}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                HTTP.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.HTTPError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    pytest.fail(f"MLflow did not start: {error}\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.2)
        yield s3_connection.model_copy(update={"tracking_uri": f"http://127.0.0.1:{port}"})
    finally:
        # The server forks its worker; both are in the session that was started for them.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
