"""The whole local platform: real processes, started, killed, found again and stopped."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from modelport.cli.local import local
from modelport.connection import Connection, Role
from modelport.errors import BadInput, Refused, Unavailable
from modelport.local import Health, ServiceStatus, down, logs, status, up
from modelport.local import state as folder
from modelport.local.layout import Layout
from modelport.local.processes import SUPERVISOR, marked
from modelport.local.services import NAMES, connection
from modelport.local.settings import Settings
from modelport.objects import ObjectStore
from tests.plain_http import HTTP

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    # A folder that is too deep for a UNIX socket.
    return Layout(tmp_path_factory.mktemp("own") / ("deep" * 20) / "state with spaces")


@pytest.fixture(scope="module")
def starts(layout: Layout) -> Iterator[list[subprocess.CompletedProcess[str]]]:
    """What two `modelport local up` said that were started at the same moment."""
    command = [sys.executable, "-m", "modelport", "local", "up"]
    environment = {**os.environ, "MODELPORT_PROJECT": str(PROJECT), "MODELPORT_STATE": str(layout.state)}

    def start(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)

    try:
        with ThreadPoolExecutor(2) as pool:
            yield list(pool.map(start, range(2)))
    finally:
        down(PROJECT, state=layout.state)
        assert not marked(layout.state_id), "`down` left processes"


@pytest.fixture
def own(layout: Layout, starts: list[subprocess.CompletedProcess[str]]) -> Connection:
    """A platform that these tests may break, in the order of this file."""
    settings = Settings.load(layout.settings)
    assert settings is not None
    return connection(settings)


def look(layout: Layout) -> dict[str, ServiceStatus]:
    return {row.name: row for row in status(PROJECT, state=layout.state)}


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.2)


def all_ready(layout: Layout) -> bool:
    return all(row.state is Health.READY for row in look(layout).values())


# --- a platform that runs ---------------------------------------------------------------------------------------------


def test_of_two_ups_at_once_one_starts_and_the_other_finds_it(
    layout: Layout, starts: list[subprocess.CompletedProcess[str]]
) -> None:
    assert [done.returncode for done in starts] == [0, 0], [done.stderr for done in starts]
    assert starts[0].stdout == starts[1].stdout
    assert Connection.load(layout.connection).gateway_url in starts[0].stdout
    assert sorted("found running" in done.stderr for done in starts) == [False, True]
    assert any("waiting for it" in done.stderr for done in starts)
    assert list(look(layout)) == list(NAMES)
    assert all_ready(layout)


def test_every_service_is_on_this_machine_only_and_asks_who_is_calling(layout: Layout, own: Connection) -> None:
    listening = {
        socket_.laddr.ip.removeprefix("::ffff:")  # gRPC listens on both kinds of socket
        for process in marked(layout.state_id)
        for socket_ in process.net_connections(kind="tcp")
        if socket_.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    question = f"{own.tracking_uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert HTTP.get(question).status_code == 401
    assert HTTP.get(question, auth=(own.tracking_username or "", own.tracking_password or "")).status_code == 200
    assert HTTP.post(f"http://{own.triton_http}/v2/repository/models/x/load").status_code == 403
    assert HTTP.get(f"{own.gateway_url}/v1/models").status_code == 401
    assert HTTP.get(f"{own.gateway_url}/v1/models", headers={"X-API-Key": own.gateway_api_key or ""}).status_code == 200
    with pytest.raises(Refused):
        ObjectStore.connect(own, Role.TRAINER).put("releases/forged", b"")


def test_mlflow_keeps_artifacts_on_the_object_store(own: Connection, tmp_path: Path) -> None:
    script = (
        "import mlflow, pathlib\n"
        "mlflow.set_experiment('platform-test')\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_text('kept', 'note.txt')\n"
        "print(mlflow.artifacts.load_text(run.info.artifact_uri + '/note.txt'), run.info.artifact_uri)\n"
    )
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": own.tracking_uri,
        "MLFLOW_TRACKING_USERNAME": own.tracking_username or "",
        "MLFLOW_TRACKING_PASSWORD": own.tracking_password or "",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "kept mlflow-artifacts:" in done.stdout


def test_secrets_are_in_private_files_and_servers_hold_only_their_own(layout: Layout, own: Connection) -> None:
    assert stat.S_IMODE(layout.state.stat().st_mode) == 0o700
    values = [*(key.secret_key for key in own.s3_keys.values()), own.tracking_password, own.triton_admin_key]
    secrets = [value.encode() for value in (*values, own.gateway_api_key) if value]
    for file in layout.state.rglob("*"):
        if file.is_file() and any(secret in file.read_bytes() for secret in secrets):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert not any(secret in log.read_bytes() for log in layout.logs.iterdir() for secret in secrets)
    agent, gateway = (Connection.load(layout.connection_of(name)) for name in ("agent", "gateway"))
    assert set(agent.s3_keys) == set(gateway.s3_keys) == {Role.SERVER}
    assert agent.tracking_password is None
    assert agent.triton_admin_key == own.triton_admin_key
    assert gateway.triton_admin_key is None
    assert json.loads(layout.gateway_keys.read_text()).keys() == {"local"}
    assert (own.gateway_api_key or "?") not in layout.gateway_keys.read_text()


def test_a_second_up_finds_the_first_quickly(layout: Layout, own: Connection) -> None:
    before = {name: row.pid for name, row in look(layout).items()}
    started = time.monotonic()
    assert up(PROJECT, {"s3": int(own.s3_endpoint.rpartition(":")[2])}, state=layout.state) == own
    assert time.monotonic() - started < 5
    assert {name: row.pid for name, row in look(layout).items()} == before
    with pytest.raises(BadInput, match="runs already, with gateway on port"):
        up(PROJECT, {"gateway": 29999}, state=layout.state)


def test_status_and_logs_on_the_command_line(layout: Layout, own: Connection) -> None:
    environment = {"MODELPORT_PROJECT": str(PROJECT), "MODELPORT_STATE": str(layout.state)}
    table = CliRunner().invoke(local, ["status"], env=environment)
    assert table.exit_code == 0, table.output
    assert own.gateway_url in table.output
    rows = json.loads(CliRunner().invoke(local, ["status", "--json"], env=environment).output)
    assert [row["state"] for row in rows] == ["ready"] * len(NAMES)
    assert all(row["pid"] and row["memory_bytes"] > 1e6 and row["uptime_seconds"] > 0 for row in rows)
    lines = CliRunner().invoke(local, ["logs", "triton", "--lines", "1000"], env=environment).output
    assert "Started HTTPService at 127.0.0.1" in lines
    with pytest.raises(BadInput, match="no service 'postgres'"):
        next(logs(PROJECT, ["postgres"], state=layout.state))


@pytest.mark.timeout(60)
def test_following_a_log_shows_what_comes(layout: Layout, own: Connection) -> None:
    following = logs(PROJECT, ["mlflow"], lines=1, follow=True, state=layout.state)
    assert next(following)[0] == "mlflow"  # it is at the end now
    HTTP.get(f"{own.tracking_uri}/no-such-page")
    assert any("/no-such-page" in line for _, line in following)


# --- a platform that is broken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s3", "mlflow", "triton"])
def test_a_killed_service_is_seen_and_restarted(layout: Layout, own: Connection, name: str) -> None:
    """MLflow's worker survives its parent and holds the port: the restart has to clear it."""
    store = ObjectStore.connect(own, Role.PROMOTER)
    if name == "s3":
        for number in range(50):
            store.put(f"releases/kept/{number}", b"kept" * number)
    before = look(layout)[name]
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    wait_for(f"{name} counted as restarted", lambda: look(layout)[name].restarts == before.restarts + 1)
    wait_for("all services ready again", lambda: all_ready(layout))
    after = look(layout)[name]
    assert "SIGKILL" in after.last_exit
    assert after.pid != before.pid
    assert after.url == before.url
    if name == "s3":
        up(PROJECT, state=layout.state)  # waits until it can be written again
        assert [store.get(f"releases/kept/{number}") for number in range(50)] == [b"kept" * n for n in range(50)]


