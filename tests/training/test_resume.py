"""Killed at a random step and started again, a training ends as if nothing had happened.

Stated tolerance: on one worker the metrics agree to 1e-6 and the order of the data exactly.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelport.connection import Connection, Role
from modelport.contract import find_model
from modelport.data import push
from modelport.objects import ObjectStore
from modelport.training import TrainingResult
from tests.training.conftest import Program, Service, Tiny, wait_for

TOLERANCE = 1e-6
SLOW = {"overrides": ["train.pause=0.15"]}
"""Four steps an epoch: long enough to be killed in the midst of it."""


def assert_same(result: dict[str, Any], expected: TrainingResult) -> None:
    assert [row["epoch"] for row in result["epochs"]] == list(range(6))
    assert [row["order"] for row in result["epochs"]] == [row["order"] for row in expected.epochs]
    for found, wanted in zip(result["epochs"], expected.epochs, strict=True):
        assert found["metrics"] == pytest.approx(wanted["metrics"], abs=TOLERANCE)
    assert result["best_epoch"] == expected.best_epoch
    assert (Path(result["checkpoint"]) / "checkpoint.pt").is_file()


def alive(process: psutil.Process) -> bool:
    # In a container nobody may be there to reap what has ended.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def somewhere_in_an_epoch() -> None:
    time.sleep(random.uniform(0, 0.6))


def test_a_worker_then_the_command_is_killed_with_mlflow_away(
    tiny: Tiny, uninterrupted: TrainingResult, mlflow: tuple[Service, Connection], tmp_path: Path
):
    service, connection = mlflow
    connection.save(tmp_path / "connection.json")
    options = {**SLOW, "connection": str(tmp_path / "connection.json")}

    first = tiny.start(**options)
    tiny.reached(1, first)
    service.kill()
    # The same command in another window is told, and disturbs nothing.
    second = tiny.start(**options)
    second.ends(4)
    assert f"is running already (process {first.process.pid})" in second.told
    # A worker alone: replaced without the user's doing.
    first.worker().kill()
    wait_for(lambda: "was lost; workers start anew from the last checkpoint" in first.told, "the loss to be told")
    tiny.reached(len(tiny.journal()["epochs"]) + 1, first)
    somewhere_in_an_epoch()
    # The command alone: what it started ends with it.
    orphans = first.tree()[1:]
    first.process.kill()
    first.process.wait(10)
    wait_for(lambda: not any(map(alive, orphans)), "orphans to end", 20)
    assert "MLflow does not take the record of this run; training goes on" in first.told

    service.start()
    last = tiny.start(**options)
    result = last.result()
    assert result["resumed"]
    assert "going on with run" in last.told
    assert_same(result, uninterrupted)
    assert {row["attempt"] for row in result["epochs"]} == {1, 2}
    assert_recorded(connection, result)

    # Finished: said so at once, without a cluster, and nothing is recorded twice.
    again = tiny.start(**options)
    assert again.result()["epochs"] == result["epochs"]
    assert "is finished already" in again.told
    assert_recorded(connection, result)
    assert_nothing_is_left_behind(tiny, last)


def assert_nothing_is_left_behind(tiny: Tiny, program: Program) -> None:
    """By a training that came to its end, nor by those that were killed before it."""
    assert not [
        folder for folder in Path("/tmp").glob("mp-ray-*") if folder.name.split("-")[2] == str(program.process.pid)
    ]
    assert list(Path("/tmp").glob("modelport-*/tiny")) == [], "code that a killed worker had unpacked"
    (run,) = [path for path in (tiny.root / ".modelport" / "runs" / "tiny").iterdir() if path.is_dir()]
    assert len(list((run / "checkpoints").iterdir())) <= 2
    logs = "".join(file.read_text() for file in (run / "logs").rglob("worker-*.out"))
    assert "prints go to the run's logs" in logs
    assert "prints go to the run's logs" not in program.told


def assert_recorded(connection: Connection, result: dict[str, Any]) -> None:
    """One MLflow run, which holds everything exactly once."""
    connection.configure_tracking()
    from mlflow import MlflowClient

    client = MlflowClient(connection.tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == result["mlflow_run_id"]
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "dice")
    assert [(point.step, point.value) for point in history] == [
        (row["epoch"], pytest.approx(row["metrics"]["dice"])) for row in result["epochs"]
    ]
    assert run.data.params["rate"] == "0.05"
    assert run.data.params["seed"] == "3"
    assert run.data.tags["modelport.data_digest"] == result["digest"]
    assert len(run.data.tags["modelport.code_digest"]) == 64
    found = {
        file.path
        for folder in ("code", "data", "environment")
        for file in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"code/bundle.tar.gz", "data/manifest.json", "environment/requirements.txt"} <= found


def test_two_workers_with_data_and_checkpoints_on_an_s3_that_goes_away(
    tiny: Tiny, uninterrupted: TrainingResult, objects: tuple[Service, Connection], tmp_path: Path
):
    service, connection = objects
    connection.save(tmp_path / "connection.json")
    promoter = ObjectStore.connect(connection, Role.PROMOTER)
    pushed = push("tiny", tiny.data, find_model("tiny", tiny.root).spec, promoter)
    trainer = ObjectStore.connect(connection, Role.TRAINER)
    options = {
        **SLOW,
        "connection": str(tmp_path / "connection.json"),
        "data": pushed.uri,
        "checkpoints_on_s3": True,
        "workers": 2,
    }

    def epochs() -> int:
        keys = [info.key for info in trainer.list("checkpoints/tiny/") if info.key.endswith("/journal.json")]
        return len(json.loads(trainer.get(keys[0]))["epochs"]) if keys else 0

    first = tiny.start(**options)
    wait_for(lambda: epochs() >= 2, "two epochs")
    service.kill()
    first.ends(5)
    assert "the checkpoint cannot be stored" in first.told
    assert "is safe" in first.told
    assert "remedy:" in first.told
    assert "Traceback" not in first.told

    service.start()
    reached = epochs()
    assert reached >= 2
    last = tiny.start(**options)
    wait_for(lambda: epochs() > reached, "the next epoch")
    last.worker().kill()  # one of the two; the other one is stuck in their exchange of gradients
    result = last.result()
    assert f"at epoch {reached + 1}" in last.told
    assert "2 worker(s)" in last.told
    # Half of each batch is on each worker: the same order of the data, though not the same sums.
    assert [row["epoch"] for row in result["epochs"]] == list(range(6))
    assert [row["order"] for row in result["epochs"]] == [row["order"] for row in uninterrupted.epochs]
    assert result["metrics"]["dice"] > 0.5
    assert (Path(result["checkpoint"]) / "checkpoint.pt").is_file()
    kept = {info.key.split("/")[3] for info in trainer.list("checkpoints/tiny/") if info.key.endswith(".pt")}
    assert len(kept) <= 2, "only the best and the latest checkpoint are kept"


def slow_at_first(folder: Path) -> Path:
    """A Python in which Ray's first start fails as on a machine that is too busy for it."""
    driver = (
        "import runpy, sys, ray\n"
        "def init(**_): raise Exception('The current node timed out during startup. This could happen because ...')\n"
        "ray.init, sys.argv = init, sys.argv[2:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__')\n"
    )
    (folder / "driver_with_a_slow_ray.py").write_text(driver)
    program = folder / "python"
    program.write_text(
        f'#!/bin/sh\nmkdir "{folder}/began" 2>/dev/null && '
        f'exec "{sys.executable}" "{folder}/driver_with_a_slow_ray.py" "$@"\nexec "{sys.executable}" "$@"\n'
    )
    program.chmod(0o755)
    return program


