"""Which release the gateway sends to, and where, given what the replicas say: tables."""

from datetime import UTC, datetime

import pytest

from modelport.contract import ClassSpec, Task
from modelport.serving import LoadedRelease, ModelState, ReplicaState
from modelport.serving.gateway.releases import Heard, ModelView, choose, remembered


def replica(
    name: str,
    loaded: str,
    *,
    desired: str | None,
    serving: str | None = None,
    ready: bool = True,
    error: str | None = None,
    source_error: str | None = None,
) -> ReplicaState:
    """Digests are letters here."""
    releases = tuple(release(digest) for digest in loaded)
    state = ModelState(desired=desired, serving=serving, loaded=releases, error=error, since=datetime.now(UTC))
    return ReplicaState(replica=name, ready=ready, models={"m": state}, source_error=source_error)


AWAY = "the store is away"


def release(digest: str) -> LoadedRelease:
    classes = (ClassSpec(name="background"), ClassSpec(name="red"))
    return LoadedRelease(digest=digest, triton_name=f"m.{digest}", task=Task.SEGMENT, classes=classes)


CASES = [
    ("one replica, one release", [replica("1", "A", desired="A")], None, "A"),
    ("nothing loaded", [replica("1", "", desired="A")], "A", None),
    ("the desired one is preferred as soon as it is loaded", [replica("1", "AB", desired="B", serving="A")], "A", "B"),
    (
        "not before every replica has it",
        [replica("1", "AB", desired="B"), replica("2", "A", desired="B")],
        "A",
        "A",
    ),
    (
        "a replica that is not ready is not waited for",
        [replica("1", "AB", desired="B"), replica("2", "A", desired="B", ready=False)],
        "A",
        "B",
    ),
    (
        "an empty replica is not waited for",
        [replica("1", "AB", desired="B"), replica("2", "", desired="B")],
        "A",
        "B",
    ),
    (
        "nothing in common: the most common",
        [replica("1", "B", desired="B"), replica("2", "A", desired="B"), replica("3", "B", desired="B")],
        "A",
        "B",
    ),
    ("desired unknown: stay with the current one", [replica("1", "AB", desired=None, serving="B")], "A", "A"),
    ("desired unknown at start: what the alias serves", [replica("1", "AB", desired=None, serving="A")], None, "A"),
    (
        "replicas that disagree on what is desired do not make it flap",
        [replica("1", "AB", desired="A"), replica("2", "AB", desired="B")],
        "B",
        "B",
    ),
    # A is taken back and B desired: whoever cannot read that goes on saying that A is.
    (
        "one is cut off with what was taken back",
        [replica("1", "A", desired="A", source_error=AWAY), replica("2", "B", desired="B")],
        "A",
        "B",
    ),
    (
        "most are cut off with what was taken back",
        [
            replica("1", "A", desired="A", source_error=AWAY),
            replica("2", "A", desired="A", source_error=AWAY),
            replica("3", "B", desired="B"),
        ],
        "A",
        "B",
    ),
    (
        "all have both, and one that is cut off wants the other",
        [replica("1", "AB", desired="A", source_error=AWAY), replica("2", "AB", desired="B")],
        "A",
        "B",
    ),
    (
        "most cannot load what is desired",
        [replica("1", "A", desired="B", error="refused")] * 2 + [replica("3", "B", desired="B")],
        "A",
        "B",
    ),
    (
        "most are still on their way to what is desired",
        [replica("1", "A", desired="B"), replica("2", "A", desired="B"), replica("3", "B", desired="B")],
        "A",
        "A",
    ),
    (
        "as long as one has both, what all have",
        [replica("1", "A", desired="A", source_error=AWAY), replica("2", "AB", desired="B")],
        "A",
        "A",
    ),
    (
        "all are cut off: stay",
        [replica("1", "AB", desired="A", source_error=AWAY), replica("2", "AB", desired="B", source_error=AWAY)],
        "A",
        "A",
    ),
]


@pytest.mark.parametrize(("states", "before", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_choice(states, before, expected) -> None:
    known = {} if before is None else {"m": ModelView(release(before), before, 1, None)}
    view = choose([Heard(f"{state.replica}:8001", state) for state in states], known)["m"]
    assert (view.active.digest if view.active else None) == expected
    # Requests go to those that have it, ready or not, and to no other.
    holding = {f"{s.replica}:8001" for s in states if expected in [r.digest for r in s.models["m"].loaded]}
    assert set(view.at) == holding


def pools(*replicas: tuple[str, dict[str, tuple[str, str | None]], bool]) -> list[Heard]:
    """Replicas of several pools: (name, model -> (loaded, serving), ready)."""
    now = datetime.now(UTC)
    return [
        Heard(
            name,
            ReplicaState(
                replica=name,
                ready=ready,
                models={
                    model: ModelState(
                        desired="B", serving=serving, loaded=tuple(map(release, loaded)), error=None, since=now
                    )
                    for model, (loaded, serving) in models.items()
                },
            ),
        )
        for name, models, ready in replicas
    ]


def test_each_model_is_judged_by_the_replicas_of_its_own_pool() -> None:
    views = choose(
        pools(
            ("a1", {"a": ("AB", "A")}, True),
            ("a2", {"a": ("AB", "A")}, True),
            ("b1", {"b": ("A", "A")}, True),
            ("b2", {"b": ("AB", "A")}, True),
        ),
        {},
    )
    found = {model: (view.active.digest, view.replicas, view.at) for model, view in views.items() if view.active}
    # All of pool a have the new one, though no replica of b has it for a; one of pool b lacks it.
    assert found == {"a": ("B", 2, ("a1", "a2")), "b": ("A", 2, ("b1", "b2"))}


def test_a_replica_that_another_model_holds_up_is_still_waited_for() -> None:
    shared = pools(("s1", {"a": ("AB", "A"), "b": ("A", "A")}, True), ("s2", {"a": ("A", "A"), "b": ("", None)}, False))
    views = choose(shared, {"a": ModelView(release("A"), "A", 2, None)})
    assert views["a"].active == release("A")
    assert views["a"].at == ("s1", "s2")
    assert views["b"].at == ("s1",)


def test_a_model_without_replicas_is_away_and_after_a_while_forgotten() -> None:
    before = {"m": ModelView(release("A"), "A", 1, None, ("1:8001",)), "n": ModelView(release("A"), "A", 1, None)}
    chosen = {"n": before["n"]}
    view = remembered(chosen, before, {"m": 100.0, "n": 100.0}, 160.0)["m"]
    assert (view.active, view.at, view.desired) == (None, (), "A")
    assert view.error
    assert list(remembered(chosen, before, {"m": 100.0, "n": 100.0}, 100.0 + 3600)) == ["n"]
