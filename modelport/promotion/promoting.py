"""Setting the desired version: promotion of a release that passed the gate, and the way back."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modelport.connection import Connection
from modelport.contract import ModelSpec, find_model
from modelport.data import dataset_uri, load_heldout, pinned
from modelport.errors import BadInput, GateFailed, ModelportError, Refused
from modelport.objects import NotFound, ObjectStore
from modelport.project import state_folder
from modelport.promotion import catalogue, mirror
from modelport.promotion.evidence import Evidence, GateRules, evidence_by_release, read_evidence, rules_of
from modelport.promotion.gating import champion_for
from modelport.promotion.log import SHORT, Action, LogEntry, PromotionLog, append, desired, read_log
from modelport.promotion.people import Warn, log_warning, who
from modelport.promotion.pins import NO_PINS, Pins
from modelport.release import RELEASES, Release, staging_prefix

_LOOKS, _PAUSE_S = 3, 0.5
"""For a release that a collection may be putting back."""


@dataclass(frozen=True)
class Changed:
    """What a promotion or a rollback did."""

    digest: str
    """The desired version now."""
    before: str | None
    entry: LogEntry | None
    """What was written to the log; None where this version was the desired one already."""


def promote(
    model: str,
    digest: str | None = None,
    *,
    connection: Connection,
    heldout: str | None = None,
    minimum: float | None = None,
    why: str = "",
    pins: Pins = NO_PINS,
    root: Path | None = None,
    warn: Warn = log_warning,
) -> Changed:
    """Make a release that passed the gate the desired version.

    The release is copied to ``releases/<digest>/``, verified, and only then named in the log. Promoting the desired
    version again writes no log, and mends what was damaged there.

    Args:
        model: name of a folder in the promoter's checkout; its ``model.yaml`` gives the rules.
        digest: the release, its beginning, or ``v7``; the one staged last by default.
        heldout: dataset whose held-out split the evidence must be on, a folder or ``s3://`` URI; by default the pushed
            one of the name that ``model.yaml`` says. Where none was pushed, evidence counts on whatever split, as long
            as none of it is a failure.
        minimum: the minimum that the gate was given, where it was given one.
        why: reason, for the log.
        pins: pinned versions; a pinned model's version changes by a change of their file.

    Raises:
        GateFailed: there is no passing evidence for it on this split, under today's rules and against today's champion.
        Refused: the model is pinned (the message holds the change to make), or this is not the promoter.
        Conflict: somebody else changed the desired version first.
        ModelportError: it was changed, and somebody removed the release at the same time.
        BadInput: the release is damaged, or not what was gated.
    """
    folder = find_model(model, root)
    store = catalogue.promoter_store(connection)
    log = read_log(store, model)
    digest = catalogue.resolve(store, model, digest, log.promoted, connection)
    now = desired(log)
    if digest == now and model not in pins.digests:
        _copy(store, model, digest, root)
        mirror.sync(store, connection, model, root, warn)
        return Changed(digest, now, None)
    rules, split = rules_of(folder, minimum), _split_that_counts(store, folder.spec, heldout, root)
    evidence, evidence_hash = _passing_evidence(store, model, digest, rules, now, split)
    if model in pins.digests:
        raise _pinned(pins, model, digest)
    _copy(store, model, digest, root)
    entry = _next_entry(
        log, Action.PROMOTE, digest, why or evidence.summary(), evidence=evidence.key, evidence_sha256=evidence_hash
    )
    append(store, log, entry)
    _look_again(store, model, digest)
    mirror.sync(store, connection, model, root, warn)
    return Changed(digest, now, entry)


def rollback(
    model: str,
    to: str | None = None,
    *,
    connection: Connection,
    why: str = "",
    force: bool = False,
    pins: Pins = NO_PINS,
    root: Path | None = None,
    warn: Warn = log_warning,
) -> Changed:
    """Make a release that was the desired version before the desired one again. Needs no model folder and no gate.

    It is verified first, and mended from staging where it was damaged: servers would refuse it, and go on with the one
    that is to be taken back.

    Args:
        to: the release, its beginning, or ``v7``; by default what the last change replaced.
        why: reason, for the log.
        force: go over a pin; the log says so, and the pin's file must be brought in line afterwards.

    Raises:
        BadInput: there is no such earlier version, or it is not kept whole any more.
        Refused: the model is pinned and `force` was not given, or this is not the promoter.
        Conflict: somebody else changed the desired version first.
        ModelportError: it was changed, and somebody removed the release at the same time.
    """
    store = catalogue.promoter_store(connection)
    log = read_log(store, model)
    now = desired(log)
    if now is None:
        raise BadInput(f"nothing of {model} was ever promoted", remedy=f"run `modelport promote {model}`")
    digest = _earlier(log) if to is None else catalogue.resolve(store, model, to, log.promoted, connection)
    pin = pins.digests.get(model)
    if pin is not None and pin != digest and not force:
        raise _pinned(pins, model, digest)
    if digest not in log.promoted:
        raise BadInput(
            f"release {digest[:SHORT]} was never promoted, so there is no way back to it",
            remedy=f"run `modelport promote {model} {digest[:SHORT]}`",
        )
    _kept_whole(store, model, digest, root)
    if digest == now:
        mirror.sync(store, connection, model, root, warn)
        return Changed(digest, now, None)
    over = pin if force and pin is not None and pin != digest else None
    entry = _next_entry(log, Action.ROLLBACK, digest, why, forced_over_pin=over)
    append(store, log, entry)
    _look_again(store, model, digest)
    mirror.sync(store, connection, model, root, warn)
    return Changed(digest, now, entry)


def _earlier(log: PromotionLog) -> str:
    before = log.entries[-1].from_
    if before is None:
        raise BadInput(
            f"there is no earlier version of {log.model}: the desired one is the first",
            remedy="promote another release",
        )
    return before


@dataclass(frozen=True)
class _Split:
    """A held-out split that evidence must be on."""

    digest: str
    place: str
    """Where it was found, as ``--data`` names it."""


def _split_that_counts(store: ObjectStore, spec: ModelSpec, given: str | None, root: Path | None) -> _Split | None:
    """The split that the promoter names, else the pushed one of the model's dataset; None where none was pushed."""
    place = given or dataset_uri(store.bucket, spec.data.name)
    if given is None and pinned(store, place) is None:
        return None
    cache = state_folder(root) / "cache" / "heldout"
    return _Split(load_heldout(place, spec, store=store, cache=cache).digest, place)