def test_a_bug_in_train_py_is_shown_where_it_is_though_ray_was_slow_to_start(tiny: Tiny, tmp_path: Path):
    program = tiny.start(overrides=["train.fail=bug"], python=str(slow_at_first(tmp_path)))
    program.ends(1)
    assert program.told.count("it is started again") == 1
    file = tiny.root / "models" / "tiny" / "train.py"
    line = file.read_text().split("this is a bug")[0].count("\n") + 1
    assert f"error: {file}:{line}: ValueError: this is a bug of train.py" in program.told
    assert "Traceback" not in program.told
    (saved,) = tiny.root.rglob("error.txt")
    assert f"remedy: the traceback is in {saved}" in program.told
    assert f'File "{file}", line {line}' in saved.read_text()
    assert len(tiny.journal()["epochs"]) == 1


def test_a_killed_driver_is_told_and_what_it_started_ends_with_it(tiny: Tiny):
    program = tiny.start()
    wait_for(lambda: any("RuntimeEnvAgent" in " ".join(p.cmdline()) for p in program.tree()), "Ray to start")
    orphans = program.tree()[1:]
    orphans[0].kill()
    program.ends(1)
    assert "the training process ended unexpectedly (killed by signal 9)" in program.told
    assert not any(map(alive, orphans))
