"""What may be forgotten: releases that nothing refers to, and staging and checkpoints that have grown old."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from modelport.connection import Connection, Role
from modelport.errors import BadInput, Conflict, Refused
from modelport.objects import ObjectInfo, ObjectStore
from modelport.promotion import catalogue, mirror
from modelport.promotion.log import LOG_FILE, LOGS, PromotionLog, log_key, read_log
from modelport.promotion.people import Warn, log_warning
from modelport.promotion.pins import NO_PINS, Pins
from modelport.promotion.replicas import agents, heartbeats
from modelport.release import MANIFEST_FILE, RELEASES, Registry, ReleaseManifest, sha256, staging_prefix

KEEP = 5
"""Versions of the log that are kept for a way back."""
GRACE = timedelta(days=1)
"""Nothing younger is removed: a promotion copies first, and writes the log after."""
REPLICA_MEMORY = timedelta(days=7)
"""A replica's last heartbeat protects what it had loaded for so long: it may only be cut off."""


@dataclass(frozen=True)
class Garbage:
    """Objects of one prefix that may be removed together."""

    prefix: str
    why: str
    objects: tuple[ObjectInfo, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(row.size for row in self.objects)


@dataclass(frozen=True)
class Collected:
    """What a collection found, and whether it removed it."""

    garbage: tuple[Garbage, ...]
    kept: dict[str, str]
    """Why a release is kept, by digest."""
    deleted: bool


def collect_garbage(
    model: str,
    *,
    connection: Connection,
    delete: bool = False,
    keep: int = KEEP,
    staging_days: float = 30,
    checkpoint_days: float = 14,
    grace: timedelta = GRACE,
    pins: Pins = NO_PINS,
    warn: Warn = log_warning,
) -> Collected:
    """Find, and with `delete` remove, what nothing refers to.

    A release is kept while an alias, a pin, the last `keep` versions of the log or a running replica refers to it.
    Staging and checkpoints expire by age; what an alias or a pin refers to stays in staging, too. A copy whose manifest
    is missing or damaged goes, unless another model's log names it: promoting again mends that one.

    Raises:
        BadInput: `keep` leaves no way back.
        Unavailable: MLflow is away, so that it is not known what aliases refer to.
        Conflict: the desired version changed meanwhile; what was not removed yet stays.
    """
    if keep < 2:
        raise BadInput(f"is {keep}", key="--keep", remedy="keep at least 2: the desired version and the one before")
    store = catalogue.promoter_store(connection)
    log = read_log(store, model)
    kept = references(store, connection, model, log, keep, pins, warn)
    now = datetime.now(UTC)
    released = by_folder(store.list(f"{RELEASES}/"), f"{RELEASES}/")
    models = {prefix: _model_of(store, prefix, rows) for prefix, rows in released.items()}
    elsewhere = _other_logs(store, model) if None in models.values() else b""
    ours = {
        prefix: rows
        for prefix, rows in released.items()
        if models[prefix] == model or (models[prefix] is None and _name(prefix).encode() not in elsewhere)
    }
    releases = expired(ours, kept, now - grace, "nothing refers to it")
    trainers: list[Garbage] = []
    trainer = _trainer(connection, warn)
    if trainer is not None:
        staging, checkpoints = f"{staging_prefix(model)}/", f"checkpoints/{model}/"
        trainers = [
            *expired(
                by_folder(trainer.list(staging), staging),
                kept,
                now - timedelta(days=staging_days),
                f"staged more than {staging_days:g} days ago",
            ),
            *expired(
                by_folder(trainer.list(checkpoints), checkpoints),
                (),
                now - timedelta(days=checkpoint_days),
                f"not written for more than {checkpoint_days:g} days",
            ),
        ]
    if delete:
        _remove(store, releases, log)
        if trainer is not None:
            _remove(trainer, trainers, None)
    return Collected((*releases, *trainers), kept, delete)


def references(
    store: ObjectStore,
    connection: Connection,
    model: str,
    log: PromotionLog,
    keep: int,
    pins: Pins,
    warn: Warn,
) -> dict[str, str]:
    """Releases that something refers to, and what."""
    found: dict[str, str] = {}
    for digest in log.promoted[:keep]:
        found[digest] = f"one of the log's last {keep}"
    now = datetime.now(UTC)
    beats = [row for row in heartbeats(store, model, warn) if row.age_s(now) < REPLICA_MEMORY.total_seconds()]
    for replica in (*beats, *agents(connection.agent_urls, model, warn)):
        for digest in (*replica.loaded, *([replica.serving] if replica.serving else [])):
            found[digest] = f"loaded by replica {replica.name}"
    # MLflow's aliases, whoever set them, and those that it should have and may not show yet.
    aliases = [*mirror.wanted_aliases(store, model, log).items(), *Registry.connect(connection).aliases(model).items()]
    for alias, digest in aliases:
        if digest:
            found.setdefault(digest, f"MLflow's alias {alias}")
    if model in pins.digests:
        found[pins.digests[model]] = "pinned"
    return found


def by_folder(rows: Iterable[ObjectInfo], prefix: str) -> dict[str, list[ObjectInfo]]:
    """Objects by the folder right below a prefix, which ends with a slash."""
    folders: dict[str, list[ObjectInfo]] = {}
    for row in rows:
        name = row.key.removeprefix(prefix).partition("/")[0]
        folders.setdefault(f"{prefix}{name}/", []).append(row)
    return folders


def expired(folders: dict[str, list[ObjectInfo]], kept: Collection[str], before: datetime, why: str) -> list[Garbage]:
    """Folders whose newest object is older than `before`, and whose name is not kept."""
    return [
        Garbage(prefix, why, tuple(rows))
        for prefix, rows in sorted(folders.items())
        if _name(prefix) not in kept and max(row.modified for row in rows) < before
    ]


def _name(prefix: str) -> str:
    return prefix.rstrip("/").rpartition("/")[2]


def _model_of(store: ObjectStore, prefix: str, rows: Sequence[ObjectInfo]) -> str | None:
    """The model of a release; None where its manifest is missing or damaged, so that this cannot be told.

    Of a release that another version of this project made: the empty string, which is no model's name.
    """
    key = f"{prefix}{MANIFEST_FILE}"
    if all(row.key != key for row in rows):
        return None
    data = store.get(key)
    if sha256(data) != _name(prefix):
        return None
    try:
        return ReleaseManifest.parse(data, f"s3://{store.bucket}/{key}").model
    except BadInput:
        return ""


def _other_logs(store: ObjectStore, model: str) -> bytes:
    """Bytes of every other model's log, which may be damaged itself: what it names anywhere is not ours to remove."""
    logs = (row.key for row in store.list(LOGS) if row.key.endswith(f"/{LOG_FILE}") and row.key != log_key(model))
    return b"\n".join(store.get(key) for key in logs)


def _trainer(connection: Connection, warn: Warn) -> ObjectStore | None:
    try:
        return ObjectStore.connect(connection, Role.TRAINER)
    except Refused as error:
        warn(f"staging and checkpoints are left alone: {error.message}")
        return None


def _remove(store: ObjectStore, garbage: Sequence[Garbage], log: PromotionLog | None) -> None:
    changed = Conflict("the desired version changed meanwhile", remedy="run it again; it looks anew")
    for row in garbage:
        if log is not None and read_log(store, log.model).etag != log.etag:
            raise changed
        # The manifest first: what is left after a crash is no release, and is removed by the next collection.
        first, *others = sorted(row.objects, key=lambda item: not item.key.endswith(f"/{MANIFEST_FILE}"))
        content = None if log is None else store.get(first.key)
        store.delete(first.key)
        if log is not None and content is not None and read_log(store, log.model).etag != log.etag:
            # Between the look and the removal. Whoever promotes looks again, after his change of the log: of the two
            # of us the later one sees what the other has done.
            store.put(first.key, content)
            raise changed
        for item in others:
            store.delete(item.key)
