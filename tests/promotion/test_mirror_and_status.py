"""What people see: MLflow as a mirror, the table of versions, and what differs from what it should be."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from modelport.connection import Role
from modelport.errors import BadInput, GateFailed, Unavailable
from modelport.imaging import encode_png
from modelport.objects import ObjectStore
from modelport.promotion import Pins, desired, read_log, rollback, status, versions
from modelport.promotion.numbering import note_numbers, numbers_key, read_numbers
from modelport.serving.predicting import Via, asking
from tests.promotion.promotion_bench import BAD, CLOSE, GOOD, Bench
from tests.serving import tiny_release as tiny


def beat(bench: Bench, serving: str | None, *, replica: str = "r0", age: float = 0, error: str | None = None) -> None:
    """Write a heartbeat as an agent does."""
    loaded = [{"digest": serving, "triton_name": "x", "task": "segment", "classes": []}] if serving else []
    state = {"desired": serving, "serving": serving, "loaded": loaded, "error": error, "since": "2026-01-01T00:00:00Z"}
    time = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    document = {"replica": replica, "model": bench.model, "time": time, "state": state}
    server = ObjectStore.connect(bench.connection, Role.SERVER)
    server.put(f"replicas/{bench.model}/{replica}.json", json.dumps(document).encode())


@pytest.fixture
def agent() -> Iterator[tuple[str, dict[str, object]]]:
    """An agent's address, and the answer that it gives, which a test fills in."""
    answer: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/state" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answer
    server.shutdown()
    server.server_close()


def test_mlflow_away_is_a_warning_and_the_next_command_mends_it(bench: Bench) -> None:
    digest = bench.stage(register=False)
    evidence = bench.gate(connection=bench.away())
    assert evidence.passed
    bench.promote(connection=bench.away())
    assert desired(read_log(bench.store, bench.model)) == digest
    assert len(bench.warnings) == 2
    assert "the next gate, promote or rollback brings it up to date" in bench.warnings[0]
    assert bench.registry.versions(bench.model) == []

    bench.warnings.clear()
    assert bench.promote().entry is None
    assert bench.warnings == []
    row = bench.registry.find(bench.model, digest)
    assert row is not None
    assert row.tags["modelport.gate"] == evidence.summary()
    assert bench.registry.aliases(bench.model) == {"champion": digest}


def test_evidence_is_among_the_runs_artifacts(bench: Bench) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(bench.connection.tracking_uri)
    run = client.create_run(client.create_experiment(bench.model)).info.run_id
    digest = bench.stage(mlflow_run_id=run)
    evidence = bench.gate()
    file = client.download_artifacts(run, f"evidence/{digest[:12]}.json", str(bench.root))
    with open(file) as stream:
        document = json.load(stream)
    assert document == json.loads(evidence.model_dump_json(by_alias=True))


def test_alias_moved_by_hand_serves_nothing_and_shows(bench: Bench) -> None:
    champion, other = bench.served(), bench.stage(CLOSE)
    beat(bench, champion)
    bench.registry.set_alias(bench.model, "champion", other)
    found = status(bench.model, connection=bench.connection)
    assert found.desired == champion
    (difference,) = found.differences
    assert f"alias champion is on {other[:12]}, but should be on {champion[:12]}" in difference
    bench.gate(other)
    found = status(bench.model, connection=bench.connection)
    assert found.differences == ()
    assert found.aliases == {"champion": champion, "challenger": other}


def test_status_of_replicas(bench: Bench, agent: tuple[str, dict[str, object]]) -> None:
    first, second = bench.served(GOOD), bench.served(CLOSE)
    bench.mirror()
    assert "no replica is known to run" in status(bench.model, connection=bench.connection).differences
    url, answer = agent
    beat(bench, second, replica="fresh")
    beat(bench, second, replica="old", age=3600)
    beat(bench, second, replica="live")  # its agent knows better
    model = {"desired": second, "serving": first, "loaded": [], "error": "digest mismatch", "since": "2026-01-01"}
    answer |= {"replica": "live", "ready": True, "models": {bench.model: model}}
    connection = bench.connection.model_copy(update={"agent_urls": (url, "http://127.0.0.1:9")})
    found = status(bench.model, connection=connection, warn=bench.warnings.append)
    assert [(row.name, row.serving, row.ready) for row in found.replicas] == [
        ("fresh", second, None),
        ("live", first, True),
    ]
    assert found.differences == (f"replica live serves {first[:12]}: digest mismatch",)
    assert len(bench.warnings) == 1
    assert "the agent at http://127.0.0.1:9 does not answer" in bench.warnings[0]


def test_status_of_a_pinned_model(bench: Bench) -> None:
    first, second = bench.served(GOOD), bench.served(CLOSE)
    bench.mirror()
    pins = Pins({bench.model: second})
    beat(bench, second)
    assert status(bench.model, connection=bench.connection, pins=pins).differences == ()
    rollback(bench.model, connection=bench.connection, pins=pins, force=True)
    found = status(bench.model, connection=bench.connection, pins=pins)
    assert found.desired == second
    assert f"pinned to {second[:12]}, but {first[:12]} is desired by" in found.differences[0]
    assert "--force" in found.differences[0]


