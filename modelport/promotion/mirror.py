"""MLflow as a mirror of the promotion log: versions, aliases and evidence, for people and tools.

The object store is the truth, and everything here can be made again from it: whatever one command could not write, the
next one does.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from modelport.connection import Connection
from modelport.errors import ModelportError
from modelport.objects import ObjectInfo, ObjectStore
from modelport.promotion import catalogue
from modelport.promotion.evidence import Evidence, evidence_by_release, read_evidence
from modelport.promotion.log import SHORT, PromotionLog, desired, read_log
from modelport.promotion.numbering import differently, note_numbers
from modelport.promotion.people import Warn
from modelport.release import RegisteredVersion, Registry

CHAMPION = "champion"
"""Alias of the desired release."""
CHALLENGER = "challenger"
"""Alias of the release that passed the gate last and was never promoted."""
_EVIDENCE_TAG = "modelport.evidence"


def sync(store: ObjectStore, connection: Connection, model: str, root: Path | None, warn: Warn) -> None:
    """Bring MLflow up to date with the log and the evidence; where that fails, warn: the next command does it."""
    try:
        _sync(store, Registry.connect(connection), model, root, warn)
    except ModelportError as error:
        warn(f"MLflow does not show this yet: {error.message}; the next gate, promote or rollback brings it up to date")


def wanted_aliases(store: ObjectStore, model: str, log: PromotionLog) -> dict[str, str | None]:
    """Digest by alias, as the log and the evidence have it; None where there is no such release."""
    return {CHAMPION: desired(log), CHALLENGER: _challenger(store, model, log)}


def _challenger(store: ObjectStore, model: str, log: PromotionLog) -> str | None:
    promoted = set(log.promoted)
    rows = [
        (objects[0].modified, digest, objects[0].key)
        for digest, objects in evidence_by_release(store, model).items()
        if digest not in promoted
    ]
    for _, digest, key in sorted(rows, reverse=True):
        if read_evidence(store, key)[0].passed:
            return digest
    return None


def _sync(store: ObjectStore, registry: Registry, model: str, root: Path | None, warn: Warn) -> None:
    log = read_log(store, model)
    wanted = wanted_aliases(store, model, log)
    known = {row.digest for row in registry.versions(model)}
    for digest in wanted.values():
        if digest is not None and digest not in known:
            # Training staged it while MLflow was away, or MLflow was set up anew.
            release = catalogue.fetch(store, model, digest, root)
            registry.register(release.manifest, digest, catalogue.staging_uri(store, model, digest))
    rows = registry.versions(model)
    evidence = {digest: objects[0] for digest, objects in evidence_by_release(store, model).items()}
    gated = {row.version: row.digest for row in rows if row.digest in evidence}
    for number, noted in note_numbers(store, model, gated).items():
        warn(differently(model, number, noted, gated[number]))
    _attach_evidence(store, registry, model, rows, evidence)
    current = registry.aliases(model)
    for alias, digest in wanted.items():
        if current.get(alias) != digest:
            registry.set_alias(model, alias, digest)


def _attach_evidence(
    store: ObjectStore,
    registry: Registry,
    model: str,
    rows: Iterable[RegisteredVersion],
    newest: Mapping[str, ObjectInfo],
) -> None:
    for row in rows:
        found = newest.get(row.digest)
        # The tag names the evidence that was mirrored; a gate that was run again has another time.
        mark = found and f"{found.key} {found.modified.isoformat()}"
        if found is None or mark is None or row.tags.get(_EVIDENCE_TAG) == mark:
            continue
        evidence, _ = read_evidence(store, found.key)
        if row.run_id is not None:
            registry.attach(row.run_id, f"evidence/{row.digest[:SHORT]}.json", _document(evidence))
        registry.describe(model, row, {"modelport.gate": evidence.summary(), _EVIDENCE_TAG: mark})


def _document(evidence: Evidence) -> dict[str, object]:
    return evidence.model_dump(mode="json", by_alias=True)