def _passing_evidence(
    store: ObjectStore, model: str, digest: str, rules: GateRules, now: str | None, split: _Split | None
) -> tuple[Evidence, str]:
    """The evidence for a release on this split, under these rules and against this champion, which must have passed.

    Without a split that is known to be the model's it is the newest of what there is, and all of it must have passed:
    images that are easy must not outvote others.
    """
    gate_hash = rules.gate_hash(champion_for(digest, now))
    remedy = f"run `modelport gate {model} {digest[:SHORT]}`"
    objects = evidence_by_release(store, model).get(digest, [])
    current = [row for row in objects if row.key.endswith(f"-{gate_hash}.json")]
    if not current:
        detail = (
            "no evidence"
            if not objects
            else "evidence only under other rules, against another champion, or by a gate that looked at less"
        )
        raise GateFailed(f"there is {detail} for release {digest[:SHORT]}", remedy=remedy)
    counting = [row for row in current if split is None or row.key.endswith(f"/{split.digest}-{gate_hash}.json")]
    if split is not None and not counting:
        raise GateFailed(
            f"the evidence for release {digest[:SHORT]} is on other images than the held-out ones of {split.place}",
            remedy=f"run `modelport gate {model} {digest[:SHORT]} --data {split.place}`; where other images are to "
            "decide, give promote the --data that the gate was given",
        )
    found = [(row.key, *read_evidence(store, row.key)) for row in counting]
    among, better = "", "train a better one; a release is promoted only on evidence"
    if len(found) > 1:
        among = f" on one of {len(found)} held-out splits"
        better = "push the dataset that counts, or name it to promote with --data"
    for key, evidence, _ in found:
        if evidence.key != key:
            raise BadInput("is evidence of something else", file=f"s3://{store.bucket}/{key}", remedy=remedy)
        if not evidence.passed:
            raise GateFailed(
                f"release {digest[:SHORT]} failed the gate{among}: {'; '.join(evidence.reasons)}", remedy=better
            )
    _, evidence, evidence_hash = found[0]
    return evidence, evidence_hash


