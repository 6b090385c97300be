"""The promotion log: one object per model, whose last entry says which release is to be served.

Every append is a conditional replacement of the whole object. Appending and setting the desired version are one atomic
write, so that no crash falls between them and two writers never both win. Entries are chained by hash: an entry that
was changed afterwards shows.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelport.errors import BadInput, Conflict
from modelport.objects import NotFound, ObjectStore
from modelport.release import Sha256, canonical_json, sha256


class Action(StrEnum):
    """What an entry did."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"


class LogEntry(BaseModel):
    """One change of the desired version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int = Field(ge=1)
    time: datetime
    who: str
    action: Action
    from_: Sha256 | None = Field(alias="from")
    """Digest that was desired before."""
    to: Sha256
    """Digest that is desired from here on."""
    why: str
    evidence: str | None
    """Key of the evidence that it was promoted on; None for a rollback."""
    evidence_sha256: str | None
    """Digest of that evidence's bytes: a later gate may write the key anew."""
    forced_over_pin: str | None = None
    """Pinned digest that this rollback went over (the broken glass)."""
    previous: str | None
    """Hash of the entry before; None for the first."""

    @property
    def hash(self) -> str:
        """sha256 of the entry's canonical JSON, which the next one names."""
        return sha256(canonical_json(self.model_dump(mode="json", by_alias=True)))


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["modelport.promotions/1"] = Field(default="modelport.promotions/1", alias="schema")
    entries: tuple[LogEntry, ...]


@dataclass(frozen=True)
class PromotionLog:
    """The log as it was read."""

    model: str
    entries: tuple[LogEntry, ...]
    etag: str | None
    """Of the object that was read, for the next append; None where there is none yet."""

    @property
    def promoted(self) -> list[str]:
        """Digests that were desired at some time, the latest first, each once."""
        return list(dict.fromkeys(entry.to for entry in reversed(self.entries)))


SHORT = 12
"""Digits of a digest that people see; a command takes any beginning that is unambiguous."""
LOGS = "promotions/"
"""Prefix of every model's log, and of the evidence beside it."""
LOG_FILE = "log.json"
_LOG_KEY = re.compile(rf"{LOGS}([a-z][a-z0-9_]*)/{re.escape(LOG_FILE)}")


def log_key(model: str) -> str:
    """Key of a model's log."""
    return f"{LOGS}{model}/{LOG_FILE}"


def logged_models(store: ObjectStore) -> list[str]:
    """Models that have a log, by name."""
    matches = (_LOG_KEY.fullmatch(row.key) for row in store.list(LOGS))
    return sorted(match[1] for match in matches if match)


def read_log(store: ObjectStore, model: str) -> PromotionLog:
    """Read a model's log; an empty one where nothing was promoted yet.

    Raises:
        BadInput: the object is damaged, or an entry was changed afterwards.
    """
    key = log_key(model)
    try:
        data, etag = store.get_tagged(key)
    except NotFound:
        return PromotionLog(model, (), None)
    place = f"s3://{store.bucket}/{key}"
    try:
        entries = _Document.model_validate_json(data).entries
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadInput(f"is no promotion log: {first['msg']}", file=place, remedy="restore it from a backup") from None
    previous: str | None = None
    for number, entry in enumerate(entries, start=1):
        if entry.seq != number or entry.previous != previous:
            raise BadInput(
                "the entry does not follow from the one before: the log was changed by hand",
                file=place,
                key=f"entries.{number - 1}",
                remedy="restore it from a backup",
            )
        previous = entry.hash
    return PromotionLog(model, entries, etag)


def desired(log: PromotionLog) -> str | None:
    """Digest that is to be served; None while nothing was promoted."""
    return log.entries[-1].to if log.entries else None


def append(store: ObjectStore, log: PromotionLog, entry: LogEntry) -> PromotionLog:
    """Write an entry behind those of `log`, if the object is still the one that was read.

    Raises:
        Conflict: somebody else changed the desired version first; nothing was written.
        Refused: this identity may not write it, or the store would let two promotions at once both win.
    """
    store.require_conditions(LOGS)
    entries = (*log.entries, entry)
    data = canonical_json(_Document(entries=entries).model_dump(mode="json", by_alias=True))
    try:
        return PromotionLog(log.model, entries, store.replace(log_key(log.model), data, log.etag))
    except Conflict:
        now = read_log(store, log.model)
        # The client sends a write again when its answer is lost; the second one then loses against the first.
        if now.entries[: len(entries)] == entries:
            return now
        winner = now.entries[-1] if now.entries else None
        what = f": {winner.who} made {winner.to[:SHORT]} the desired version ({winner.action})" if winner else ""
        raise Conflict(
            f"somebody else changed the desired version of {log.model} first{what}; nothing of this was written",
            remedy=f"look at `modelport versions {log.model}` and decide again",
        ) from None
