"""Supervisor: its configuration, its remote interface over a private socket, and what its log says about crashes."""

import http.client
import re
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelport.errors import BadInput, Unavailable
from modelport.local.layout import Layout
from modelport.local.processes import SERVICE_MARK
from modelport.local.services import Service

_ANSWER_SECONDS = 15.0
_ENDED = ("STOPPED", "EXITED", "FATAL")


def render(layout: Layout, services: Sequence[Service]) -> str:
    """Text of supervisord.conf."""
    folder = layout.supervisor
    lines = [
        "[supervisord]",
        f"logfile={_value(folder / 'supervisord.log')}",
        "logfile_maxbytes=10MB",
        "logfile_backups=1",
        f"pidfile={_value(folder / 'supervisord.pid')}",
        f"directory={_value(layout.state)}",
        f"identifier={layout.state_id}",
        "umask=077",
        "[unix_http_server]",
        f"file={_value(layout.socket)}",
        "chmod=0600",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for service in services:
        command = f'"{_value(sys.executable)}" -P -m modelport.local.launch "{_value(layout.state)}" {service.name}'
        lines += [
            f"[program:{service.name}]",
            f"command={command}",
            # A changed service is told from an unchanged one by this alone: its real command is in services.json.
            f'environment={SERVICE_MARK}="{service.name}",MODELPORT_SERVICE_DIGEST="{service.digest()}"',
            "autorestart=true",
            "startsecs=1",
            "startretries=10",
            f"stopsignal={service.stop_signal}",
            f"stopwaitsecs={service.stop_seconds}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={_value(layout.log_of(service.name))}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines) + "\n"


def _value(path: Path | str) -> str:
    text = str(path)
    if re.search(r"""["'\n\\]|\s[;#]""", text):
        raise BadInput(
            "supervisor cannot be told of a path with quotes, backslashes, line ends, or a space before ';' or '#'",
            file=text,
            remedy="use a folder with a plainer name; MODELPORT_STATE says where the state lies",
        )
    return text.replace("%", "%%")


@dataclass(frozen=True)
class ProcessInfo:
    """What supervisor knows of a service's process."""

    state: str
    """RUNNING, STARTING, BACKOFF, FATAL, EXITED, STOPPED, STOPPING."""
    pid: int
    """0 when there is none."""
    uptime: float
    """Seconds since its last start."""


@dataclass(frozen=True)
class Crashes:
    """Unwanted ends of a service since the platform was started."""

    count: int = 0
    last: str = ""
    """How the last one ended."""


_EXITED = re.compile(r" exited: (\S+) \((.*)\)")


def crashes(log: str) -> dict[str, Crashes]:
    """Crashes by service, read from supervisor's log; it keeps no count of its own."""
    found: dict[str, Crashes] = {}
    for name, how in _EXITED.findall(log):
        found[name] = Crashes(found.get(name, Crashes()).count + 1, how.removesuffix("; not expected"))
    return found


class Supervisor:
    """The supervisor of one platform."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def alive(self) -> bool:
        """Whether this platform's supervisor is there and takes commands."""
        try:
            return self._call("supervisor.getIdentification") == self._layout.state_id
        except Unavailable:
            return False

    def gone(self) -> bool:
        """Whether nobody listens on its socket; while it shuts down it listens and refuses."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._layout.socket))
            except OSError:
                return True
        return False

    def start(self, configuration: Path, environment: Mapping[str, str]) -> None:
        """Start it in the background, and with it the services.

        Raises:
            Unavailable: it does not start.
        """
        for log in self._logs():
            log.unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(configuration)]
        started = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        if started.returncode != 0:
            raise Unavailable(f"supervisor did not start: {started.stdout.strip()[-1500:]}", file=configuration)
        deadline = time.monotonic() + 15
        while not self.alive():
            if time.monotonic() > deadline:
                raise Unavailable("supervisor does not answer on its socket", file=self._layout.socket)
            time.sleep(0.05)

    def processes(self) -> dict[str, ProcessInfo]:
        """Processes by service."""
        rows: Any = self._call("supervisor.getAllProcessInfo")
        return {
            row["name"]: ProcessInfo(
                row["statename"], row["pid"], float(row["now"] - row["start"]) if row["pid"] else 0.0
            )
            for row in rows
        }

    def crashes(self) -> dict[str, Crashes]:
        """Crashes by service since the platform was started."""
        return crashes("".join(log.read_text(errors="replace") for log in self._logs() if log.is_file()))

    def update(self) -> list[str]:
        """Take over a changed configuration: restart what changed, and start what had been given up. Their names."""
        answer: Any = self._call("supervisor.reloadConfig")
        added, changed, removed = answer[0]
        for name in (*changed, *removed):
            self.stop([name])
            self._call("supervisor.removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("supervisor.addProcessGroup", name)
        given_up = [name for name, info in self.processes().items() if info.state in _ENDED]
        for name in given_up:
            self._call("supervisor.startProcess", name, False)
        return [*added, *changed, *given_up]

    def stop(self, names: Iterable[str]) -> None:
        """Stop services side by side, and wait for them.

        Raises:
            Unavailable: one did not stop.
        """
        wanted = set(names)
        waiting = [name for name, info in self.processes().items() if name in wanted and info.state not in _ENDED]
        for name in waiting:
            try:
                self._call("supervisor.stopProcess", name, False)
            except Unavailable:  # it has ended by itself meanwhile; if not, the wait below says so
                continue
        deadline = time.monotonic() + 30
        while True:
            rows = self.processes()
            if all(rows[name].state in _ENDED for name in waiting):
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"these services do not stop: {', '.join(waiting)}")
            time.sleep(0.05)

    def shutdown(self) -> None:
        """Tell it to stop everything and end; returns at once."""
        self._call("supervisor.shutdown")

    def _logs(self) -> list[Path]:
        folder = self._layout.supervisor
        return [folder / "supervisord.log.1", folder / "supervisord.log"]

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = _SocketTransport(self._layout.socket)
        try:
            with xmlrpc.client.ServerProxy("http://supervisor", transport=transport) as proxy:
                return getattr(proxy, method)(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(
                f"supervisor did not do {method}: {error}",
                file=self._layout.socket,
                remedy="`modelport local status` says how the platform is; `modelport local up` mends it",
            ) from error


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket, with a deadline (the one in supervisor's own client has none)."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _SocketTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _SocketConnection(self._path)
