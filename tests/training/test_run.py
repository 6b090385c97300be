"""The run that a folder is given, and the keeper of its checkpoints, without a cluster around them."""

import math
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tiny_project import MODEL_YAML, write_dataset

from modelport.connection import Connection, Role
from modelport.contract import ModelSpec, parse_spec
from modelport.data import load_dataset
from modelport.errors import BadInput, Conflict, ModelportError, Unavailable
from modelport.objects import ObjectStore
from modelport.training.checkpoints import CheckpointStore, LocalCheckpoints, ObjectCheckpoints
from modelport.training.events import Ended, EpochDone, Event, Note
from modelport.training.harness import _Training, find_run
from modelport.training.journal import Journal
from modelport.training.patience import Patience
from modelport.training.run import Run

MakeRun = Callable[..., Run]


@pytest.fixture
def spec() -> ModelSpec:
    return parse_spec(MODEL_YAML)


@pytest.fixture
def store(tmp_path: Path) -> LocalCheckpoints:
    return LocalCheckpoints(tmp_path / "run")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def make_run(spec: ModelSpec, tmp_path: Path, events: list[Event]) -> MakeRun:
    dataset = load_dataset(str(write_dataset(tmp_path / "data")), spec, store=None, cache=tmp_path / "cache")

    def make(store: CheckpointStore, rank: int = 0, world_size: int = 1, seen: Any = None) -> Run:
        store.write((store.read() or Journal(run="r")).started())
        return Run(
            spec,
            dataset,
            seen or store,
            device=torch.device("cpu"),
            rank=rank,
            world_size=world_size,
            threads=1,
            tell=events.append,
            share=lambda value: (0, None) if rank else value,
            patience=Patience(0.3, lambda text: events.append(Note(text))),
        )

    return make


def state(value: float = 0.0) -> dict[str, Any]:
    return {"weights": torch.full((8,), value), "step": 3}


def test_a_fresh_run_has_nothing_to_resume_and_a_later_one_has(make_run: MakeRun, store: LocalCheckpoints):
    run = make_run(store)
    assert run.resume() is None
    run.report({"dice": 0.5}, state(1.0), epoch=0)
    later = make_run(store)
    found = later.resume()
    assert found is not None
    assert torch.equal(found["weights"], torch.ones(8))
    assert list(later.epochs(3)) == [1, 2]


def test_random_numbers_of_an_epoch_are_the_same_after_a_resume(make_run: MakeRun, store: LocalCheckpoints):
    run = make_run(store)
    drawn: list[float] = []
    for epoch in run.epochs(2):
        drawn.append(torch.rand(1).item())
        assert np.random.rand() != torch.rand(1).item()
        if epoch == 0:
            run.report({"dice": 0.5}, state(), epoch=0)
    later = make_run(store)
    torch.rand(100)  # as building a network would
    later.resume()
    assert torch.rand(1).item() == drawn[1]
    assert drawn[0] != drawn[1]


def test_best_and_latest_are_kept_and_nothing_else(make_run: MakeRun, store: LocalCheckpoints, tmp_path: Path):
    run = make_run(store)
    for epoch, dice in enumerate([0.2, 0.9, math.nan, 0.9, 0.5]):
        run.report({"dice": dice}, state(epoch), epoch=epoch)
    journal = store.read()
    assert journal is not None
    assert journal.best is not None
    assert journal.latest is not None
    assert (journal.best.epoch, journal.latest.epoch) == (1, 4)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == journal.kept
    assert math.isnan(journal.epochs[2].metrics["dice"])
    best = store.fetch(journal.best, tmp_path)
    assert torch.load(best / "checkpoint.pt", weights_only=True)["weights"][0] == 1


def test_shards_are_equal_and_cover_the_order(make_run: MakeRun, store: LocalCheckpoints):
    shards = [make_run(store, rank=rank, world_size=3).shard(range(13)) for rank in range(3)]
    assert [len(shard) for shard in shards] == [5, 5, 5]
    assert set().union(*shards) == set(range(13))
    with pytest.raises(BadInput, match="no examples"):
        make_run(store).shard([])


