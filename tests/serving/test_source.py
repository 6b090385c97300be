"""Which versions a file asks for: digests pin, null follows the promotion log."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelport.connection import Connection, Role
from modelport.contract import Precision
from modelport.errors import BadInput, Unavailable
from modelport.objects import ObjectStore
from modelport.promotion import Action, LogEntry, read_log
from modelport.promotion.log import append
from modelport.serving.agent.source import FileSource, parse_versions
from modelport.serving.agent.version import Version

A, B = "a" * 64, "b" * 64


def promote(store: ObjectStore, model: str, digest: str) -> None:
    entry = {"seq": 1, "time": datetime.now(UTC), "who": "tester", "action": Action.PROMOTE, "from": None, "to": digest}
    entry |= {"why": "a test", "evidence": None, "evidence_sha256": None, "previous": None}
    append(store, read_log(store, model), LogEntry.model_validate(entry))


def test_null_follows_the_log_and_a_digest_does_not(s3_connection: Connection, tmp_path: Path) -> None:
    promoter = ObjectStore.connect(s3_connection, Role.PROMOTER)
    for model in ("source_follows", "source_pinned", "source_elsewhere"):
        promote(promoter, model, A)
    path = tmp_path / "versions.json"
    path.write_text(json.dumps({"source_follows": None, "source_pinned": B, "source_new": None}))
    source = FileSource(path, ObjectStore.connect(s3_connection, Role.SERVER))
    reading = source.read()
    assert reading.versions == {"source_follows": Version(A), "source_pinned": Version(B), "source_new": None}
    assert reading.models == set(reading.versions), "and no other model that has a log"
    assert reading.problem is None
    # A mounted object is replaced while the agent runs.
    path.write_text(json.dumps({"source_pinned": A}))
    assert (source.read().versions, source.read().models) == ({"source_pinned": Version(A)}, {"source_pinned"})

    # With an arithmetic, pinned or not.
    asked = {"source_follows": {"release": None, "precision": "int8"}, "source_pinned": {"release": B}}
    asked["source_new"] = {"release": None, "precision": "fp16"}
    path.write_text(json.dumps(asked))
    expected = {"source_follows": Version(A, Precision.INT8), "source_pinned": Version(B), "source_new": None}
    assert source.read().versions == expected


def test_a_store_that_is_away_holds_up_those_that_follow_and_no_pin(s3_connection: Connection, tmp_path: Path) -> None:
    away = s3_connection.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    path = tmp_path / "versions.json"
    path.write_text(json.dumps({"follows": None, "pinned": B}))
    reading = FileSource(path, ObjectStore.connect(away, Role.SERVER)).read()
    assert reading.versions == {"pinned": Version(B)}
    assert reading.models == {"follows", "pinned"}, "it is still to be served"
    assert "127.0.0.1:9" in (reading.problem or "")


def test_models_named_on_the_command_line_limit_the_file(s3_connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    path.write_text(json.dumps({"one": A, "two": B}))
    reading = FileSource(path, ObjectStore.connect(s3_connection, Role.SERVER), ["two", "three"]).read()
    assert (reading.versions, reading.models) == ({"two": Version(B)}, None)


@pytest.mark.parametrize(
    ("text", "key", "complaint"),
    [
        ("{", None, "not JSON"),
        ("[]", None, "not a JSON object"),
        (f'{{"m": "{A[:12]}"}}', "m", "not a digest"),
        ('{"m": "latest"}', "m", "not a digest"),
        ('{"m": false}', "m", "not a digest"),
        (f'{{"../m": "{A}"}}', "../m", "not the name of a model"),
        ('{"m": {"release": null, "precision": "int4"}}', "m.precision", "not a precision"),
        ('{"m": {"digest": null}}', "m.digest", "not a known key"),
    ],
)
def test_what_makes_no_sense_is_named(text: str, key: str | None, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint) as caught:
        parse_versions(text, Path("versions.json"))
    assert (caught.value.file, caught.value.key) == ("versions.json", key)
    assert "null" in (caught.value.remedy or "")


def test_a_file_that_is_not_there_is_said(s3_connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not there"):
        FileSource(tmp_path / "nothing", ObjectStore.connect(s3_connection, Role.SERVER)).read()
