"""One pod of a load test in a cluster: Locust's master, or one of its workers, for a bounded time.

The pods belong to one indexed Job. The first is the master: it waits for the workers, tells them when to begin and to
end, prints what all of them measured, and fails when any answer failed or was wrong.

    python -m modelport.loadtest.cluster polyp_seg --host http://gateway:8080 --users 64 --workers 4 --duration 60 \\
        --service load-test
"""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from modelport.connection import Connection
from modelport.errors import BadInput
from modelport.loadtest.run import MAX_SECONDS, MAX_USERS, arrivals, fetch_releases
from modelport.project import project_root

PORT = 5557
_WORKERS_WAIT_S = 180
"""Granted to the workers for starting; without them there is no test."""


@dataclass(frozen=True)
class Plan:
    """A load test, as every pod of it knows it."""

    model: str
    host: str
    """URL of the gateway."""
    users: int
    """How many ask at a time, all workers together."""
    workers: int
    duration: float
    """Seconds."""
    rate: float | None = None
    """Requests per second of all together, sent when they are due; None: each user waits for its answer."""


def locust_arguments(plan: Plan, users_file: Path, releases: Sequence[Path], master: str | None) -> list[str]:
    """Arguments of Locust in a pod: the master's when `master` is None, else those of a worker of that host.

    Raises:
        BadInput: too many users for the workers, too long, or too high a rate.
    """
    if not 1 <= plan.workers <= plan.users <= plan.workers * MAX_USERS:
        raise BadInput(
            f"{plan.users} users on {plan.workers} workers; each worker runs 1 to {MAX_USERS}", key="--users"
        )
    if not 1 <= plan.duration <= MAX_SECONDS:
        raise BadInput(f"{plan.duration:g} seconds; a run takes 1 to {MAX_SECONDS:g}", key="--duration")
    arguments = ["-f", str(users_file), "--host", plan.host, "--model", plan.model, "--follow"]
    arguments += arrivals(plan.rate, plan.users)
    for folder in releases:
        arguments += ["--release", str(folder)]
    if master is not None:
        return [*arguments, "--worker", "--master-host", master, "--master-port", str(PORT)]
    arguments += ["--master", "--master-bind-port", str(PORT), "--headless", "--only-summary"]
    arguments += ["--users", str(plan.users), "--spawn-rate", str(plan.users), "--run-time", f"{plan.duration:.0f}s"]
    arguments += ["--expect-workers", str(plan.workers), "--expect-workers-max-wait", str(_WORKERS_WAIT_S)]
    return [*arguments, "--stop-timeout", "20"]


def master_host(pod: str, index: int, service: str) -> str | None:
    """Where a pod finds the master; None in the master itself.

    Args:
        pod: Host name of this pod, ``<job>-<index>``.
        index: Its index in the Job.
        service: Headless Service of the Job's pods.

    Raises:
        BadInput: the host name is not that of such a pod.
    """
    job = pod.removesuffix(f"-{index}")
    if job == pod:
        raise BadInput(f"{pod!r} is not pod {index} of an indexed Job", key="JOB_COMPLETION_INDEX")
    return None if index == 0 else f"{job}-0.{service}"


@click.command()
@click.argument("model")
@click.option("--host", required=True, help="URL of the gateway.")
@click.option("--users", type=int, required=True, help="How many ask at a time.")
@click.option("--workers", type=int, required=True, help="Worker pods.")
@click.option("--duration", type=float, required=True, help="Seconds.")
@click.option("--rate", type=float, help="Requests per second, sent when due.  [default: each user waits]")
@click.option("--service", required=True, help="Headless Service of the Job's pods.")
def main(model: str, host: str, users: int, workers: int, duration: float, rate: float | None, service: str) -> None:
    """Become Locust's master or worker, by this pod's index in its Job."""
    index = os.environ.get("JOB_COMPLETION_INDEX", "")
    if not index.isdigit():
        raise BadInput(f"is {index!r}; run this in an indexed Job", key="JOB_COMPLETION_INDEX")
    master = master_host(socket.gethostname(), int(index), service)
    users_file = project_root() / "loadtests" / "gateway.py"
    releases = list(fetch_releases(model, Connection.load()).values())
    plan = Plan(model, host, users, workers, duration, rate)
    arguments = locust_arguments(plan, users_file, releases, master)
    # In place of this process: signals and the exit code are Locust's own. The Job bounds its time.
    os.execv(sys.executable, [sys.executable, "-m", "locust", *arguments])  # noqa: S606


if __name__ == "__main__":
    main()