def test_reports_that_make_no_sense_are_refused(make_run: MakeRun, store: LocalCheckpoints):
    run = make_run(store)
    with pytest.raises(BadInput, match="no metric 'dice'") as caught:
        run.report({"loss": 1.0}, state(), epoch=0)
    assert "loss" in (caught.value.remedy or "")
    with pytest.raises(BadInput, match="epoch 0 is next"):
        run.report({"dice": 1.0}, state(), epoch=1)
    with pytest.raises(BadInput, match="not restored"):
        run.report({"dice": 1.0}, {"best": np.float64(0.5)}, epoch=0)
    assert (store.read() or Journal(run="")).epochs == ()
    run.report({"dice": 1.0}, state(), epoch=0)
    with pytest.raises(BadInput, match="epoch 1 is next") as caught:
        make_run(store).report({"dice": 1.0}, state(), epoch=0)
    assert "run.resume()" in (caught.value.remedy or "")


def test_a_parameter_that_model_yaml_lacks_is_named(make_run: MakeRun, store: LocalCheckpoints):
    with pytest.raises(BadInput) as caught:
        make_run(store).parameters["momentum"]
    assert caught.value.key == "train.parameters.momentum"


def test_there_is_no_way_to_the_heldout_split(make_run: MakeRun, store: LocalCheckpoints):
    run = make_run(store)
    shown = {*run.train.ids, *run.selection.ids}
    assert len(shown) == 16
    assert not [name for name in vars(run) if "dataset" in name or "held" in name]


def test_a_damaged_checkpoint_is_not_resumed_from(make_run: MakeRun, store: LocalCheckpoints, tmp_path: Path):
    make_run(store).report({"dice": 0.5}, state(), epoch=0)
    (file,) = (tmp_path / "run").rglob("checkpoint.pt")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BadInput, match="damaged"):
        make_run(store).resume()


class Away:
    """A keeper of checkpoints on an object store that is away for the first `failures` calls of each kind."""

    def __init__(self, store: LocalCheckpoints, failures: int) -> None:
        self.store, self.failures, self.calls = store, failures, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)

        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            if self.calls[name] <= self.failures:
                raise Unavailable(f"no answer to {name}")
            return found(*arguments)

        return call if callable(found) else found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelport.training.patience._PAUSE_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_an_object_store_that_comes_back_costs_nothing(make_run: MakeRun, store: LocalCheckpoints, events: list[Event]):
    make_run(store).report({"dice": 0.5}, state(1), epoch=0)
    journal = store.read()
    assert journal is not None
    run = make_run(store, seen=Away(store, 2))
    assert run.resume() is not None
    run.report({"dice": 0.6}, state(2), epoch=1)
    after = store.read()
    assert after is not None
    assert after.next_epoch == 2
    said = [event.text for event in events if isinstance(event, Note)]
    assert [text.partition(";")[0] for text in said] == [
        *(f"no answer to {name}" for name in ("read", "fetch", "save", "write")),
        "old checkpoints stay for now: no answer to sweep",
    ]


@pytest.mark.usefixtures("quick")
def test_one_that_stays_away_is_told(make_run: MakeRun, store: LocalCheckpoints):
    run = make_run(store, seen=Away(store, 0))
    run._store.failures = 10**9
    with pytest.raises(Unavailable, match="cannot be stored: no answer to save; there is no earlier one"):
        run.report({"dice": 0.5}, state(), epoch=0)
    with pytest.raises(Unavailable, match="no answer to read"):
        make_run(store, seen=Away(store, 10**9))


