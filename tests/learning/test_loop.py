"""The loop: an interrupted training ends as one that ran through, and several workers share the work."""

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelport.errors import BadInput
from modelport.learning import fit, load_average
from modelport.learning.learner import Learner, learning_rate

INPUTS = torch.linspace(-2, 2, 24).view(-1, 1)
WANTED = (INPUTS * 1.5 - 0.5).tanh()


class Killed(Exception):
    """Ends a run as a lost machine would: between two reports."""


class MemoryRun:
    """What `fit` asks of a run, without Ray and without files."""

    seed = 3
    device = torch.device("cpu")
    train = range(len(INPUTS))

    def __init__(
        self,
        *,
        stop_after: int | None = None,
        resumed: dict[str, Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.parameters = {"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "weight_decay": 0.01}
        self.stop_after, self.resumed = stop_after, resumed
        self.rank, self.world_size = rank, world_size
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.orders: list[list[int]] = []
        self.checkpoint: dict[str, Any] = {}
        self.steps: list[tuple[int, int]] = []

    def epochs(self, count: int) -> Iterator[int]:
        yield from range(self.resumed["epoch"] + 1 if self.resumed else 0, count)

    def prepare(self, module: nn.Module) -> nn.Module:
        return module

    def shard(self, indices: Sequence[int]) -> list[int]:
        self.orders.append(list(indices))
        return list(indices)[self.rank :: self.world_size]

    def resume(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.resumed["state"]) if self.resumed else None

    def progress(self, step: int, steps: int, **metrics: float) -> None:
        self.steps.append((step, steps))

    def report(self, metrics: dict[str, float], checkpoint: dict[str, Any], *, epoch: int) -> None:
        self.reports.append((epoch, metrics))
        self.checkpoint = {"epoch": epoch, "state": copy.deepcopy(checkpoint)}
        if epoch == self.stop_after:
            raise Killed


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def train(run: MemoryRun, start: Any = None) -> list[tuple[list[int], int]]:
    """Fit the toy; what its loss was asked for."""
    asked: list[tuple[list[int], int]] = []

    def loss(net: nn.Module, indices: Sequence[int], epoch: int) -> Tensor:
        assert net.training
        asked.append((list(indices), epoch))
        return (net(INPUTS[list(indices)]) - WANTED[list(indices)]).square().mean()

    def evaluate(net: nn.Module) -> dict[str, float]:
        assert not net.training
        return {"error": float((net(INPUTS) - WANTED).square().mean())}

    fit(run, network(), loss=loss, evaluate=evaluate, start=start)  # pyright: ignore[reportArgumentType]
    return asked


def test_interrupted_and_resumed_is_the_same_training() -> None:
    through = MemoryRun()
    train(through)
    for last in (0, 2):
        first = MemoryRun(stop_after=last)
        with pytest.raises(Killed):
            train(first)
        torch.manual_seed(99)
        second = MemoryRun(resumed=first.checkpoint)
        train(second, start=lambda _: pytest.fail("a resumed training does not begin afresh"))
        assert first.reports + second.reports == through.reports
        assert first.orders + second.orders == through.orders
        for part in ("network", "average"):
            for name, value in through.checkpoint["state"][part].items():
                assert torch.equal(second.checkpoint["state"][part][name], value)


def test_it_learns_and_says_so() -> None:
    run = MemoryRun()
    run.parameters["epochs"] = 30
    train(run)
    assert run.reports[-1][1]["loss"] < run.reports[0][1]["loss"]
    assert run.reports[-1][1]["error"] < 0.05


def test_every_epoch_has_all_examples_in_an_order_of_its_own() -> None:
    run = MemoryRun()
    asked = train(run)
    assert all(sorted(order) == list(range(24)) for order in run.orders)
    assert len({tuple(order) for order in run.orders}) == 4
    assert [index for indices, epoch in asked if epoch == 1 for index in indices] == run.orders[1]
    assert run.steps[:3] == [(1, 3), (2, 3), (3, 3)]


def test_workers_share_a_batch() -> None:
    """Two workers: half of the batch each, in as many steps, of the same order; only the first one measures."""
    runs = [MemoryRun(rank=rank, world_size=2) for rank in (0, 1)]
    asked = [train(run) for run in runs]
    assert runs[0].orders == runs[1].orders
    assert [len(indices) for indices, _ in asked[0]] == [4] * 12
    for (mine, _), (other, _) in zip(*asked, strict=True):
        assert not set(mine) & set(other)
    assert "error" in runs[0].reports[0][1]
    assert "error" not in runs[1].reports[0][1]


def test_a_fresh_start_begins_from_what_start_loads() -> None:
    run = MemoryRun()
    run.parameters["learning_rate"] = 0.0

    def load(net: nn.Module) -> None:
        with torch.no_grad():
            for value in net.parameters():
                value.fill_(0.25)

    train(run, start=load)
    for part in ("network", "average"):
        assert (run.checkpoint["state"][part]["3.weight"] == 0.25).all()


def test_the_average_is_what_is_loaded_for_serving(tmp_path: Path) -> None:
    run = MemoryRun()
    train(run)
    torch.save(run.checkpoint["state"], tmp_path / "checkpoint.pt")
    served = network().eval()
    metrics = load_average(tmp_path, served)
    assert metrics == run.reports[-1][1]
    with torch.no_grad():
        error = float((served(INPUTS) - WANTED).square().mean())
    assert error == pytest.approx(metrics["error"])
    with pytest.raises(BadInput, match="another network"):
        load_average(tmp_path, nn.Linear(3, 3))


def test_the_average_follows_and_is_steadier() -> None:
    net = nn.Linear(1, 1)
    learner = Learner(net, weight_decay=0.0)
    values: list[tuple[float, float]] = []
    for step in range(60):
        sign = 1 if step % 2 else -1
        learner.step((net(torch.ones(1, 1)) * sign).sum(), 0.05, step)
        values.append((net.bias.item(), learner.average.bias.item()))
    jumps, drift = (max(abs(a[i] - b[i]) for a, b in pairwise(values[30:])) for i in (0, 1))
    assert drift < jumps / 2


def test_weights_decay_and_biases_do_not() -> None:
    net = nn.Linear(2, 2)
    learner = Learner(net, weight_decay=0.5)
    bias, weight = net.bias.detach().clone(), net.weight.detach().clone()
    learner.step((net.weight * 0).sum() + (net.bias * 0).sum(), 0.1, 0)
    assert torch.equal(net.bias, bias)
    assert torch.allclose(net.weight, weight * 0.95)


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step / 100, 1.0) for step in range(100)]
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.04)
    assert rates[top] == pytest.approx(1, abs=0.01)
    assert rates[-1] < 0.01
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
