"""Up and down: the platform on one machine."""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelport.connection import Connection
from modelport.errors import BadInput, Unavailable
from modelport.local import health, mlflow, s3, triton
from modelport.local.files import write_private
from modelport.local.layout import Layout
from modelport.local.logbook import LogReader
from modelport.local.processes import MARK, SUPERVISOR, end, marked
from modelport.local.services import NAMES, Service, connection, service_connections, services
from modelport.local.settings import Settings, check_wishes, choose_ports
from modelport.local.state import Say, check_room, exclusive, usable
from modelport.local.supervision import Crashes, Supervisor, render
from modelport.serving import hash_key

UP_SECONDS = 120.0
"""How long the services may take to be ready. A warm start takes a tenth of it."""
_FOREIGN = ("AWS_", "MLFLOW_", "WEED_", "MODELPORT_", "PYTHON", "S3_")
"""Starts of the caller's variables that services must not see: his own clouds, servers and interpreters."""


def _silent(line: str) -> None:
    del line


def up(
    root: Path,
    ports: Mapping[str, int] | None = None,
    *,
    state: Path | None = None,
    say: Say = _silent,
    timeout: float = UP_SECONDS,
) -> Connection:
    """Start the platform of a project, or find the one that runs already; returns when every service is ready.

    Args:
        root: folder that holds ``models/``.
        ports: wished ports by name (`modelport.local.settings.PORTS`); the others are free ones, kept between starts.
        state: its folder; default ``$MODELPORT_STATE`` or ``.modelport`` in the root.
        say: gets lines of progress.
        timeout: seconds until every service must be ready.

    Raises:
        BadInput: a wished port is in use, or the state folder is unusable.
        Conflict: another command works on this platform and does not end.
        Unavailable: a service does not start. Everything that this call started is stopped again.
    """
    wished = dict(ports or {})
    check_wishes(wished)
    layout = Layout.of(root, state)
    with usable(layout):
        layout.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(layout, say):
            supervisor = Supervisor(layout)
            if supervisor.alive():
                return _find(root, layout, supervisor, wished, say, timeout)
            _clean(layout, say)
            check_room(layout)
            try:
                return _start(root, layout, supervisor, wished, say, timeout)
            except BaseException:
                _stop(layout, supervisor)
                raise


def down(root: Path, *, state: Path | None = None, delete: bool = False, say: Say = _silent) -> None:
    """Stop the platform: none of its processes is left. Data stays unless `delete`.

    Raises:
        Unavailable: a process does not end.
    """
    layout = Layout.of(root, state)
    if not layout.state.is_dir():
        _stop(layout, Supervisor(layout))
        return
    with usable(layout), exclusive(layout, say):
        _stop(layout, Supervisor(layout))
        if delete:
            if not layout.settings.is_file() and any(layout.state.iterdir()) and not layout.supervisor.is_dir():
                raise BadInput("is not a platform's state: nothing was deleted", file=layout.state)
            shutil.rmtree(layout.state)


# --- starting ---------------------------------------------------------------------------------------------------------


def _start(
    root: Path, layout: Layout, supervisor: Supervisor, wished: Mapping[str, int], say: Say, timeout: float
) -> Connection:
    environment = triton.ensure_environment(root, say)
    settings = Settings.load(layout.settings)
    if settings is None:
        settings = Settings()
        mlflow.forget_logins(layout.data_of("mlflow"))
    settings = settings.model_copy(update={"ports": choose_ports(wished, settings.ports)})
    settings.save(layout.settings)
    wanted = services(layout, settings, environment)
    _write(layout, settings, wanted)
    triton.lay_out(environment, layout.triton)
    say("starting " + ", ".join(service.name for service in wanted))
    supervisor.start(layout.supervisor / "supervisord.conf", _cleaned_environment() | {MARK: layout.state_id})
    return _finish(layout, settings, supervisor, wanted, say, timeout)


def _find(
    root: Path, layout: Layout, supervisor: Supervisor, wished: Mapping[str, int], say: Say, timeout: float
) -> Connection:
    settings = Settings.load(layout.settings)
    if settings is None:
        raise BadInput(
            "is missing, while the platform runs", file=layout.settings, remedy="`modelport local down`, then `up`"
        )
    for name, port in wished.items():
        if settings.ports.get(name) != port:
            raise BadInput(
                f"the platform runs already, with {name} on port {settings.ports.get(name)}",
                key=f"--port {name}={port}",
                remedy="`modelport local down`, then `up` with this port",
            )
    environment = triton.ensure_environment(root, say)
    wanted = services(layout, settings, environment)
    _write(layout, settings, wanted)
    restarted = supervisor.update()
    say(f"found running; restarted {', '.join(restarted)}" if restarted else "found running")
    return _finish(layout, settings, supervisor, wanted, say, timeout)