@pytest.mark.usefixtures("quick")
def test_the_end_of_a_training_waits_for_the_object_store(
    make_run: MakeRun, spec: ModelSpec, store: LocalCheckpoints, tmp_path: Path
):
    run = make_run(store)
    run.report({"dice": 0.5}, state(1), epoch=0)
    away, said = Away(store, 2), list[str]()
    parts: Any = {
        "spec": spec,
        "bundle": SimpleNamespace(digest="c"),
        "dataset": SimpleNamespace(digest="d", heldout_digest=None, describe=dict),
        **dict.fromkeys(("folder", "connection", "restricted")),
        "on_objects": True,
        "run": "r",
        "key": "k",
        "runs": tmp_path,
        "store": away,
    }
    training = _Training(**parts, tell=lambda event: None, patience=Patience(0.3, said.append))
    # Its workers are done; that the journal could not be read at an epoch's end keeps nobody.
    driver: Any = SimpleNamespace(next_event=Mock(side_effect=[EpochDone(Mock(), best=True), Ended()]))
    training._watch(driver, Mock(), tmp_path, time.monotonic())
    assert away.calls == {"read": 1}
    training._written((store.read() or Journal(run="")).ended())
    result = training.result()
    assert (result.best_epoch, result.checkpoint.is_dir()) == (0, True)
    assert [text.partition(";")[0] for text in said] == [f"no answer to {name}" for name in ("write", "read", "fetch")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("a full disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(make_run: MakeRun, small_disk: Path, events: list[Event]):
    store = LocalCheckpoints(small_disk / "run")
    run = make_run(store)
    run.report({"dice": 0.5}, state(), epoch=0)
    with pytest.raises(ModelportError, match="No space left on device; earlier ones are safe"):
        run.report({"dice": 0.6}, {"weights": torch.zeros(100_000)}, epoch=1)
    assert [event.record.epoch for event in events if isinstance(event, EpochDone)] == [0]
    later = make_run(store)
    assert later.resume() is not None
    later.report({"dice": 0.6}, state(), epoch=1)


def test_an_overtaken_attempt_can_write_nothing(make_run: MakeRun, store: LocalCheckpoints):
    old = make_run(store)
    new = make_run(store)
    with pytest.raises(Conflict):
        old.report({"dice": 0.5}, state(), epoch=0)
    new.report({"dice": 0.5}, state(), epoch=0)
    assert (store.read() or Journal(run="")).epochs[0].attempt == 2


def test_an_overtaken_attempt_can_write_nothing_to_s3(make_run: MakeRun, s3_connection: Connection, tmp_path: Path):
    def store() -> ObjectCheckpoints:
        return ObjectCheckpoints(ObjectStore.connect(s3_connection, Role.TRAINER), "checkpoints/fenced/r")

    old = make_run(store())
    new = make_run(store())
    new.report({"dice": 0.5}, state(1.0), epoch=0)
    with pytest.raises(Conflict):
        old.report({"dice": 0.5}, state(2.0), epoch=0)
    later = make_run(store())
    found = later.resume()
    assert found is not None
    assert torch.equal(found["weights"], torch.ones(8))


def test_a_finished_run_is_found_and_again_begins_another(tmp_path: Path):
    def name(again: bool) -> str:
        return find_run(tmp_path, "tiny", "abc", None, again)[0]

    assert name(again=False) == "abc"
    LocalCheckpoints(tmp_path / "abc").write(Journal(run="abc", finished=True))
    assert (name(again=False), name(again=True)) == ("abc", "abc-2")
    # Begun anew and interrupted: either command goes on with it.
    LocalCheckpoints(tmp_path / "abc-2").write(Journal(run="abc-2"))
    assert (name(again=False), name(again=True)) == ("abc-2", "abc-2")
    LocalCheckpoints(tmp_path / "abc-2").write(Journal(run="abc-2", finished=True))
    assert (name(again=False), name(again=True)) == ("abc-2", "abc-3")
    # Their journals have expired: what is remembered says which number comes next.
    assert [find_run(tmp_path / "gone", "tiny", "abc", None, again, "abc-2")[0] for again in (False, True)] == [
        "abc-2",
        "abc-3",
    ]


def test_a_damaged_journal_is_named(tmp_path: Path):
    (tmp_path / "journal.json").write_bytes(os.urandom(10))
    with pytest.raises(BadInput) as caught:
        LocalCheckpoints(tmp_path).read()
    assert caught.value.file == str(tmp_path / "journal.json")
