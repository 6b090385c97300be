"""`modelport connect`: a stack's cluster, for the other commands."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from modelport.errors import BadInput

if TYPE_CHECKING:
    from modelport.remote import Service, Session, Wanted


_PATIENCE_S = 10.0
"""A command has so long to end after each signal."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("stack")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(["reader", "trainer", "promoter"]),
    help="Have this role and no other; may be repeated. [default: what the commands need, of what you may have]",
)
@click.option("--key", "caller", metavar="CALLER", help="Ask the gateway as this caller. [default: the one you may be]")
@click.option("--context", help="Context of the kubeconfig. [default: that of the stack's outputs, or the current one]")
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="[default: kubectl's own]")
@click.option(
    "--port", "ports", multiple=True, metavar="NAME=NUMBER", help="Port of s3, mlflow or gateway here. [default: free]"
)
def connect(
    stack: str,
    command: tuple[str, ...],
    roles: tuple[str, ...],
    caller: str | None,
    context: str | None,
    kubeconfig: Path | None,
    ports: tuple[str, ...],
) -> None:
    """Reach the cluster of STACK, for as long as this runs, or as COMMAND runs.

    \b
    modelport connect dev                                 until Ctrl-C; then in another terminal
    modelport --stack dev versions polyp_seg              (or with MODELPORT_STACK=dev)
    modelport connect dev -- modelport train polyp_seg    for one command
    modelport connect dev --role trainer -- python my.py  for a program that loads a Connection

    Each command gets the credentials that it needs and no others, of those that the cluster lets you read. They are in
    the state folder while this runs, readable by you only.
    """
    from modelport.project import project_root, state_folder
    from modelport.remote import connected, find, own_command

    wanted = _wanted(command, roles, caller, _ports(ports))
    found = find(stack, kubeconfig, context, project_root())
    # Whoever ends us, the credentials go.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    with connected(found, wanted, state_folder(), _tell) as made:
        if command:
            # That of another platform would go before this one's.
            inherited = {name: value for name, value in os.environ.items() if name != "MODELPORT_CONNECTION"}
            own = own_command(command)
            # Of ours, this one: another may be on PATH, or none.
            line = command if own is None else [sys.executable, "-m", "modelport", *own]
            code = _run(line, {**inherited, **made.environment(), **_connection(made, command, wanted)})
        else:
            _print(made, found.cluster.context, found.by)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            click.echo("not connected any more; its credentials are removed")
            code = 0
    sys.exit(code)


def _wanted(
    command: Sequence[str], roles: Sequence[str], caller: str | None, ports: "Mapping[Service, int]"
) -> "Wanted":
    from modelport.remote import NEEDS, Person, Wanted, own_command, use_of

    uses = tuple(NEEDS)
    if command:
        own = own_command(command)
        use = None if own is None else use_of(own)
        if own is not None and use is None:
            raise BadInput(
                f"`{' '.join(command)}` needs no stack",
                key="COMMAND",
                remedy="run it without `modelport connect`; `modelport --help` lists commands",
            )
        uses = uses if use is None else (use,)
    people = tuple(Person(role) for role in roles) or None
    return Wanted(uses, people, caller, ports, shared=not command)


def _connection(made: "Session", command: Sequence[str], wanted: "Wanted") -> dict[str, str]:
    """The connection that a command finds, where it is clear which one that is."""
    from modelport.remote import own_command

    if own_command(command) is not None:
        (use,) = wanted.uses
        return {"MODELPORT_CONNECTION": str(made.file(use))}
    if wanted.people and len(wanted.people) == 1:
        return {"MODELPORT_CONNECTION": str(made.file_of(wanted.people[0]))}
    # Commands that it runs choose theirs by the stack.
    return {}


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command to its end; its exit code."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise BadInput(f"{command[0]} cannot be run: {error.strerror}", key="COMMAND") from None
    # Ctrl-C is the command's to take; it goes to both of us, and we end when it has.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        _end(process)
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command that is still running: one that will not end must not keep the credentials here."""
    # A shell that somebody types into does not heed the first, and tells what it has started of the second.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)


def _print(made: "Session", context: str, by: str) -> None:
    from modelport.remote import Use

    click.echo(f"connected to stack {made.stack}, in the cluster of context {context} ({by})")
    for person, why in made.people.items():
        click.echo(f"  role {person:8}  {_yes_or_no('yes', why)}")
    whose = _yes_or_no(f"as caller {made.caller}", made.gateway)
    click.echo(f"  gateway        {whose}")
    for service, url in made.urls.items():
        click.echo(f"  {service:8}       {url}")
    example = "predict polyp_seg IMAGE" if Use.LOOK not in made.uses else "versions polyp_seg"
    click.echo(f"in another terminal: modelport --stack {made.stack} {example}")
    click.echo("Ctrl-C ends it")


def _yes_or_no(yes: str, why_not: str) -> str:
    return f"no, {why_not.partition(': ')[2]}" if why_not else yes


def _ports(wishes: Sequence[str]) -> "dict[Service, int]":
    from modelport.remote import Service

    found: dict[Service, int] = {}
    for wish in wishes:
        name, _, number = wish.partition("=")
        if name not in set(Service) or not number.isdigit() or not 0 < int(number) < 65536:
            raise BadInput(
                f"{wish!r} is not NAME=NUMBER",
                key="--port",
                remedy=f"write, for example, --port mlflow=5000; names: {', '.join(Service)}",
            )
        found[Service(name)] = int(number)
    return found


def _tell(line: str) -> None:
    click.echo(f"connect: {line}", err=True)


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)
