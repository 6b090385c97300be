"""`modelport gate`, `promote`, `rollback`, `versions`, `status` and `gc`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from modelport.promotion import Changed

_SHORT = 12
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_why = click.option("--why", default="", help="Reason, for the promotion log.")
_pins = click.option(
    "--pins", "pins_file", type=click.Path(path_type=Path), help="YAML file of pinned releases, `model: digest`."
)
_minimum = click.option(
    "--minimum", type=float, help="Another minimum than model.yaml's; the evidence says so. Give promote the same."
)


@click.command()
@click.argument("name")
@click.argument("release", required=False)
@click.option("--data", help="Dataset whose held-out split is used, folder or s3:// URI. [default: the pushed one]")
@_minimum
@_json
def gate(name: str, release: str | None, data: str | None, minimum: float | None, as_json: bool) -> None:
    """Evaluate RELEASE of model NAME (default: the one staged last) on the held-out split.

    RELEASE is a digest, its beginning, or v7 for MLflow's version 7. Exits with 3 when the release does not pass.
    """
    from modelport.connection import Connection
    from modelport.errors import GateFailed
    from modelport.promotion import gate as run_gate

    evidence = run_gate(name, release, data, connection=Connection.load(), minimum=minimum, warn=_warn)
    if as_json:
        click.echo(evidence.model_dump_json(by_alias=True, indent=2))
    else:
        click.echo(f"{name} {evidence.release[:_SHORT]} {evidence.summary()}")
        click.echo(f"minimum from {evidence.rules.minimum_from}; evidence in {evidence.key}")
    if not evidence.passed:
        raise GateFailed("; ".join(evidence.reasons), remedy="the release stays registered, and is not promoted")


@click.command()
@click.argument("name")
@click.argument("release", required=False)
@click.option("--data", help="Dataset that the gate was given, if it is not the pushed one. [default: the pushed one]")
@_minimum
@_why
@_pins
@_json
def promote(
    name: str,
    release: str | None,
    data: str | None,
    minimum: float | None,
    why: str,
    pins_file: Path | None,
    as_json: bool,
) -> None:
    """Make RELEASE of model NAME (default: the one staged last) the one that serves.

    It must have passed the gate under the rules of this checkout, against what serves now, on the held-out split of the
    pushed dataset; where none was pushed, on every split that it was gated on.
    """
    from modelport.connection import Connection
    from modelport.promotion import promote as run_promote
    from modelport.promotion import read_pins

    pins = read_pins(pins_file)
    changed = run_promote(
        name,
        release,
        connection=Connection.load(),
        heldout=data,
        minimum=minimum,
        why=why,
        pins=pins,
        warn=_warn,
    )
    _print_changed(name, changed, as_json)


@click.command()
@click.argument("name")
@click.option("--to", "release", help="Release to go back to. [default: what the last change replaced]")
@click.option("--force", is_flag=True, help="Go over a pin, in an emergency; it is recorded.")
@_why
@_pins
@_json
def rollback(name: str, release: str | None, force: bool, why: str, pins_file: Path | None, as_json: bool) -> None:
    """Make an earlier release of model NAME the one that serves again."""
    from modelport.connection import Connection
    from modelport.promotion import read_pins
    from modelport.promotion import rollback as run_rollback

    pins = read_pins(pins_file)
    changed = run_rollback(name, release, connection=Connection.load(), why=why, force=force, pins=pins, warn=_warn)
    _print_changed(name, changed, as_json)


@click.command()
@click.argument("name")
@_pins
@_json
def versions(name: str, pins_file: Path | None, as_json: bool) -> None:
    """List the releases of model NAME, the newest first."""
    from modelport.connection import Connection
    from modelport.promotion import read_pins
    from modelport.promotion import versions as list_versions

    rows = list_versions(name, connection=Connection.load(), pins=read_pins(pins_file), warn=_warn)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], default=str, indent=2))
        return
    table = [
        (
            f"v{row.version}" if row.version else "-",
            row.digest[:_SHORT],
            row.state,
            _time(row.staged),
            "yes" if row.kept else "no",
            row.gate or "-",
        )
        for row in rows
    ]
    _print_table(("version", "release", "state", "staged", "kept", "gate"), table)
    if not rows:
        click.echo(f"no release of {name} yet: run `modelport train {name}`")


@click.command()
@click.argument("name")
@_pins
@_json
def status(name: str, pins_file: Path | None, as_json: bool) -> None:
    """What should serve for model NAME, what serves, and where they differ."""
    from modelport.connection import Connection
    from modelport.promotion import read_pins
    from modelport.promotion import status as read_status

    found = read_status(name, connection=Connection.load(), pins=read_pins(pins_file), warn=_warn)
    if as_json:
        entry = found.entry.model_dump(mode="json", by_alias=True) if found.entry else None
        click.echo(json.dumps({**asdict(found), "entry": entry}, default=str, indent=2))
        return
    click.echo(f"{name}: desired {found.desired[:_SHORT] if found.desired else 'nothing'} (by {found.desired_by})")
    if found.entry:
        click.echo(f"last change: {found.entry.action} by {found.entry.who} at {_time(found.entry.time)}")
        click.echo(f"  {found.entry.why or 'no reason given'}")
    table = [
        (
            row.name,
            row.serving[:_SHORT] if row.serving else "nothing",
            {True: "ready", False: "not ready", None: "agent not reached"}[row.ready],
            _time(row.seen),
        )
        for row in found.replicas
    ]
    _print_table(("replica", "serves", "agent", "seen"), table)
    for difference in found.differences:
        click.echo(f"differs: {difference}")
    if not found.differences:
        click.echo("everything is as it should be" if found.desired else f"promote one: `modelport promote {name}`")


@click.command()
@click.argument("name")
@click.option("--delete", is_flag=True, help="Remove; without it, only say what would be.")
@click.option("--keep", default=5, show_default=True, help="Versions of the promotion log that are kept.")
@click.option("--staging-days", default=30.0, show_default=True, help="Age at which staged releases expire.")
@click.option("--checkpoint-days", default=14.0, show_default=True, help="Age at which checkpoints expire.")
@_pins
def gc(name: str, delete: bool, keep: int, staging_days: float, checkpoint_days: float, pins_file: Path | None) -> None:
    """Remove what nothing refers to any more of model NAME (dry by default)."""
    from modelport.connection import Connection
    from modelport.promotion import collect_garbage, read_pins

    found = collect_garbage(
        name,
        connection=Connection.load(),
        delete=delete,
        keep=keep,
        staging_days=staging_days,
        checkpoint_days=checkpoint_days,
        pins=read_pins(pins_file),
        warn=_warn,
    )
    for digest, why in found.kept.items():
        click.echo(f"keep {digest[:_SHORT]}: {why}")
    for row in found.garbage:
        click.echo(f"{'removed' if delete else 'would remove'} {row.prefix} ({row.size / 1e6:.1f} MB): {row.why}")
    total = sum(row.size for row in found.garbage) / 1e6
    what = "removed" if delete else "would be removed; --delete does it"
    click.echo(f"{len(found.garbage)} folders of {total:.1f} MB {what}")


def _print_changed(name: str, changed: "Changed", as_json: bool) -> None:
    if as_json:
        entry = changed.entry.model_dump(mode="json", by_alias=True) if changed.entry else None
        click.echo(json.dumps({"digest": changed.digest, "before": changed.before, "entry": entry}, indent=2))
    elif changed.entry is None:
        click.echo(f"{name}: {changed.digest[:_SHORT]} is the desired version already")
    else:
        before = changed.before[:_SHORT] if changed.before else "nothing"
        click.echo(f"{name}: desired version is now {changed.digest[:_SHORT]} (was {before})")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _time(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ") if time else "-"


def _warn(message: str) -> None:
    click.echo(f"warning: {message}", err=True)
