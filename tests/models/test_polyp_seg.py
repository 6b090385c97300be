"""The polyp_seg folder: what it exports answers as torch does, and what it learns from is what it should be."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modelport.contract import Task, load_spec, read_pipeline
from modelport.imaging import decode, decode_mask
from modelport.learning import SegmentationNet
from modelport.release.export import check_graphs, export
from modelport.release.replay import TOLERANCES
from modelport.release.runtime import Graph
from modelport.training import load_entry

FOLDER = Path(__file__).parents[2] / "models" / "polyp_seg"
SIZE = 192


@pytest.fixture(scope="module")
def steps() -> ModuleType:
    return load_entry(FOLDER, "pipeline")


@pytest.fixture(scope="module")
def training() -> ModuleType:
    return load_entry(FOLDER, "train")


@pytest.mark.parametrize("mirror", [False, True])
def test_exported_graphs_answer_as_torch(steps: ModuleType, tmp_path: Path, mirror: bool) -> None:
    """Logits within 1e-3 and masks equal but for 0.1 % of the pixels, on golden images and odd sizes."""
    parameters = {**load_spec(FOLDER).train.parameters, "mirror": mirror}
    served = steps.pipeline(checkpoint(tmp_path), parameters=parameters)
    golden = [decode(path.read_bytes()) for path in sorted((FOLDER / "sample/golden").iterdir())]
    graphs = export(served, Task.SEGMENT, golden, TOLERANCES[Task.SEGMENT]["fp32"]).graphs
    assert check_graphs(graphs, read_pipeline(FOLDER / "triton", "polyp_seg"), FOLDER / "triton") == []
    sessions = [Graph(graphs[step]) for step in ("preprocess", "network", "postprocess")]
    random = np.random.default_rng(0)
    for size in ((17, 401), (1024, 64), (192, 192)):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        answer = {"image": image}
        for session in sessions:
            answer |= session.run(answer)
        tensor = torch.tensor(image)
        with torch.inference_mode():
            logits = served.network(served.preprocess(tensor))
            mask, coverage = served.postprocess(logits, tensor)
        assert np.abs(answer["logits"] - logits.numpy()).max() < 1e-3
        assert answer["mask"].shape == size
        assert answer["mask"].dtype == np.uint8
        assert (answer["mask"] != mask.numpy()).mean() <= 1e-3
        assert answer["coverage"] == pytest.approx(coverage.numpy(), abs=1e-3)


def checkpoint(folder: Path) -> Path:
    """A network that has seen something: random weights whose logits spread around the threshold."""
    torch.manual_seed(0)
    net = SegmentationNet(classes=2)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 64, 64))
        net.heads[-1].bias.zero_()
    torch.save({"average": net.state_dict(), "metrics": {}}, folder / "checkpoint.pt")
    return folder


def test_killed_training_resumes_and_ends_the_same(training: ModuleType) -> None:
    """Bit for bit on one machine: weights, metrics and the order of data, whatever global generators did meanwhile."""
    through = StandInRun(epochs=3)
    training.train(through)
    first = StandInRun(epochs=3, stop_after=0)
    with pytest.raises(Killed):
        training.train(first)
    torch.manual_seed(99)
    second = StandInRun(epochs=3, checkpoint=first.checkpoint)
    training.train(second)
    assert second.reports == through.reports[1:]
    assert second.order == through.order[len(first.order) :]
    for one, other in zip(second.checkpoint["average"].values(), through.checkpoint["average"].values(), strict=True):
        assert torch.equal(one, other)


def test_size_that_does_not_halve_evenly_is_refused(training: ModuleType) -> None:
    from modelport.errors import BadInput

    with pytest.raises(BadInput, match="not a multiple of 32"):
        training.train(StandInRun(epochs=1, size=100))


class Killed(Exception):
    """Ends a stand-in run as a lost machine would: between two reports."""


class StandInSplit:
    """The first few sample images, as a split."""

    def __init__(self, name: str, count: int) -> None:
        self.folder = FOLDER / "sample" / name
        self.names = sorted(path.name for path in (self.folder / "images").iterdir())[:count]

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Any:
        return decode((self.folder / "images" / self.names[index]).read_bytes())

    def target(self, index: int) -> Any:
        return decode_mask((self.folder / "masks" / self.names[index]).read_bytes(), classes=2)


class StandInRun:
    """A run of one worker without Ray: what train(run) asks for, and a memory of what it reported."""

    seed = 0
    rank = 0
    world_size = 1
    device = torch.device("cpu")

    def __init__(
        self, *, epochs: int, size: int = 64, stop_after: int | None = None, checkpoint: dict[str, Any] | None = None
    ) -> None:
        self.spec = load_spec(FOLDER)
        parameters = self.spec.train.parameters
        self.parameters = {**parameters, "epochs": epochs, "size": size, "batch_size": 4}
        self.train, self.selection = StandInSplit("train", 8), StandInSplit("validation", 2)
        self.first = 0 if checkpoint is None else 1
        self.stop_after, self.given = stop_after, checkpoint
        self.checkpoint: dict[str, Any] = {}
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.order: list[int] = []

    def epochs(self, count: int) -> Iterator[int]:
        yield from range(self.first, count)

    def prepare(self, module: nn.Module) -> nn.Module:
        return module

    def shard(self, indices: Sequence[int]) -> list[int]:
        self.order += indices
        return list(indices)

    def resume(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.given)

    def progress(self, step: int, steps: int, **metrics: float) -> None:
        assert 0 < step <= steps

    def report(self, metrics: dict[str, float], checkpoint: dict[str, Any], *, epoch: int) -> None:
        self.reports.append((epoch, metrics))
        self.checkpoint = copy.deepcopy(checkpoint)
        if epoch == self.stop_after:
            raise Killed
