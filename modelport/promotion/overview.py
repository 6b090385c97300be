"""What there is and what should be: tables of versions, and the differences between desired and actual."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from modelport.connection import Connection
from modelport.errors import ModelportError
from modelport.objects import ObjectStore
from modelport.promotion import catalogue, mirror
from modelport.promotion.evidence import evidence_by_release, read_evidence
from modelport.promotion.log import SHORT, LogEntry, desired, read_log
from modelport.promotion.people import Warn, log_warning
from modelport.promotion.pins import NO_PINS, Pins
from modelport.promotion.replicas import Replica, agents, heartbeats
from modelport.release import Registry

GONE_AFTER = timedelta(minutes=5)
"""A replica whose agent does not answer, and that wrote no heartbeat for so long, does not run any more."""


@dataclass(frozen=True)
class VersionRow:
    """One release of a model."""

    digest: str
    version: int | None
    """MLflow's number; None where MLflow has none, or is away."""
    staged: datetime | None
    """When training staged it; None where staging has expired."""
    kept: bool
    """Whether it is in ``releases/``, ready to be served."""
    state: str
    """``desired``, ``pinned``, ``promoted before``, ``challenger``, ``failed the gate`` or ``not gated``."""
    gate: str
    """Summary of its newest evidence."""


@dataclass(frozen=True)
class Status:
    """Desired and actual versions of a model."""

    model: str
    desired: str | None
    desired_by: str
    """``log`` or the file of the pin."""
    entry: LogEntry | None
    """Last entry of the promotion log."""
    replicas: tuple[Replica, ...]
    aliases: Mapping[str, str] | None
    """MLflow's, digest by alias; None where MLflow is away."""
    differences: tuple[str, ...]
    """What is not as it should be; empty when everything is."""


def versions(model: str, *, connection: Connection, pins: Pins = NO_PINS, warn: Warn = log_warning) -> list[VersionRow]:
    """Every release of a model that is staged, gated or promoted, the newest first."""
    store = catalogue.promoter_store(connection)
    log = read_log(store, model)
    staged = {row.digest: row.time for row in catalogue.staged_releases(store, model)}
    evidence = evidence_by_release(store, model)
    numbers: dict[str, int] = {}
    try:
        for row in Registry.connect(connection).versions(model):
            numbers.setdefault(row.digest, row.version)
    except ModelportError as error:
        warn(f"no version numbers: {error.message}")
    challenger = mirror.wanted_aliases(store, model, log)[mirror.CHALLENGER]
    promoted, first_seen = log.promoted, {entry.to: entry.time for entry in reversed(log.entries)}
    rows: list[VersionRow] = []
    for digest in dict.fromkeys([*staged, *numbers, *evidence, *promoted]):
        newest = read_evidence(store, evidence[digest][0].key)[0] if digest in evidence else None
        if digest == pins.digests.get(model, desired(log)):
            state = "pinned" if model in pins.digests else "desired"
        elif digest in promoted:
            state = "promoted before"
        elif digest == challenger:
            state = "challenger"
        elif newest is not None:
            state = "passed the gate" if newest.passed else "failed the gate"
        else:
            state = "not gated"
        gate = newest.summary() if newest else ""
        kept = catalogue.is_released(store, digest)
        rows.append(VersionRow(digest, numbers.get(digest), staged.get(digest), kept, state, gate))
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(rows, key=lambda row: row.staged or first_seen.get(row.digest, oldest), reverse=True)


def status(model: str, *, connection: Connection, pins: Pins = NO_PINS, warn: Warn = log_warning) -> Status:
    """What should serve, what serves, and where the two or their mirror in MLflow differ."""
    store = catalogue.promoter_store(connection)
    log = read_log(store, model)
    by_log = desired(log)
    pin = pins.digests.get(model)
    wanted = pin or by_log
    replicas = _running(store, connection, model, warn)
    aliases: dict[str, str] | None = None
    differences: list[str] = []
    if pin is not None and by_log != pin:
        last = log.entries[-1] if log.entries else None
        how = f"by {last.who} with --force" if last and last.forced_over_pin else "by the log"
        differences.append(
            f"pinned to {pin[:SHORT]}, but {_short(by_log)} is desired {how}: reconcile {pins.file} with it"
        )
    if wanted is not None and not replicas:
        differences.append("no replica is known to run")
    for replica in replicas:
        if replica.serving != wanted:
            reason = f": {replica.error}" if replica.error else ""
            differences.append(f"replica {replica.name} serves {_short(replica.serving)}{reason}")
        elif replica.error:
            differences.append(f"replica {replica.name}: {replica.error}")
    try:
        aliases = Registry.connect(connection).aliases(model)
        differences += _alias_differences(aliases, mirror.wanted_aliases(store, model, log))
    except ModelportError as error:
        warn(f"MLflow's aliases are not known: {error.message}")
    return Status(
        model,
        wanted,
        str(pins.file or "pin") if pin else "log",
        log.entries[-1] if log.entries else None,
        tuple(replicas),
        aliases,
        tuple(differences),
    )


def _running(store: ObjectStore, connection: Connection, model: str, warn: Warn) -> list[Replica]:
    """Replicas by name: what the agent says now, else a heartbeat that is fresh."""
    now = datetime.now(UTC)
    fresh = [row for row in heartbeats(store, model, warn) if row.age_s(now) < GONE_AFTER.total_seconds()]
    by_name = {row.name: row for row in (*fresh, *agents(connection.agent_urls, model, warn))}
    return [by_name[name] for name in sorted(by_name)]


def _alias_differences(aliases: Mapping[str, str], wanted: Mapping[str, str | None]) -> list[str]:
    return [
        f"MLflow's alias {alias} is on {_short(aliases.get(alias))}, but should be on {_short(digest)}; "
        "moving an alias serves nothing, the next gate, promote or rollback sets it right"
        for alias, digest in wanted.items()
        if aliases.get(alias) != digest
    ]


def _short(digest: str | None) -> str:
    if digest is None:
        return "nothing"
    return digest[:SHORT] or "a version that is no release"
