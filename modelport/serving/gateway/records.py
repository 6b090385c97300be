"""Prediction records: first a line on disk, then Parquet on the object store. Never the image.

A line is handed to the operating system before the answer leaves, so that killing the gateway loses none. Lines are
gathered in segments; a sealed segment never changes, and the names of the objects made from it derive from its own, so
that sending it twice makes no duplicate.
"""

import io
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from modelport.errors import Conflict, ModelportError
from modelport.objects import ObjectStore
from modelport.serving.gateway.metrics import GatewayMetrics

log = logging.getLogger("modelport.gateway")

PREFIX = "records/predictions"
_NAMES = uuid.UUID("6f1c1a52-6f0a-4d55-8d8c-0f3f5a3a5d11")
_SEGMENTS_IN_BOUND = 8
"""A segment is at most this part of the bound, so that dropping one drops few."""


class Record(BaseModel):
    """One request that named a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    time: datetime
    """When it arrived, UTC."""
    caller: str
    model: str
    release: str | None = None
    """Digest of the release that answered."""
    precision: str | None = None
    """Arithmetic that it ran with."""
    input_sha256: str | None = None
    """Of the uploaded image file."""
    input_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    status: int
    """HTTP status."""
    reason: str | None = None
    """Why there was no answer."""
    summary: str | None = None
    """JSON object of numbers that sum the answer up, by task."""
    decode_ms: float | None = None
    inference_ms: float | None = None
    total_ms: float | None = None


class Spool:
    """Segments of records on disk, within a bound. One process at a time has a spool; any of its threads may use it."""

    def __init__(self, folder: Path, max_bytes: int, max_rows: int, metrics: GatewayMetrics) -> None:
        """Take over a folder and what an earlier process left in it.

        Raises:
            Conflict: another gateway has it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._metrics = metrics
        self._guard = threading.Lock()
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            flock(self._lock, LOCK_EX | LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Conflict("another gateway has this spool", file=folder, remedy="give each gateway its own") from None
        self._sealed = {path: path.stat().st_size for path in sorted(folder.glob("*.jsonl"))}
        self._open: tuple[Path, int] | None = None
        self._bytes = self._rows = 0
        self._show()

    def append(self, record: Record) -> bool:
        """Write a record; whether a segment was sealed by it. A full disk drops the record, counted and logged."""
        line = record.model_dump_json().encode() + b"\n"
        with self._guard:
            try:
                if self._open is None:
                    path = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex}.jsonl"
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
                    self._open = (path, os.open(path, flags, 0o600))
                written = os.write(self._open[1], line)
            except OSError as error:
                self._metrics.dropped("write_failed", 1, f"the spool cannot be written: {error}")
                return self._seal()
            self._bytes += written
            self._rows += 1
            if written < len(line):
                self._metrics.dropped("write_failed", 1, "the disk of the spool is full")
                return self._seal()
            self._metrics.records_written.inc()
            full = self._rows >= self._max_rows or self._bytes >= self._max_bytes // _SEGMENTS_IN_BOUND
            sealed = self._seal() if full else False
            self._bound()
            self._show()
            return sealed

    def seal(self) -> None:
        """End the open segment, if it holds anything."""
        with self._guard:
            self._seal()

    def sealed(self) -> list[Path]:
        """Segments that wait to be stored, oldest first."""
        with self._guard:
            return sorted(self._sealed)

    def discard(self, segment: Path) -> None:
        """Forget a segment that is stored."""
        with self._guard:
            segment.unlink(missing_ok=True)
            self._sealed.pop(segment, None)
            self._show()

    def close(self) -> None:
        """Seal, and let another process have the folder."""
        self.seal()
        os.close(self._lock)

    def _seal(self) -> bool:
        if self._open is None:
            return False
        path, descriptor = self._open
        os.close(descriptor)
        self._sealed[path] = self._bytes
        self._open, self._bytes, self._rows = None, 0, 0
        return True

    def _bound(self) -> None:
        while self._sealed and sum(self._sealed.values()) + self._bytes > self._max_bytes:
            oldest = min(self._sealed)
            try:
                rows = oldest.read_bytes().count(b"\n")
            except OSError:
                rows = 0
            oldest.unlink(missing_ok=True)
            del self._sealed[oldest]
            self._metrics.dropped("spool_full", rows, f"the spool is at its bound of {self._max_bytes} bytes")

    def _show(self) -> None:
        self._metrics.spool_bytes.set(sum(self._sealed.values()) + self._bytes)


class Shipper:
    """Brings sealed segments to the object store."""

    def __init__(self, spool: Spool, store: ObjectStore, metrics: GatewayMetrics) -> None:
        self._spool = spool
        self._store = store
        self._metrics = metrics
        self._away = False

    def ship(self) -> bool:
        """Store every sealed segment, oldest first; False when the store could not take one. Blocks."""
        for segment in self._spool.sealed():
            try:
                data = segment.read_bytes()
            except FileNotFoundError:
                continue  # dropped at the bound in the meantime
            records, unreadable = parse_segment(data)
            if unreadable:
                # The last line of a machine that lost power, or of a full disk.
                self._metrics.dropped("unreadable", unreadable, f"{segment.name} has damaged lines")
            try:
                for key, batch in objects_of(segment.stem, records).items():
                    self._store.put(key, to_parquet(batch))
            except ModelportError as error:
                self._metrics.store_failures.inc()
                if not self._away:
                    log.error("records cannot be stored and stay in the spool: %s", error.message)
                self._away = True
                return False
            self._spool.discard(segment)
            self._metrics.records_stored.inc(len(records))
            if self._away:
                log.info("records are stored again")
            self._away = False
        return True


def parse_segment(data: bytes) -> tuple[list[Record], int]:
    """Records of a segment, and how many lines are none."""
    records: list[Record] = []
    unreadable = 0
    for line in data.splitlines():
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError:
            unreadable += 1
    return records, unreadable


def objects_of(segment: str, records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of a segment by the key of the object that takes them: one per model and day, named by the segment."""
    batches: dict[tuple[str, date], list[Record]] = {}
    for record in records:
        batches.setdefault((record.model, record.time.astimezone(UTC).date()), []).append(record)
    return {
        f"{PREFIX}/model={model}/date={day}/{uuid.uuid5(_NAMES, f'{segment}/{model}/{day}')}.parquet": batch
        for (model, day), batch in batches.items()
    }


def to_parquet(records: Iterable[Record]) -> bytes:
    """One Parquet file; times in microseconds UTC."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow: Any = pa
    text, number = arrow.string(), arrow.float64()
    schema = arrow.schema(
        [
            ("request_id", text),
            ("time", arrow.timestamp("us", tz="UTC")),
            ("caller", text),
            ("model", text),
            ("release", text),
            ("precision", text),
            ("input_sha256", text),
            ("input_bytes", arrow.int64()),
            ("width", arrow.int32()),
            ("height", arrow.int32()),
            ("status", arrow.int16()),
            ("reason", text),
            ("summary", text),
            ("decode_ms", number),
            ("inference_ms", number),
            ("total_ms", number),
        ]
    )
    stream = io.BytesIO()
    writer: Any = pq
    writer.write_table(
        arrow.Table.from_pylist([record.model_dump() for record in records], schema), stream, compression="zstd"
    )
    return stream.getvalue()


def summary_json(numbers: Mapping[str, float]) -> str:
    """Numbers of an answer as the record holds them."""
    return json.dumps(dict(numbers), sort_keys=True)
