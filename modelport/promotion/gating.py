"""The gate: a release against the held-out split and the promoter's rules, evaluated in a process of its own."""

import time
from datetime import UTC, datetime
from pathlib import Path

from modelport.connection import Connection, Role
from modelport.contract import find_model
from modelport.data import dataset_uri
from modelport.project import state_folder
from modelport.promotion import catalogue, mirror
from modelport.promotion.evidence import Evidence, rules_of, verdict
from modelport.promotion.gate_job import Job, run_isolated
from modelport.promotion.log import desired, read_log
from modelport.promotion.people import Warn, log_warning, who

TIMEOUT_S = 3600.0


def gate(
    model: str,
    digest: str | None = None,
    heldout: str | None = None,
    *,
    connection: Connection,
    minimum: float | None = None,
    root: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    warn: Warn = log_warning,
) -> Evidence:
    """Evaluate a release, store the evidence, and mirror it to MLflow.

    Args:
        model: name of a folder in the promoter's checkout; its ``model.yaml`` gives the rules.
        digest: the release, its beginning, or ``v7``; the one staged last by default.
        heldout: dataset whose held-out split is used, a folder or ``s3://`` URI; by default the pushed one of the
            name that ``model.yaml`` says. Where that is another split, evidence counts only for a promotion that is
            given the same.
        minimum: another minimum than ``model.yaml``'s; the evidence says so, and counts only for a promotion that is
            given the same.
        timeout_s: how long the evaluation may take.
        warn: told when the mirror in MLflow could not be brought up to date.

    Returns:
        The stored evidence, passed or not.

    Raises:
        BadInput: release or held-out split are damaged, or images of the split were trained on.
        GateFailed: the release cannot answer the images; there is no evidence.
        Unavailable, Refused: the object store is away, or this is not the promoter.
    """
    started = time.monotonic()
    folder = find_model(model, root)
    rules = rules_of(folder, minimum)
    store = catalogue.promoter_store(connection)
    log = read_log(store, model)
    digest = catalogue.resolve(store, model, digest, log.promoted, connection)
    release = catalogue.fetch(store, model, digest, root)
    champion = champion_for(digest, desired(log))
    champion_folder = None if champion is None else catalogue.fetch(store, model, champion, root).folder
    uri = heldout or dataset_uri(store.bucket, folder.spec.data.name)
    remote = "://" in uri
    findings = run_isolated(
        Job(
            release=release.folder.resolve(),
            digest=digest,
            champion=champion_folder and champion_folder.resolve(),
            champion_digest=champion,
            heldout=uri if remote else str(Path(uri).resolve()),
            spec=folder.spec,
            connection=_store_only(connection) if remote else None,
            cache=state_folder(root) / "cache" / "heldout",
        ),
        timeout_s,
    )
    value = findings.metrics[rules.metric]
    variants = {precision: found[rules.metric] for precision, found in findings.variants.items()}
    reasons = verdict(rules, value, findings.champion, findings.golden_problems, variants, findings.truth)
    evidence = Evidence(
        model=model,
        release=digest,
        heldout_digest=findings.heldout_digest,
        rules=rules,
        gate_hash=rules.gate_hash(champion),
        metrics=findings.metrics,
        value=value,
        variants=findings.variants,
        interval=findings.interval,
        champion=findings.champion,
        passed=not reasons,
        reasons=reasons,
        leak_check=findings.leak_check,
        versions=findings.versions,
        truth=findings.truth,
        made=datetime.now(UTC),
        who=who(),
        seconds=round(time.monotonic() - started, 3),
        images=findings.images,
    )
    store.put(evidence.key, evidence.to_bytes())
    mirror.sync(store, connection, model, root, warn)
    return evidence


def champion_for(digest: str, desired_now: str | None) -> str | None:
    """What a release is compared with: the desired one, unless it is that itself."""
    return None if desired_now == digest else desired_now


def _store_only(connection: Connection) -> Connection:
    """What the gate's process needs to read the held-out split, and no other credential."""
    return Connection(
        s3_endpoint=connection.s3_endpoint,
        s3_region=connection.s3_region,
        bucket=connection.bucket,
        s3_keys={Role.PROMOTER: connection.key_for(Role.PROMOTER)},
        tracking_uri="",
    )
