"""Training what a packed bundle holds, on a Ray cluster that was there before and whose worker sees none of our files.

As in a cluster: the head has no CPUs, code reaches the worker with the job, data and checkpoints are on S3.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelport.connection import Connection, Role
from modelport.contract import ModelFolder
from modelport.data import push
from modelport.local.ports import free_ports
from modelport.objects import ObjectStore
from modelport.release import Registry, Release, staging_prefix
from modelport.training.session import end_session
from tests.training.conftest import wait_for

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))
import redness

MODEL = "bundled"
RAY = Path(sys.executable).parent / "ray"

TRAIN = """\
import time

import torch
from torch import nn
from torch.nn import functional as F


def train(run):
    model = run.prepare(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)))
    state = run.resume()
    if state is not None:
        model.load_state_dict(state["model"])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in run.epochs(3):
        for index in run.shard(range(len(run.train))):
            image = torch.from_numpy(run.train.image(index)).permute(2, 0, 1)[None].float() / 255
            target = torch.from_numpy(run.train.target(index)).float()[None, None]
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(image), target)
            loss.backward()
            optimizer.step()
        run.report({"dice": 0.5 + epoch / 10, "loss": loss.item()}, {"model": model.state_dict()}, epoch=epoch)
        time.sleep(run.parameters["pause"])
"""


@dataclass
class Machines:
    """A Ray cluster of two, and how a command on the first one runs."""

    environment: dict[str, str]
    folder: Path
    """Of the first machine only: the second one sees an empty folder there."""

    def start(self, log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
        with log.open("wb") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "modelport", *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
            )

    def run(self, log: Path, *arguments: str) -> tuple[int, str]:
        process = self.start(log, *arguments)
        try:
            return process.wait(240), log.read_text()
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"did not end:\n{log.read_text()}")


@pytest.fixture
def machines(tmp_path: Path, tracked_connection: Connection) -> Iterator[Machines]:
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("machines that do not see each other's files need the right to unshare mounts")
    folder = tmp_path / "first"
    folder.mkdir()
    tracked_connection.restricted_to(Role.TRAINER).save(folder / "connection.json")
    # Ray puts Unix sockets there, whose paths must be short.
    session = Path(f"/tmp/mp-test-{os.getpid()}")
    gcs, *others = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MODELPORT_"))}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    # Workers take ports at random: the range that is Ray's own default may hold one of ours.
    common = ["--min-worker-port=0", "--max-worker-port=0"]
    common += ["--block", "--disable-usage-stats", "--object-store-memory=100000000", f"--temp-dir={session}"]
    head = [RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=0", *common]
    head += ["--include-dashboard=false", f"--dashboard-agent-listen-port={others[0]}"]
    worker = [RAY, "start", f"--address=127.0.0.1:{gcs}", "--node-ip-address=127.0.0.2", "--num-cpus=1", *common]
    worker += [f"--dashboard-agent-listen-port={others[1]}"]
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', folder]
    logs = [tmp_path / "head.log", tmp_path / "worker.log"]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command, log, ready in ((head, logs[0], "Ray runtime started"), ([*hidden, *worker], logs[1], "started")):
            with log.open("wb") as stream:
                running.append(
                    subprocess.Popen(
                        command, stdout=stream, stderr=stream, env=environment, cwd="/", start_new_session=True
                    )
                )
            wait_for(lambda log=log, ready=ready: ready in log.read_text(), f"Ray; see {log}", 60)
        yield Machines(
            {
                **environment,
                "RAY_ADDRESS": f"127.0.0.1:{gcs}",
                "HOME": str(folder),
                "TMPDIR": str(folder),
                "MODELPORT_CONNECTION": str(folder / "connection.json"),
            },
            folder,
        )
    finally:
        for process in running:
            # All of its session: told to end, Ray would first wait for half a minute.
            end_session(process.pid)
            process.wait(10)
        shutil.rmtree(session, ignore_errors=True)


@pytest.fixture
def bundled(tmp_path: Path, tracked_connection: Connection) -> tuple[Path, str]:
    """A bundle whose folder is gone, and the address of its dataset on S3."""
    folder = redness.write_project(tmp_path / "checkout", MODEL)
    spec = folder.path / "model.yaml"
    spec.write_text(spec.read_text().replace("{size: 32}", "{size: 32, pause: 0.0}"))
    (folder.path / "train.py").write_text(TRAIN)
    (tmp_path / "bundle.tar.gz").write_bytes(folder.bundle().to_bytes())
    promoter = ObjectStore.connect(tracked_connection, Role.PROMOTER)
    pushed = push(MODEL, tmp_path / "checkout" / "data", ModelFolder(folder.path).spec, promoter)
    shutil.rmtree(tmp_path / "checkout")
    return tmp_path / "bundle.tar.gz", pushed.uri


def test_a_bundle_trains_on_other_machines_and_becomes_a_release(
    machines: Machines, bundled: tuple[Path, str], tracked_connection: Connection, tmp_path: Path
) -> None:
    bundle, uri = bundled
    trainer = ObjectStore.connect(tracked_connection, Role.TRAINER)
    command = ["train", MODEL, "--bundle", str(bundle), "--checkpoints", "s3", "--set", "train.pause=2.0"]

    # Ended as a pod is ended: MLflow is told, and the checkpoint on S3 is all that stays.
    first = machines.start(tmp_path / "first.log", *command)

    def epoch() -> bool:
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        return any(info.key.endswith("checkpoint.pt") for info in trainer.list(f"checkpoints/{MODEL}/"))

    wait_for(epoch, "an epoch")
    first.terminate()
    assert first.wait(60) == 128 + signal.SIGTERM
    assert [path.name for path in machines.folder.glob("modelport-*")] == []
    tracked_connection.configure_tracking()
    from mlflow import MlflowClient

    client = MlflowClient(tracked_connection.tracking_uri)
    experiment = client.get_experiment_by_name(MODEL)
    assert experiment is not None

    def status() -> list[str]:
        return [run.info.status for run in client.search_runs([experiment.experiment_id])]

    assert status() == ["KILLED"]

    # As a submission asks for it: by the name of the run.
    run = (tmp_path / "first.log").read_text().split()[1].rstrip(";")
    code, told = machines.run(tmp_path / "second.log", *command, "--run", run)
    assert code == 0, told
    assert f"going on with run {run}" in told
    assert "1 worker(s) with 1 thread(s)" in told
    assert status() == ["FINISHED"]
    digest = next(line.split()[1] for line in told.splitlines() if line.startswith("release "))
    (version,) = Registry.connect(tracked_connection).versions(MODEL)
    assert version.digest == digest
    manifest = Release.fetch(trainer, staging_prefix(MODEL), digest, tmp_path / "release").manifest
    assert manifest.data_digest == uri.rpartition("/")[2].removesuffix(".json"), "the version that was pushed last"