def test_orphans_of_a_killed_supervisor_are_seen_and_cleaned(layout: Layout, own: Connection) -> None:
    """As after a crash of the machine's session: nobody supervises, the ports are held."""
    (supervisor,) = marked(layout.state_id, SUPERVISOR)
    supervisor.kill()
    supervisor.wait(10)
    orphans = look(layout)
    # Some end by themselves when they find that nobody reads what they print.
    assert {row.state for row in orphans.values()} <= {Health.ORPHANED, Health.STOPPED}
    assert orphans["s3"].state is Health.ORPHANED
    said: list[str] = []
    assert up(PROJECT, state=layout.state, say=said.append) == own, "ports and keys stay"
    assert any("left behind" in line for line in said)
    assert all_ready(layout)
    assert {row.pid for row in look(layout).values()}.isdisjoint(row.pid for row in orphans.values() if row.pid)
    assert ObjectStore.connect(own, Role.SERVER).get("releases/kept/7") == b"kept" * 7


def test_a_service_that_cannot_start_takes_everything_down_with_a_reason(layout: Layout, own: Connection) -> None:
    down(PROJECT, state=layout.state)
    assert not marked(layout.state_id)
    assert {row.state for row in look(layout).values()} == {Health.STOPPED}
    with pytest.raises(Unavailable, match="no platform"):
        Connection.load(layout.connection)
    assert not list(Path("/dev/shm").glob(f"*{layout.state_id}*"))
    database = layout.data_of("mlflow") / "mlflow.db"
    good = database.read_bytes()
    database.write_bytes(b"this is not a database" * 100)
    with pytest.raises(Unavailable, match=r"mlflow does not start.*") as failure:
        up(PROJECT, state=layout.state)
    assert "file is not a database" in str(failure.value)
    assert not marked(layout.state_id)
    database.write_bytes(good)