def _write(layout: Layout, settings: Settings, wanted: Sequence[Service]) -> None:
    for folder in (layout.supervisor, layout.socket.parent, layout.logs, *(layout.data_of(name) for name in NAMES)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ignore = layout.state / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    owner = connection(settings)
    for name, restricted in service_connections(owner).items():
        restricted.save(layout.connection_of(name))
    s3.write_config(layout.data_of("s3-config") / "identities.json", settings.secrets.s3_keys, owner.bucket)
    mlflow.write_config(layout.data_of("mlflow"))
    # Other callers' keys that somebody added stay.
    callers = json.loads(layout.gateway_keys.read_text()) if layout.gateway_keys.is_file() else {}
    callers["local"] = hash_key(settings.secrets.gateway_api_key)
    write_private(layout.gateway_keys, json.dumps(callers, indent=2))
    write_private(layout.services, json.dumps({service.name: _launched(service) for service in wanted}, indent=2))
    write_private(layout.supervisor / "supervisord.conf", render(layout, wanted))


def _launched(service: Service) -> dict[str, object]:
    return {
        "command": service.command,
        "environment": service.environment,
        "ports": service.ports,
        "url": service.url,
        "health": service.health,
    }


def _finish(
    layout: Layout, settings: Settings, supervisor: Supervisor, wanted: Sequence[Service], say: Say, timeout: float
) -> Connection:
    _await_ready(layout, settings, supervisor, wanted, say, timeout)
    owner = connection(settings)
    owner.save(layout.connection)
    return owner


def _await_ready(
    layout: Layout, settings: Settings, supervisor: Supervisor, wanted: Sequence[Service], say: Say, timeout: float
) -> None:
    started = time.monotonic()
    crashes_before = supervisor.crashes()
    waiting = list(wanted)
    while waiting:
        processes, crashed = supervisor.processes(), supervisor.crashes()
        for service in list(waiting):
            state = processes[service.name].state
            # While it starts, what answers on its port may still be a child that the last one left.
            wrong = _not_ready(service, settings) if state == "RUNNING" else f"it is {state.lower()}"
            if wrong is None:
                waiting.remove(service)
                say(f"{service.name} ready after {time.monotonic() - started:.1f} s at {service.url}")
                continue
            new_crashes = crashed.get(service.name, Crashes()).count - crashes_before.get(service.name, Crashes()).count
            if state == "FATAL" or new_crashes >= 3:
                raise _failure(
                    layout, service, f"does not start ({crashed.get(service.name, Crashes()).last or state})"
                )
            if time.monotonic() - started > timeout:
                raise _failure(layout, service, f"is not ready after {timeout:.0f} s: {wrong}")
        time.sleep(0.1)


def _not_ready(service: Service, settings: Settings) -> str | None:
    wrong = health.problem(service.health)
    if wrong is None and service.name == "s3":
        try:
            s3.prepare(service.url, settings.secrets.s3_keys[s3.Identity.ADMIN], connection(settings).bucket)
        except Unavailable as error:
            return error.message
    if wrong is None and service.name == "mlflow":
        question = f"{service.url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
        return health.problem(question, timeout=10, login=(mlflow.USERNAME, settings.secrets.mlflow_password))
    return wrong


def _failure(layout: Layout, service: Service, what: str) -> Unavailable:
    tail = "\n".join(f"    {line}" for line in LogReader(layout.log_of(service.name)).last(12))
    return Unavailable(
        f"{service.name} {what}. The last lines of its log:\n{tail}",
        file=layout.log_of(service.name),
        remedy=f"mend what it says and run `modelport local up` again; `modelport local logs {service.name}` has more",
    )


def _cleaned_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
    }


# --- stopping ---------------------------------------------------------------------------------------------------------


def _stop(layout: Layout, supervisor: Supervisor) -> None:
    if supervisor.alive():
        # The gateway flushes its records to S3, and MLflow its artifacts: the store goes last.
        supervisor.stop(name for name in NAMES if name != "s3")
        supervisor.shutdown()
        deadline = time.monotonic() + 15
        while not supervisor.gone() and time.monotonic() < deadline:
            time.sleep(0.05)
    _clean(layout, _silent)


def _clean(layout: Layout, say: Say) -> None:
    """End what is left of this platform when its supervisor is not there (killed, or the machine restarted)."""
    left = marked(layout.state_id)
    if left:
        say(f"ending {len(left)} processes that an earlier platform left behind")
        # The supervisor first: it would start the others again.
        end(marked(layout.state_id, SUPERVISOR))
        end(marked(layout.state_id))
    try:
        settings = Settings.load(layout.settings)
    except BadInput:  # `up` complains of a damaged file; here it only means that its ports are unknown
        settings = None
    s3.remove_sockets(settings.ports.values() if settings else ())
    triton.remove_shared_memory(layout.state_id)
    layout.connection.unlink(missing_ok=True)
    layout.socket.unlink(missing_ok=True)
    if layout.socket.parent != layout.supervisor and layout.socket.parent.is_dir():
        shutil.rmtree(layout.socket.parent)
