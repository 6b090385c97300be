"""Runs Locust's users in a process of their own, for a bounded time, and reads what they measured."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from modelport.connection import Connection, Role
from modelport.errors import BadInput, ModelportError, Unavailable
from modelport.loadtest.plot import latency_plot
from modelport.loadtest.report import LoadReport, read_samples, summarize
from modelport.objects import ObjectStore
from modelport.project import project_root, state_folder
from modelport.release import FP32, Release

MAX_USERS = 256
MAX_SECONDS = 3600.0
MAX_RATE = 1000.0
_START_AND_STOP_S = 90.0
"""Granted to Locust beyond the duration: imports on a busy machine, and the last answers."""


class Target(StrEnum):
    """Who is asked."""

    GATEWAY = "gateway"
    TRITON_HTTP = "triton-http"
    TRITON_GRPC = "triton-grpc"


def run(
    name: str,
    connection: Connection,
    target: Target,
    users: int,
    duration: float,
    out: Path,
    *,
    releases: Sequence[str] | None = None,
    precision: str = FP32,
    rate: float | None = None,
    follow: bool = False,
) -> LoadReport:
    """Ask model `name` with golden images for `duration` seconds and check every answer; see `measure`.

    Args:
        releases: digests that may answer; by default the one that is to be served now.
        rate: see `measure`.
        follow: see `measure`.
        precision: arithmetic that a Triton which is asked directly runs the network with; the gateway says its own.

    Raises:
        BadInput: too many users, too long, or nothing of this model is promoted.
        Unavailable: the platform cannot be reached.
        ModelportError: Locust did not run to its end; its log is named.
    """
    host = _host(connection, target)
    folders = fetch_releases(name, connection, releases)
    return measure(
        name,
        host,
        target,
        folders,
        users=users,
        duration=duration,
        out=out,
        api_key=connection.gateway_api_key,
        precision=precision,
        rate=rate,
        follow=follow,
    )


def measure(
    name: str,
    host: str,
    target: Target,
    folders: Mapping[str, Path],
    *,
    users: int,
    duration: float,
    out: Path,
    api_key: str | None = None,
    precision: str = FP32,
    rate: float | None = None,
    follow: bool = False,
) -> LoadReport:
    """Ask the server at `host` (a URL) with the golden images of releases (folders by digest) that may answer.

    Writes ``report.json``, ``latency.png``, ``requests.csv`` (a line per request) and ``locust.log`` into `out`.

    Args:
        users: how many ask at the same time, 1 to 256; without `rate` each waits for its answer before it asks again.
        duration: seconds, up to an hour.
        precision: see `run`.
        rate: requests per second of all users together, sent when they are due, answered or not (an open loop): a slow
            server is asked as often as a fast one. Of the gateway only.
        follow: whether releases that are promoted meanwhile may answer too; they are read from the object store that
            this process is connected to.

    Raises:
        BadInput: too many users, too long, or a rate that cannot be had.
        ModelportError: Locust did not run to its end; its log is named.
    """
    if not 1 <= users <= MAX_USERS:
        raise BadInput(f"{users} users; 1 to {MAX_USERS} can be run from one machine", key="--users")
    if not 1 <= duration <= MAX_SECONDS:
        raise BadInput(f"{duration:g} seconds; a run takes 1 to {MAX_SECONDS:g}", key="--duration")
    pace = arrivals(rate, users, target)
    out.mkdir(parents=True, exist_ok=True)
    samples_file = out / "requests.csv"
    samples_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(_users_file(target)), "--headless", "--only-summary"]
    command += ["--host", host, "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{duration:.0f}s"]
    # Wrong answers are counted in the report; Locust's own exit code then only says whether it ran.
    command += ["--stop-timeout", "20", "--exit-code-on-error", "0", "--samples", str(samples_file), "--model", name]
    command += ["--precision", precision, *pace, *(["--follow"] if follow else [])]
    for folder in folders.values():
        command += ["--release", str(folder)]
    _run_locust(command, api_key, duration + _START_AND_STOP_S, out / "locust.log")
    samples = read_samples(samples_file)
    report = summarize(samples, model=name, target=target, releases=tuple(folders), users=users)
    (out / "latency.png").write_bytes(latency_plot(samples, report))
    (out / "report.json").write_text(report.model_dump_json(indent=2) + "\n")
    return report


def arrivals(rate: float | None, users: int, target: Target = Target.GATEWAY) -> list[str]:
    """Locust's options for an open loop of `rate` requests a second, spread over the users; none without a rate. Pure.

    Raises:
        BadInput: the rate is out of range, or it is not the gateway that is asked.
    """
    if rate is None:
        return []
    if target is not Target.GATEWAY:
        raise BadInput(f"an open loop asks the gateway, not {target}", key="--rate")
    if not 0 < rate <= MAX_RATE:
        raise BadInput(f"{rate:g} requests per second; up to {MAX_RATE:g} can be sent", key="--rate")
    return ["--arrivals", f"{rate / users:.6f}"]


def fetch_releases(name: str, connection: Connection, digests: Sequence[str] | None = None) -> dict[str, Path]:
    """Verified local folders of releases of a model, by digest; by default of the one that is to be served now.

    Raises:
        BadInput: nothing of this model is promoted.
    """
    from modelport.promotion import desired, read_log
    from modelport.release import RELEASES

    store = ObjectStore.connect(connection, Role.SERVER)
    if digests is None:
        wanted = desired(read_log(store, name))
        if wanted is None:
            raise BadInput("nothing of this model is promoted", key=name, remedy=f"run `modelport promote {name}`")
        digests = [wanted]
    cache = state_folder() / "loadtest" / "releases"
    return {digest: Release.fetch(store, RELEASES, digest, cache / digest).folder for digest in digests}


def promoted_release(name: str) -> Callable[[str], Release]:
    """How to read a release of a model by its digest, verified, from the platform that this process is connected to.

    The connection is looked for when a release is asked for: most runs see none but those that they know.
    """

    def fetch(digest: str) -> Release:
        return Release.open(fetch_releases(name, Connection.load(), [digest])[digest], digest)

    return fetch


def _host(connection: Connection, target: Target) -> str:
    address = {
        Target.GATEWAY: connection.gateway_url,
        Target.TRITON_HTTP: connection.triton_http and f"http://{connection.triton_http}",
        Target.TRITON_GRPC: connection.triton_grpc and f"grpc://{connection.triton_grpc}",
    }[target]
    if not address:
        raise Unavailable(f"this connection does not say where {target} is", key="--target")
    return address


def _users_file(target: Target) -> Path:
    file = project_root() / "loadtests" / f"{target.replace('-', '_')}.py"
    if not file.is_file():
        raise BadInput("there is no such file of users", file=file, remedy="run this inside a clone of the project")
    return file


def _run_locust(command: Sequence[str], api_key: str | None, deadline: float, log: Path) -> None:
    # The key goes by the environment: arguments can be read by every user of the machine.
    environment = {**os.environ, "MODELPORT_GATEWAY_API_KEY": api_key or ""}
    # Ours, not settings that a person keeps for other projects.
    environment = {key: value for key, value in environment.items() if not key.startswith("LOCUST_")}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=deadline)
        except subprocess.TimeoutExpired:
            raise ModelportError(
                f"the load test did not end within {deadline:.0f} s and was stopped", file=log
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise ModelportError(f"locust ended with code {code}: {' | '.join(tail)}", file=log)
