"""`modelport local`: the platform on this machine."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from modelport.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from modelport.local import ServiceStatus


@click.group()
def local() -> None:
    """The platform on this machine: S3, MLflow, Triton, agent and gateway, all on 127.0.0.1."""


@local.command()
@click.option("--port", "wishes", multiple=True, metavar="NAME=N", help="Use this port, e.g. gateway=8080. Repeatable.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds until every service must be ready.")
def up(wishes: tuple[str, ...], timeout: float) -> None:
    """Start the platform, or find the one that runs; returns when every service is ready."""
    from modelport.local import up as start
    from modelport.project import project_root

    connection = start(project_root(), _ports(wishes), say=lambda line: click.echo(line, err=True), timeout=timeout)
    click.echo(f"gateway  {connection.gateway_url}")
    click.echo(f"MLflow   {connection.tracking_uri}  (user {connection.tracking_username})")
    click.echo(f"Triton   http://{connection.triton_http}  grpc://{connection.triton_grpc}")
    click.echo(f"S3       {connection.s3_endpoint}")
    click.echo(f"Keys and passwords: {connection.default_path()}. Stop with `modelport local down`.")


@local.command()
@click.option("--delete", is_flag=True, help="Remove the state as well: datasets, releases, runs, records, keys.")
def down(delete: bool) -> None:
    """Stop the platform; its data stays."""
    from modelport.local import down as stop
    from modelport.project import project_root, state_folder

    stop(project_root(), delete=delete, say=lambda line: click.echo(line, err=True))
    click.echo(
        f"stopped, and {state_folder()} is deleted" if delete else f"stopped; the data stays in {state_folder()}"
    )


@local.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """How every service is. Exit code 5 unless all are ready."""
    from modelport.local import Health
    from modelport.local import status as look
    from modelport.project import project_root

    rows = look(project_root())
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    if any(row.state is not Health.READY for row in rows):
        sys.exit(Unavailable.exit_code)


@local.command()
@click.argument("services", nargs=-1)
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines as they come.")
@click.option("--lines", "-n", default=50, show_default=True, help="How many of the last lines.")
def logs(services: tuple[str, ...], follow: bool, lines: int) -> None:
    """Logs of the services: all of them, or those named."""
    from modelport.local import logs as read
    from modelport.project import project_root

    try:
        for name, line in read(project_root(), services, lines=lines, follow=follow):
            click.echo(line if len(services) == 1 else f"{name:8} | {line}")
    except KeyboardInterrupt:
        return


def _ports(wishes: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for wish in wishes:
        name, _, number = wish.partition("=")
        if not number.isdigit():
            raise BadInput(
                f"{wish!r} is not NAME=NUMBER", key="--port", remedy="write, for example, --port gateway=8080"
            )
        found[name] = int(number)
    return found


def _print_table(rows: "list[ServiceStatus]") -> None:
    from rich.console import Console
    from rich.table import Table

    from modelport.local import Health

    colors = {Health.READY: "green", Health.STARTING: "yellow", Health.RESTARTING: "yellow", Health.STOPPED: "dim"}
    table = Table(box=None, pad_edge=False)
    for column in ("service", "state", "url", "pid", "restarts", "uptime", "memory", "remarks"):
        table.add_column(
            column,
            justify="right" if column in ("pid", "restarts", "uptime", "memory") else "left",
            no_wrap=column != "remarks",
            overflow="fold",
        )
    for row in rows:
        remarks = [row.detail, f"last exit: {row.last_exit}" if row.last_exit else ""]
        table.add_row(
            row.name,
            f"[{colors.get(row.state, 'red')}]{row.state}[/]",
            row.url,
            str(row.pid or ""),
            str(row.restarts),
            _duration(row.uptime_seconds) if row.pid else "",
            f"{row.memory_bytes / 1024**2:.0f} MiB" if row.memory_bytes else "",
            "; ".join(remark for remark in remarks if remark),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
