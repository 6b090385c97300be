"""``modelport loadtest``: ask a served model for a while, and measure."""

import re
from pathlib import Path

import click

_TARGETS = ("gateway", "triton-http", "triton-grpc")


def seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """Seconds of ``15``, ``15s`` or ``2m``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m)?", value)
    if not match:
        raise click.BadParameter(f"{value!r} is not a duration such as 15s or 2m")
    return float(match[1]) * (60 if match[2] == "m" else 1)


@click.command()
@click.argument("name")
@click.option("--target", type=click.Choice(_TARGETS), default="gateway", show_default=True, help="Who is asked.")
@click.option("--users", type=click.IntRange(1, 256), default=4, show_default=True, help="How many ask at a time.")
@click.option("--duration", callback=seconds, default="15s", show_default=True, help="How long, such as 15s or 2m.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for report.json, latency.png, requests.csv.  [default: build/loadtest/NAME-TARGET]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Arithmetic that a Triton which is asked directly runs the network with; the gateway's answers name theirs.",
)
@click.option(
    "--rate", type=float, help="Requests per second, sent when due, answered or not.  [default: each user waits]"
)
@click.option("--follow", is_flag=True, help="Releases that are promoted meanwhile may answer too.")
def loadtest(
    name: str,
    target: str,
    users: int,
    duration: float,
    out: Path | None,
    precision: str,
    rate: float | None,
    follow: bool,
) -> None:
    """Ask model NAME with golden images, check every answer, and report latency and throughput.

    Exits with 1 when any request failed or was answered wrongly.
    """
    from modelport.connection import Connection
    from modelport.loadtest import Target, run
    from modelport.project import project_root

    out = out or project_root() / "build" / "loadtest" / f"{name}-{target}"
    report = run(
        name, Connection.load(), Target(target), users, duration, out, precision=precision, rate=rate, follow=follow
    )
    for reason, times in report.failures.items():
        click.echo(f"  failed {times} times: {reason}", err=True)
    if report.p50_ms is not None:
        click.echo(
            f"{name} by {target}: {report.requests} requests by {report.users} users in {report.seconds:.1f} s, "
            f"{report.failed} failed, {report.requests_per_s:.1f}/s; "
            f"p50 {report.p50_ms:.0f} ms, p90 {report.p90_ms:.0f} ms, p99 {report.p99_ms:.0f} ms"
        )
    else:
        click.echo(f"{name} by {target}: {report.requests} requests, none answered rightly")
    click.echo(f"written: {out}/report.json, latency.png, requests.csv")
    if not report.passed:
        raise SystemExit(1)
