"""Which release the gateway sends to, given what the replicas say: a table."""

from datetime import UTC, datetime

import pytest

from modelport.contract import ClassSpec, Task
from modelport.serving import LoadedRelease, ModelState, ReplicaState
from modelport.serving.gateway.releases import ModelView, choose


def replica(
    name: str, loaded: str, *, desired: str | None, serving: str | None = None, ready: bool = True
) -> ReplicaState:
    """Digests are letters here."""
    releases = tuple(release(digest) for digest in loaded)
    state = ModelState(desired=desired, serving=serving, loaded=releases, error=None, since=datetime.now(UTC))
    return ReplicaState(replica=name, ready=ready, models={"m": state})


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
]


@pytest.mark.parametrize(("states", "before", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_choice(states, before, expected) -> None:
    known = {} if before is None else {"m": ModelView(release(before), before, 1, None)}
    active = choose(states, known)["m"].active
    assert (active.digest if active else None) == expected
