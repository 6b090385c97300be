import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from modelport.connection import Connection, Role
from modelport.errors import BadInput, Conflict, Refused, Unavailable
from modelport.objects import NotFound, ObjectStore
from modelport.promotion import Action, LogEntry, PromotionLog
from modelport.promotion.log import append


@pytest.fixture
def promoter(s3_connection: Connection) -> ObjectStore:
    return ObjectStore.connect(s3_connection, Role.PROMOTER)


def test_objects_are_written_read_listed_and_removed(promoter: ObjectStore, tmp_path: Path) -> None:
    promoter.put("releases/objects-test/a", b"one")
    source = tmp_path / "b"
    source.write_bytes(b"two" * 4_000_000)  # large enough to go in parts
    promoter.upload(source, "releases/objects-test/b")
    assert promoter.get("releases/objects-test/a") == b"one"
    promoter.download("releases/objects-test/b", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == source.read_bytes()
    listed = {info.key: info.size for info in promoter.list("releases/objects-test/")}
    assert listed == {"releases/objects-test/a": 3, "releases/objects-test/b": 12_000_000}
    promoter.delete("releases/objects-test/a")
    promoter.delete("releases/objects-test/a")
    assert not promoter.exists("releases/objects-test/a")


def test_a_failed_download_leaves_no_file(promoter: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        promoter.download("releases/objects-test/nothing", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_of_many_writers_exactly_one_wins(s3_connection: Connection, promoter: ObjectStore) -> None:
    key = "promotions/objects-test/log.json"
    etag = promoter.replace(key, b"0", None)
    with pytest.raises(Conflict):
        promoter.replace(key, b"again", None)
    won: list[int] = []
    told: list[int] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        store = ObjectStore.connect(s3_connection, Role.PROMOTER)
        barrier.wait()
        try:
            store.replace(key, str(number).encode(), etag)
            won.append(number)
        except Conflict:
            told.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(told) == 7
    assert promoter.get(key) == str(won[0]).encode()
    assert promoter.put_new(key, b"late") is False


def test_an_identity_is_refused_by_name_what_is_not_its_own(s3_connection: Connection) -> None:
    trainer = ObjectStore.connect(s3_connection, Role.TRAINER)
    trainer.put("staging/objects-test/a", b"mine")
    for key in ("releases/x", "promotions/m/log.json", "heldout/d/objects/0", "datasets/d/manifests/0.json"):
        with pytest.raises(Refused, match="trainer identity may not write"):
            trainer.put(key, b"not mine")
    with pytest.raises(Refused, match="trainer identity may not read"):
        trainer.get("heldout/d/objects/0")
    server = ObjectStore.connect(s3_connection, Role.SERVER)
    with pytest.raises(Refused):
        server.put("releases/x", b"not mine")
    with pytest.raises(Refused):
        server.get("staging/objects-test/a")


def test_a_store_that_is_away_is_told_within_seconds(s3_connection: Connection) -> None:
    away = s3_connection.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        ObjectStore.connect(away, Role.SERVER).get("releases/x")


def test_a_connection_file_is_private_and_says_what_it_lacks(s3_connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "connection.json"
    s3_connection.restricted_to(Role.SERVER).save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = Connection.load(path)
    assert loaded.key_for(Role.SERVER) == s3_connection.key_for(Role.SERVER)
    with pytest.raises(Refused, match="no promoter identity"):
        loaded.key_for(Role.PROMOTER)
    assert s3_connection.key_for(Role.SERVER).secret_key not in repr(loaded)
    path.write_text("{}")
    with pytest.raises(BadInput, match="s3_endpoint"):
        Connection.load(path)
    with pytest.raises(Unavailable, match="modelport local up"):
        Connection.load(tmp_path / "nothing.json")


class _Deaf(BaseHTTPRequestHandler):
    """As much of S3 as a probe needs, from a store that does not look at conditions (or only at the first kind)."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[set[str]] = set()
    heeds_if_none_match = False

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        taken = self.heeds_if_none_match and "If-None-Match" in self.headers and self.path in self.objects
        self.objects.add(self.path)
        self.send_response(412 if taken else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Full(BaseHTTPRequestHandler):
    """A store on a disk that is full, as MinIO says so."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<Error><Code>XMinioStorageFull</Code><Message>Storage backend has no room</Message></Error>"
        self.send_response(507)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_full_store_is_told_from_one_that_is_away(s3_connection: Connection, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Full)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        full = s3_connection.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{server.server_port}"})
        store = ObjectStore.connect(full, Role.PROMOTER)
        (tmp_path / "file").write_bytes(b"x")
        for write in (
            lambda: store.put("releases/a", b"x"),
            lambda: store.replace("releases/a", b"x", None),
            lambda: store.upload(tmp_path / "file", "releases/a"),
        ):
            with pytest.raises(Unavailable, match="is full") as caught:
                write()
            assert "room" in (caught.value.remedy or "")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("heeds_if_none_match", [False, True])
def test_a_store_that_ignores_conditions_is_refused_before_a_promotion(
    s3_connection: Connection, heeds_if_none_match: bool
) -> None:
    answers = {"heeds_if_none_match": heeds_if_none_match, "objects": set[str]()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Deaf,), answers))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        store = ObjectStore.connect(s3_connection.model_copy(update={"s3_endpoint": endpoint}), Role.PROMOTER)
        with pytest.raises(Refused, match="ignores conditional writes") as caught:
            append(store, PromotionLog("m", (), None), entry())
        assert "MinIO" in (caught.value.remedy or "")
        assert all("log.json" not in path for path in answers["objects"]), "nothing of the promotion was written"
    finally:
        server.shutdown()
        server.server_close()


def test_a_store_that_honours_conditions_passes_again_and_again(s3_connection: Connection) -> None:
    for _ in range(2):  # the second process finds the first one's probe
        store = ObjectStore.connect(s3_connection, Role.PROMOTER)
        store.require_conditions("promotions/")
        assert store.exists("promotions/.probe")
    assert append(store, PromotionLog("probed", (), None), entry()).etag


def test_an_identity_that_may_not_write_there_is_told_so_by_the_probe(s3_connection: Connection) -> None:
    with pytest.raises(Refused, match="trainer identity may not write"):
        ObjectStore.connect(s3_connection, Role.TRAINER).require_conditions("promotions/")


def entry() -> LogEntry:
    fields = {"seq": 1, "time": datetime.now(UTC), "who": "tester", "action": Action.PROMOTE, "from": None}
    fields |= {"to": "a" * 64, "why": "a test", "evidence": None, "evidence_sha256": None, "previous": None}
    return LogEntry.model_validate(fields)