def _copy(store: ObjectStore, model: str, digest: str, root: Path | None) -> None:
    """Copy a release from staging to ``releases/``, through a local folder in which every digest was verified.

    One that is there and whole stays; one that was damaged there is mended.

    Raises:
        NotFound: it is in neither place; why not in ``releases/``.
        BadInput: it is damaged in staging.
    """
    why = "is not there"
    with catalogue.scratch(root) as scratch:
        if catalogue.is_released(store, digest):
            try:
                Release.fetch(store, RELEASES, digest, scratch / RELEASES / digest)
                return
            except (BadInput, NotFound) as error:
                why = f"a file of it {error.message}"
        # From staging once more, not from what the gate downloaded: what was changed since must show here.
        try:
            release = Release.fetch(store, staging_prefix(model), digest, scratch / digest)
        except NotFound:
            place = f"s3://{store.bucket}/{RELEASES}/{digest}"
            raise NotFound(f"{why}, and has expired from staging", file=place) from None
        release.upload(store, RELEASES)


def _kept_whole(store: ObjectStore, model: str, digest: str, root: Path | None) -> None:
    """See that there is a way back to a release.

    Raises:
        BadInput: there is none.
    """
    try:
        _copy(store, model, digest, root)
    except NotFound as error:
        raise BadInput(
            f"release {digest[:SHORT]} is no longer kept: {error.message}",
            file=error.file,
            remedy=f"`modelport versions {model}` lists those that are",
        ) from None


def _look_again(store: ObjectStore, model: str, digest: str) -> None:
    """See that what is desired now is there: a collection that had read the log before may have removed it since.

    Such a collection reads the log again after each manifest that it removed, and puts that one back.

    Raises:
        ModelportError: it is gone.
    """
    for look in range(_LOOKS):
        if catalogue.is_released(store, digest):
            return
        if look < _LOOKS - 1:
            time.sleep(_PAUSE_S)
    raise ModelportError(
        f"release {digest[:SHORT]} is desired now, and was removed by somebody at the same time",
        file=f"s3://{store.bucket}/{RELEASES}/{digest}",
        remedy=f"`modelport rollback {model} --to {digest[:SHORT]}` copies it from staging anew; "
        f"`modelport versions {model}` lists others",
    )


def _next_entry(
    log: PromotionLog,
    action: Action,
    to: str,
    why: str,
    *,
    evidence: str | None = None,
    evidence_sha256: str | None = None,
    forced_over_pin: str | None = None,
) -> LogEntry:
    last = log.entries[-1] if log.entries else None
    fields = {
        "seq": len(log.entries) + 1,
        "time": datetime.now(UTC),
        "who": who(),
        "action": action,
        "from": desired(log),
        "to": to,
        "why": why,
        "evidence": evidence,
        "evidence_sha256": evidence_sha256,
        "forced_over_pin": forced_over_pin,
        "previous": last.hash if last else None,
    }
    return LogEntry.model_validate(fields)


def _pinned(pins: Pins, model: str, digest: str) -> Refused:
    pin = pins.digests[model]
    if pin == digest:
        return Refused(f"{model} is pinned to this release already", file=pins.file, key=model)
    return Refused(
        f"{model} is pinned to {pin[:SHORT]}; its version changes by this change under review:\n"
        f"{pins.diff(model, digest)}",
        file=pins.file,
        key=model,
        remedy="commit the change above; in an emergency `modelport rollback --force` goes over the pin",
    )
