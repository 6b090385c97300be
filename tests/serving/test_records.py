"""Prediction records: on disk before the answer leaves, in Parquet once, and never more than the bound."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modelport.errors import Conflict
from modelport.imaging import encode_png
from modelport.release import sha256
from modelport.serving.gateway.metrics import GatewayMetrics
from modelport.serving.gateway.records import Record, Spool, objects_of, parse_segment, to_parquet
from tests.serving import tiny_release as tiny
from tests.serving.waiting import until


def record(number: int = 0, model: str = "m", day: int = 1) -> Record:
    return Record(
        request_id=f"{number:032x}",
        time=datetime(2026, 11, day, 12, 0, number % 60, tzinfo=UTC),
        caller="tester",
        model=model,
        status=200,
        summary='{"coverage": 0.5}',
    )


def stored(store, model: str) -> list[dict]:
    """Every stored record of a model, by arrival."""
    rows: list[dict] = []
    for info in store.list(f"records/predictions/model={model}/"):
        rows += pq.read_table(BytesIO(store.get(info.key)), partitioning=None).to_pylist()
    return sorted(rows, key=lambda row: row["time"])


def test_segments_come_back_as_they_were_written(tmp_path) -> None:
    spool = Spool(tmp_path, 10**6, max_rows=3, metrics=GatewayMetrics())
    sealed = [spool.append(record(number)) for number in range(7)]
    assert sealed == [False, False, True, False, False, True, False]
    spool.seal()
    first, _, last = spool.sealed()
    assert parse_segment(first.read_bytes()) == ([record(0), record(1), record(2)], 0)
    assert parse_segment(last.read_bytes()) == ([record(6)], 0)
    # The last line of a machine that lost power.
    assert parse_segment(first.read_bytes()[:-9]) == ([record(0), record(1)], 1)


def test_objects_are_named_by_their_segment(tmp_path) -> None:
    records = [record(0, "a", 1), record(1, "b", 1), record(2, "a", 2), record(3, "a", 1)]
    objects = objects_of("segment", records)
    assert [[row.request_id[-1] for row in rows] for rows in objects.values()] == [["0", "3"], ["1"], ["2"]]
    assert next(iter(objects)).startswith("records/predictions/model=a/date=2026-11-01/")
    assert objects_of("segment", records).keys() == objects.keys()
    assert not objects_of("another", records).keys() & objects.keys()
    row = pq.read_table(BytesIO(to_parquet(records[:1]))).to_pylist()[0]
    assert row == records[0].model_dump()


def test_at_the_bound_the_oldest_go_and_are_counted(tmp_path) -> None:
    metrics = GatewayMetrics()
    line = len(record().model_dump_json()) + 1
    spool = Spool(tmp_path, 80 * line, max_rows=1000, metrics=metrics)
    for number in range(200):
        spool.append(record(number))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.jsonl")) <= 80 * line
    spool.seal()
    kept = [row.request_id for path in spool.sealed() for row in parse_segment(path.read_bytes())[0]]
    assert kept == [record(number).request_id for number in range(200 - len(kept), 200)], "the newest are kept"
    assert len(kept) >= 60
    assert metrics.records_dropped.labels("spool_full")._value.get() == 200 - len(kept)


def test_one_spool_has_one_gateway(tmp_path) -> None:
    spool = Spool(tmp_path, 10**6, 10, GatewayMetrics())
    spool.append(record(1))
    with pytest.raises(Conflict, match="another gateway"):
        Spool(tmp_path, 10**6, 10, GatewayMetrics())
    spool.close()
    assert len(Spool(tmp_path, 10**6, 10, GatewayMetrics()).sealed()) == 1


def test_a_full_disk_loses_records_and_nothing_else(tmp_path) -> None:
    """The limit on file sizes stands in for the full disk: writing fails in the same place, half a line in."""
    script = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_records import record, parse_segment, GatewayMetrics, Spool
metrics = GatewayMetrics()
spool = Spool(Path(sys.argv[1]), 10**6, 100, metrics)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for number in range(20):
    spool.append(record(number))
spool.seal()
kept = [row for path in spool.sealed() for row in parse_segment(path.read_bytes())[0]]
lost = metrics.records_dropped.labels("write_failed")._value.get()
print(len(kept), int(lost))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept, lost = map(int, done.stdout.split())
    assert kept + lost == 20
    assert min(kept, lost) > 0


def test_every_request_that_names_a_model_leaves_its_record(stand, served) -> None:
    image = encode_png(tiny.image(9, 50, 70))
    begun = datetime.now(UTC)
    answers = [
        served.gateway.predict(served.model, image),
        served.gateway.predict(served.model, b"no image"),
        served.gateway.predict(served.model, bytes(2 * 1024 * 1024)),
        served.gateway.predict("never_heard_of", image),
    ]
    served.gateway.predict("../escape", image)
    # A segment's objects are stored one by one: only when all are is everything below true.
    until(lambda: "modelport_gateway_records_stored_total 4.0" in served.gateway.get("/metrics").text, "the records")
    good, text, large = stored(stand.server_store, served.model)
    assert good["request_id"] == answers[0].json()["request_id"]
    assert (good["caller"], good["model"], good["release"]) == ("tester", served.model, served.digest)
    assert (good["input_sha256"], good["input_bytes"]) == (sha256(image), len(image))
    assert (good["width"], good["height"], good["status"], good["reason"]) == (70, 50, 200, None)
    assert json.loads(good["summary"]) == {"coverage": answers[0].json()["coverage"]}
    assert {name: good[f"{name}_ms"] for name in ("decode", "inference", "total")} == answers[0].json()["milliseconds"]
    assert begun <= good["time"] <= datetime.now(UTC)
    assert (text["status"], text["reason"], text["input_sha256"]) == (415, "not_an_image", sha256(b"no image"))
    assert (large["status"], large["reason"], large["input_sha256"]) == (413, "too_large", None)
    (unknown,) = stored(stand.server_store, "never_heard_of")
    assert (unknown["status"], unknown["reason"]) == (404, "unknown_model")
    # The store is shared with other rooms' tests, which write beside these.
    assert not [info.key for info in stand.server_store.list("records/") if ".." in info.key or "escape" in info.key]
    assert not list(served.gateway.spool.glob("*.jsonl")), "what is stored leaves the disk"
    metrics = served.gateway.get("/metrics").text
    assert "modelport_gateway_records_written_total 4.0" in metrics


def test_kill_9_loses_nothing_and_doubles_nothing(stand, start, served) -> None:
    model = "killed"
    gateway = start.gateway(served.agent, record_seconds=600)
    image = encode_png(tiny.image())
    asked = [gateway.predict(model, image).json()["request_id"] for _ in range(5)]
    gateway.process.kill()
    (segment,) = gateway.spool.glob("*.jsonl")
    content = segment.read_bytes()
    gateway.process.start()
    until(lambda: [row["request_id"] for row in stored(stand.server_store, model)] == asked, "the leftovers")
    until(lambda: not segment.exists(), "the segment to go")

    # Killed between storing and forgetting: the same segment is found again, and makes the same objects.
    assert gateway.process.stop() == 0
    segment.write_bytes(content)
    gateway.process.start()
    until(lambda: not segment.exists(), "the segment to go again")
    assert [row["request_id"] for row in stored(stand.server_store, model)] == asked

    # And a gateway that is asked to end stores what it has.
    until(lambda: gateway.get("/healthz").is_success, "the gateway")
    last = gateway.predict(model, image).json()["request_id"]
    assert gateway.process.stop() == 0
    assert [row["request_id"] for row in stored(stand.server_store, model)] == [*asked, last]


def test_while_the_store_is_away_predictions_go_on_and_records_wait(stand, start, served) -> None:
    gateway = start.gateway(served.agent, connection=stand.away(), record_seconds=1)
    image = encode_png(tiny.image())
    until(lambda: gateway.get("/readyz").is_success, "the gateway to be ready")
    first = gateway.predict(served.model, image)
    assert first.status_code == 200
    until(lambda: "stay in the spool" in gateway.process.said(), "the failure to be said")
    started = time.monotonic()
    assert gateway.predict(served.model, image).status_code == 200
    assert time.monotonic() - started < 5, "a store that is away slows nobody down"
    metrics = gateway.get("/metrics").text
    assert "modelport_gateway_records_stored_total 0.0" in metrics
    assert "modelport_gateway_store_failures_total 0.0" not in metrics
    gateway.process.stop()

    back = start.gateway(served.agent, spool=gateway.spool, record_seconds=1)
    wanted = first.json()["request_id"]
    until(
        lambda: wanted in [row["request_id"] for row in stored(stand.server_store, served.model)],
        "the records that had waited",
    )
    until(lambda: not list(back.spool.glob("*.jsonl")), "the spool to empty")
