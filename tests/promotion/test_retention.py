"""Nothing is forgotten that something refers to."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from modelport.connection import Role
from modelport.errors import BadInput, Conflict, Unavailable
from modelport.objects import ObjectStore
from modelport.promotion import Collected, Pins, collect_garbage, desired, read_log, rollback
from modelport.promotion.log import append
from modelport.release import MANIFEST_FILE, Release, sha256, staging_prefix
from tests.promotion.promotion_bench import CLOSE, GOOD, Bench
from tests.promotion.test_mirror_and_status import beat


def collect(bench: Bench, **options: object) -> Collected:
    """With everything old enough."""
    arguments = {"grace": timedelta(0), "staging_days": 0, "checkpoint_days": 0, "keep": 2} | options
    return collect_garbage(bench.model, connection=bench.connection, warn=bench.warnings.append, **arguments)  # pyright: ignore[reportArgumentType]


def released(bench: Bench, *digests: str) -> list[bool]:
    return [MANIFEST_FILE in bench.released(digest) for digest in digests]


def test_releases(bench: Bench) -> None:
    # Six promotions: the log's last two stay, and of the others what a replica, an alias or a pin refers to.
    digests = [bench.served(0.5 + 0.001 * number) for number in range(6)]
    forgotten, on_replica, by_alias, pinned, before, now = digests
    beat(bench, on_replica)
    registered = Release.open(bench.root / "made" / by_alias)
    bench.registry.register(registered.manifest, by_alias, "s3://modelport/staging")
    bench.registry.set_alias(bench.model, "shadow", by_alias)
    pins = Pins({bench.model: pinned})

    dry = collect(bench, pins=pins)
    prefixes = {row.prefix for row in dry.garbage}
    assert [digest for digest in digests if f"releases/{digest}/" in prefixes] == [forgotten]
    assert not dry.deleted
    assert dry.kept[on_replica] == "loaded by replica r0"
    assert dry.kept[by_alias] == "MLflow's alias shadow"
    assert dry.kept[pinned] == "pinned"
    assert set(dry.kept) == {on_replica, by_alias, pinned, before, now}
    assert released(bench, *digests) == [True] * 6, "a dry run removed something"

    assert collect(bench, pins=pins, delete=True).deleted
    assert released(bench, *digests) == [False, True, True, True, True, True]
    assert bench.released(forgotten) == []
    bench.fetched(now)
    assert rollback(bench.model, connection=bench.connection).digest == before
    assert bench.warnings == []


def test_what_becomes_desired_while_it_is_removed_is_put_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = bench.served(0.5), bench.served(0.501), bench.served(0.502)
    manifest, delete = f"releases/{first}/{MANIFEST_FILE}", ObjectStore.delete

    def delete_late(store: ObjectStore, key: str) -> None:
        if key == manifest:
            append(bench.store, read_log(bench.store, bench.model), bench.entry(first, action="rollback"))
        delete(store, key)

    monkeypatch.setattr(ObjectStore, "delete", delete_late)
    with pytest.raises(Conflict, match="changed meanwhile"):
        collect(bench, delete=True)
    assert desired(read_log(bench.store, bench.model)) == first
    assert bench.fetched(first).digest == first


def test_a_replica_that_is_long_gone_protects_nothing(bench: Bench) -> None:
    first, _, _ = bench.served(0.5), bench.served(0.501), bench.served(0.502)
    beat(bench, first, age=8 * 24 * 3600)
    assert first not in collect(bench).kept


def test_young_things_stay(bench: Bench) -> None:
    digest = bench.stage()
    # A promotion that is between its copy and its entry in the log.
    bench.store.put(f"releases/{digest}/network/model.onnx", b"half copied")
    bench.trainer.put(f"checkpoints/{bench.model}/run/checkpoint.pt", b"weights")
    found = collect_garbage(bench.model, connection=bench.connection)
    assert [row.prefix for row in found.garbage] == []


def test_staging_and_checkpoints_expire_by_age(bench: Bench) -> None:
    expired, challenger = bench.stage(0.9), bench.stage(CLOSE)
    bench.gate(challenger)
    bench.trainer.put(f"checkpoints/{bench.model}/run/checkpoint.pt", b"weights")
    found = collect(bench, delete=True)
    mine = [row.prefix for row in found.garbage if bench.model in row.prefix]
    assert mine == [f"{staging_prefix(bench.model)}/{expired}/", f"checkpoints/{bench.model}/run/"]
    assert list(bench.trainer.list(f"checkpoints/{bench.model}/")) == []
    # What passed the gate can still be promoted.
    bench.promote(challenger)
    assert desired(read_log(bench.store, bench.model)) == challenger


def test_without_the_trainers_identity_staging_stays(bench: Bench) -> None:
    bench.stage()
    connection = bench.connection.restricted_to(Role.PROMOTER)
    found = collect_garbage(bench.model, connection=connection, staging_days=0, warn=bench.warnings.append)
    assert found.garbage == ()
    assert "staging and checkpoints are left alone" in bench.warnings[0]


def test_other_models_are_left_alone(bench: Bench) -> None:
    bench.served(GOOD)
    found = collect(bench)
    assert not [row for row in found.garbage if row.prefix.startswith("releases/") and bench.model not in row.prefix]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_copy_that_does_not_tell_its_model(bench: Bench, damage: str) -> None:
    # Another model's desired release, and one that no log names.
    other = replace(bench, model=f"{bench.model}_other")
    desired_there, unnamed = other.served(GOOD), other.stage(CLOSE)
    for digest in (desired_there, unnamed):
        key = f"releases/{digest}/{MANIFEST_FILE}"
        bench.store.put(f"releases/{digest}/network/model.onnx", b"graph")
        if damage == "missing":
            bench.store.delete(key)
        else:
            bench.store.put(key, b"{}")
    bench.served(GOOD)

    collect(bench, delete=True)
    assert other.released(desired_there), "promoting it again there could not mend what is gone"
    assert bench.released(unnamed) == []


def test_a_release_of_another_version_of_this_project_stays(bench: Bench) -> None:
    newer = json.dumps({"schema": "modelport.release/9"}).encode()
    key = f"releases/{sha256(newer)}/{MANIFEST_FILE}"
    bench.store.put(key, newer)
    collect(bench, delete=True)
    assert bench.store.exists(key)


def test_nothing_is_removed_while_mlflow_cannot_be_asked(bench: Bench) -> None:
    digests = [bench.served(0.5 + 0.001 * number) for number in range(3)]
    with pytest.raises(Unavailable):
        collect_garbage(bench.model, connection=bench.away(), delete=True, keep=2, grace=timedelta(0))
    assert released(bench, *digests) == [True] * 3


def test_a_way_back_is_always_kept(bench: Bench) -> None:
    with pytest.raises(BadInput, match="keep at least 2"):
        collect(bench, keep=1)