def test_versions(bench: Bench) -> None:
    first, second = bench.served(GOOD), bench.served(CLOSE)
    challenger, bad, new = bench.stage(0.495), bench.stage(BAD), bench.stage(0.505, register=False)
    bench.gate(challenger)
    bench.gate(bad)
    rows = {row.digest: row for row in versions(bench.model, connection=bench.connection)}
    assert {digest: row.state for digest, row in rows.items()} == {
        first: "promoted before",
        second: "desired",
        challenger: "challenger",
        bad: "failed the gate",
        new: "not gated",
    }
    assert {digest: row.version for digest, row in rows.items()} == {
        first: None,
        second: 3,  # it was not registered, and the gate's mirror made up for that
        challenger: 1,
        bad: 2,
        new: None,
    }
    assert [digest for digest, row in rows.items() if row.kept] == [second, first], "newest first"
    assert rows[bad].gate.startswith("failed: dice 0.")
    # MLflow away: all but the numbers.
    away = versions(bench.model, connection=bench.away(), warn=bench.warnings.append)
    assert [(row.digest, row.version) for row in away] == [(digest, None) for digest in rows]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelport", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_line(bench: Bench) -> None:
    bad = bench.stage(BAD)
    done = command("gate", bench.model, "--data", bench.data)
    assert done.returncode == GateFailed.exit_code
    assert done.stdout.startswith(f"{bench.model} {bad[:12]} failed: dice 0.")
    assert "misses the minimum 0.9" in done.stderr
    assert "Traceback" not in done.stderr

    good = bench.stage(GOOD)
    done = command("gate", bench.model, "--data", bench.data, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["release"] == good
    done = command("promote", bench.model, "--data", bench.data, "--why", "better", "--json")
    assert json.loads(done.stdout)["entry"]["to"] == good, done.stderr

    done = command("versions", bench.model)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["version", "release", "state"],
        ["v2", good[:12], "desired"],
        ["v1", bad[:12], "failed"],
    ]
    done = command("status", bench.model)
    assert f"desired {good[:12]} (by log)" in done.stdout
    assert "no replica is known to run" in done.stdout
    done = command("gc", bench.model)
    assert done.returncode == 0, done.stderr
    assert f"keep {good[:12]}" in done.stdout
    assert command("promote", "no_such_model").returncode == 2


def test_a_version_number_that_was_changed_in_mlflow_brings_nobody_back(bench: Bench) -> None:
    """Whoever trains owns what MLflow has of the model."""
    from mlflow import MlflowClient

    first, second = bench.promoted(GOOD), bench.promoted(CLOSE)
    client = MlflowClient(bench.connection.tracking_uri)
    for number, digest in (("1", second), ("2", first)):
        client.set_model_version_tag(bench.model, number, "modelport.digest", digest)
    with pytest.raises(BadInput, match=rf"v1 of {bench.model} was release {first[:12]} .* and is {second[:12]} in"):
        rollback(bench.model, "v1", connection=bench.connection)
    with pytest.raises(BadInput, match="v2"):
        bench.promote("v2")
    ask = {"release": "v1", "connection": bench.connection}
    with pytest.raises(BadInput, match=f"v1 of {bench.model} was"), asking(bench.model, via=Via.RELEASE, **ask):
        pass
    # All of it gone, and another one in its place.
    client.delete_registered_model(bench.model)
    third = bench.stage(0.495)
    assert bench.registry.numbered(bench.model, 1) == third
    bench.warnings.clear()
    bench.gate(third)
    assert f"v1 of {bench.model} was release {first[:12]}" in bench.warnings[0]
    with pytest.raises(BadInput, match="name the digest"):
        bench.promote("v1")
    assert desired(read_log(bench.store, bench.model)) == second

    assert rollback(bench.model, first[:12], connection=bench.connection).digest == first


def test_a_version_number_is_known_without_mlflow(bench: Bench) -> None:
    first, second = bench.promoted(GOOD), bench.promoted(CLOSE)
    with pytest.raises(Unavailable):
        rollback(bench.model, "v3", connection=bench.away())
    with asking(bench.model, via=Via.RELEASE, release="v1", connection=bench.away()) as ask:
        assert ask(encode_png(tiny.image()), False).release == first
    changed = rollback(bench.model, "v1", connection=bench.away(), warn=bench.warnings.append)
    assert (changed.before, changed.digest) == (second, first)


def test_gates_at_the_same_time_note_every_number_once(bench: Bench) -> None:
    numbers = {number: f"{number:064x}" for number in range(1, 5)}
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda one: note_numbers(bench.store, bench.model, dict([one])), numbers.items()))
    assert said == [{}] * 4
    assert read_numbers(bench.store, bench.model)[0] == numbers
    assert note_numbers(bench.store, bench.model, {1: "f" * 64, 7: "a" * 64}) == {1: numbers[1]}
    assert read_numbers(bench.store, bench.model)[0] == numbers | {7: "a" * 64}

    bench.store.put(numbers_key(bench.model), b"{}")
    with pytest.raises(BadInput, match="restore it from a backup"):
        read_numbers(bench.store, bench.model)