def test_a_port_in_use_is_named_and_nothing_is_started(layout: Layout, own: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port}, wished for gateway, is in use") as refusal:
            up(PROJECT, {"gateway": port}, state=layout.state)
    assert f"--port gateway={port}" in str(refusal.value)
    assert not marked(layout.state_id)


def test_a_remembered_port_that_was_taken_is_replaced(layout: Layout, own: Connection) -> None:
    """The data, the keys and the other ports stay."""
    port = int(own.gateway_url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        again = up(PROJECT, state=layout.state)
    assert again.gateway_url != own.gateway_url
    assert again.model_copy(update={"gateway_url": own.gateway_url}) == own
    assert ObjectStore.connect(again, Role.SERVER).get("releases/kept/49") == b"kept" * 49


def test_down_and_delete_leave_nothing(layout: Layout, own: Connection) -> None:
    ports = json.loads(layout.settings.read_text())["ports"].values()
    down(PROJECT, state=layout.state, delete=True)
    assert not marked(layout.state_id)
    assert not layout.state.exists()
    assert not layout.socket.parent.exists()
    assert not [left for port in ports for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]
    down(PROJECT, state=layout.state)  # a second time is no error


# --- before anything starts -------------------------------------------------------------------------------------------


def test_an_unusable_state_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot be kept: .*\n.*MODELPORT_STATE") as refusal:
        up(PROJECT, state=tmp_path / "file" / "state")
    assert str(tmp_path / "file") in str(refusal.value)


def test_too_little_room_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "FREE_BYTES", 2**60)
    layout = Layout(tmp_path / "state")
    with pytest.raises(BadInput, match="MiB are free on this disk"):
        up(PROJECT, state=layout.state)
    assert not marked(layout.state_id)


def test_damaged_settings_are_named_and_can_be_deleted(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    layout.supervisor.mkdir(parents=True)
    layout.settings.write_text('{"ports": {')
    with pytest.raises(BadInput, match=r"platform\.json: is damaged") as refusal:
        up(PROJECT, state=layout.state)
    assert "down --delete" in str(refusal.value)
    down(PROJECT, state=layout.state, delete=True)
    assert not layout.state.exists()


def test_delete_refuses_a_folder_that_is_no_platform(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="not a platform's state"):
        down(PROJECT, state=tmp_path, delete=True)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"redis": 6379}, "no port named 'redis'"),
        ({"s3": 70000}, "70000 is no port"),
        ({"s3": 9000, "gateway": 9000}, "cannot share port 9000"),
    ],
)
def test_impossible_ports_are_refused(tmp_path: Path, arguments: dict[str, int], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        up(PROJECT, arguments, state=tmp_path / "state")
    assert not (tmp_path / "state").exists()
