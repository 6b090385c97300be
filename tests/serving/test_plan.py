"""The agent's plan: the order of steps that keeps a model serving, as a table."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelport.contract import Precision
from modelport.errors import Unavailable
from modelport.serving import Pace
from modelport.serving.agent.metrics import AgentMetrics
from modelport.serving.agent.plan import Action, Bring, Forget, Memory, Remove, Seen, Switch, Verified, plan, surplus
from modelport.serving.agent.releases import ReleaseCache
from modelport.serving.agent.repository import Repository
from modelport.serving.agent.version import Version
from modelport.serving.agent.worker import ModelWorker
from tests.serving.waiting import until

A, B = Version("a" * 64), Version("b" * 64)
A_INT8 = Version(A.digest, Precision.INT8)
UP_A = Verified("m.a", frozenset({"m.a", "m.net.1", "m.pre.1"}))
UP_B = Verified("m.b", frozenset({"m.b", "m.net.2", "m.pre.1"}))
ALL = UP_A.needs | UP_B.needs
GRACE = 10.0


def seen(desired: Version | None, ready: frozenset[str] = frozenset(), *, alias: bool = False) -> Seen:
    return Seen(desired=desired, alias_ready=alias, ready=ready, present=ready)


CASES: list[tuple[str, Memory, Seen, Action | None]] = [
    ("nothing desired, nothing known", Memory(), seen(None), None),
    ("first release is brought up before the alias exists", Memory(), seen(A), Bring(A)),
    ("once verified the alias is switched", Memory(verified={A: UP_A}), seen(A, UP_A.needs), Switch(A)),
    (
        "serving: nothing to do",
        Memory(serving=A, aliased=A, verified={A: UP_A}),
        seen(A, UP_A.needs, alias=True),
        None,
    ),
    (
        "a new release is brought up beside the old",
        Memory(serving=A, aliased=A, verified={A: UP_A}),
        seen(B, UP_A.needs, alias=True),
        Bring(B),
    ),
    (
        "another precision of the serving release is brought up beside it",
        Memory(serving=A, aliased=A, verified={A: UP_A}),
        seen(A_INT8, UP_A.needs, alias=True),
        Bring(A_INT8),
    ),
    (
        "the alias moves only to a verified release",
        Memory(serving=A, aliased=A, verified={A: UP_A, B: UP_B}),
        seen(B, ALL, alias=True),
        Switch(B),
    ),
    (
        "a refused release is left alone and the old one serves",
        Memory(serving=A, aliased=A, verified={A: UP_A}, refused={B: "replay"}),
        seen(B, UP_A.needs, alias=True),
        None,
    ),
    (
        "a failed try waits for its time",
        Memory(serving=A, aliased=A, verified={A: UP_A}, not_before={B: 101.0}),
        seen(B, UP_A.needs, alias=True),
        None,
    ),
    (
        "and comes when it is due",
        Memory(serving=A, aliased=A, verified={A: UP_A}, not_before={B: 100.0}),
        seen(B, UP_A.needs, alias=True),
        Bring(B),
    ),
    (
        "restarted agent: the last good release first, then the desired one",
        Memory(serving=A),
        seen(B, UP_A.needs, alias=True),
        Bring(A),
    ),
    ("restarted agent with an unknown desired version serves", Memory(serving=A), seen(None), Bring(A)),
    (
        "restarted agent whose last good release is damaged goes on to the desired one",
        Memory(serving=A, refused={A: "digest"}),
        seen(B),
        Bring(B),
    ),
    (
        "Triton restarted: what it lost is forgotten",
        Memory(serving=A, aliased=A, verified={A: UP_A}),
        seen(A),
        Forget(frozenset({A})),
    ),
    (
        "one lost step is enough",
        Memory(serving=A, aliased=A, verified={A: UP_A}),
        seen(A, UP_A.needs - {"m.net.1"}, alias=True),
        Forget(frozenset({A})),
    ),
    (
        "a lost alias is loaded again",
        Memory(serving=A, aliased=A, verified={A: UP_A}),
        seen(A, UP_A.needs),
        Switch(A),
    ),
    (
        "an agent that has not switched yet does, whatever Triton has",
        Memory(serving=A, aliased=None, verified={A: UP_A}),
        seen(A, UP_A.needs, alias=True),
        Switch(A),
    ),
    (
        "a superseded release stays through the grace period",
        Memory(serving=B, aliased=B, verified={A: UP_A, B: UP_B}, surplus_since={"m.a": 95.0, "m.net.1": 95.0}),
        seen(B, ALL, alias=True),
        None,
    ),
    (
        "and goes after it",
        Memory(serving=B, aliased=B, verified={A: UP_A, B: UP_B}, surplus_since={"m.a": 90.0, "m.net.1": 90.0}),
        seen(B, ALL, alias=True),
        Remove(frozenset({"m.a", "m.net.1"})),
    ),
    (
        "no desired version takes nothing down",
        Memory(serving=A, aliased=A, verified={A: UP_A}),
        seen(None, UP_A.needs, alias=True),
        None,
    ),
]


@pytest.mark.parametrize(("memory", "now", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_next_action(memory: Memory, now: Seen, expected: Action | None) -> None:
    assert plan(memory, now, 100.0, GRACE) == expected


SURPLUS: list[tuple[str, Memory, Seen, frozenset[str]]] = [
    (
        "steps that the live release shares are kept",
        Memory(serving=B, aliased=B, verified={A: UP_A, B: UP_B}),
        seen(B, ALL, alias=True),
        frozenset({"m.a", "m.net.1"}),
    ),
    (
        "while a release is on its way up nothing is removed",
        Memory(serving=A, aliased=A, verified={A: UP_A}),
        seen(B, ALL, alias=True),
        frozenset(),
    ),
    (
        "what a refused release left is removed, what serves is not",
        Memory(serving=A, aliased=A, verified={A: UP_A}, refused={B: "replay"}),
        seen(B, ALL, alias=True),
        frozenset({"m.b", "m.net.2"}),
    ),
    (
        "a restarted agent keeps what serves before it knows its steps",
        Memory(serving=A),
        seen(A, ALL, alias=True),
        frozenset(),
    ),
    (
        "back to the old release within the grace period",
        Memory(serving=B, aliased=B, verified={A: UP_A, B: UP_B}),
        seen(A, ALL, alias=True),
        frozenset(),
    ),
]


@pytest.mark.parametrize(("memory", "now", "expected"), [c[1:] for c in SURPLUS], ids=[c[0] for c in SURPLUS])
def test_surplus(memory: Memory, now: Seen, expected: frozenset[str]) -> None:
    assert surplus(memory, now) == expected


def test_what_cannot_be_removed_is_tried_again_after_its_grace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ready = {"m.old", "m.net.1"}
    asked: list[str] = []

    def unload(name: str) -> None:
        asked.append(name)
        if name == "m.old":
            raise Unavailable("Triton keeps it")
        ready.discard(name)

    metrics = AgentMetrics()
    worker = ModelWorker(
        "m",
        triton=SimpleNamespace(ready=lambda: frozenset(ready), unload=unload),  # pyright: ignore[reportArgumentType]
        repository=Repository(tmp_path, "m"),
        cache=ReleaseCache(tmp_path / "cache", "m", None),  # pyright: ignore[reportArgumentType]
        metrics=metrics,
        pace=Pace(interval=0.01, grace=0.2),
        gpu=False,
    )
    with caplog.at_level("INFO", logger="modelport.agent"):
        started = time.monotonic()
        worker.start()
        until(lambda: asked.count("m.old") >= 2, "it to be tried again")
        assert time.monotonic() - started >= 0.4, "one grace, and another"
        worker.stop(5)
    assert asked.count("m.net.1") == 1
    failures = metrics.registry.get_sample_value("modelport_agent_failures_total", {"model": "m", "reason": "remove"})
    assert failures == asked.count("m.old")
    assert [record.getMessage() for record in caplog.records if "removed" in record.getMessage()] == [
        "m: removed m.net.1"
    ]
