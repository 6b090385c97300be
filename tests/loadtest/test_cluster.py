"""A load test spread over pods: Locust's real master and worker, as their pods would start them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelport.errors import BadInput
from modelport.loadtest.cluster import Plan, locust_arguments, master_host
from tests.loadtest.test_users import MASK, release, right, server  # noqa: F401 (a fixture)

USERS_FILE = Path(__file__).resolve().parents[2] / "loadtests" / "gateway.py"


def run(plan, releases):
    """Exit code and log of the master, and exit code of its worker."""
    environment = {**os.environ, "MODELPORT_GATEWAY_API_KEY": "the-key"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "locust", *locust_arguments(plan, USERS_FILE, releases, master)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for master in (None, "127.0.0.1")
    ]
    try:
        log, _ = processes[0].communicate(timeout=90)
        worker_log, _ = processes[1].communicate(timeout=30)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait(10)
    return processes[0].returncode, log, processes[1].returncode, worker_log


def test_a_master_sums_up_its_workers_and_fails_on_a_wrong_answer(release):  # noqa: F811
    def answer(number, _):
        return 200, right(release.digest, MASK[:-1] if number == 0 else MASK)

    with server(answer) as url:
        code, log, worker_code, worker_log = run(Plan("m", url, users=2, workers=1, duration=4), [release.folder])
    assert code == 1, log + worker_log
    assert "mask has shape [23, 32]" in log
    assert "Aggregated" in log
    assert worker_code in (0, 1), worker_log
    assert "the-key" not in log + worker_log


def test_right_answers_end_well(release):  # noqa: F811
    with server(lambda *_: (200, right(release.digest))) as url:
        code, log, worker_code, worker_log = run(Plan("m", url, users=2, workers=1, duration=4), [release.folder])
    assert (code, worker_code) == (0, 0), log + worker_log


@pytest.mark.parametrize(
    ("users", "workers", "duration", "key"),
    [(0, 1, 5, "--users"), (1, 2, 5, "--users"), (257, 1, 5, "--users"), (4, 2, 7200, "--duration")],
)
def test_runs_are_bounded(users, workers, duration, key):
    with pytest.raises(BadInput) as raised:
        locust_arguments(Plan("m", "http://127.0.0.1:9", users, workers, duration), USERS_FILE, [], None)
    assert raised.value.key == key


def test_pods_find_the_master_by_their_job():
    assert master_host("load-test-17-0", 0, "load-test") is None
    assert master_host("load-test-17-3", 3, "load-test") == "load-test-17-0.load-test"
    with pytest.raises(BadInput, match="not pod 3"):
        master_host("laptop", 3, "load-test")
