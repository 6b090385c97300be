"""The polyp_seg folder: what it exports answers as torch does, and what it learns from is what it should be."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modelport.contract import Task, load_spec, read_pipeline
from modelport.imaging import decode, decode_mask
from modelport.release.export import check_graphs, export
from modelport.release.replay import TOLERANCES
from modelport.release.runtime import Graph
from modelport.training import load_entry

FOLDER = Path(__file__).parents[2] / "models" / "polyp_seg"
SIZE = 192


@pytest.fixture(scope="module")
def network() -> ModuleType:
    return load_entry(FOLDER, "network")


@pytest.fixture(scope="module")
def steps() -> ModuleType:
    return load_entry(FOLDER, "pipeline")


@pytest.fixture(scope="module")
def training() -> ModuleType:
    return load_entry(FOLDER, "train")


@pytest.fixture(scope="module")
def augmentation() -> ModuleType:
    return load_entry(FOLDER, "augmentation")


def test_forward_shapes(network: ModuleType) -> None:
    net = network.SegmentationNet()
    batch = torch.zeros(2, 3, SIZE, SIZE)
    shapes = [tuple(stage.shape) for stage in net.train()(batch)]
    assert shapes == [(2, 1, side, side) for side in (96, 48, 24, 12)]
    assert net.eval()(batch).shape == (2, 1, 96, 96)


def test_pretrained_encoder_fits_the_same_decoder(network: ModuleType) -> None:
    net = network.SegmentationNet(resnet=True).eval()
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 32, 32)


def test_pretrained_offline_says_what_to_do(
    network: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from modelport.errors import Unavailable

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(Unavailable, match=r"train\.pretrained=false"):
        network.SegmentationNet(resnet=True).encoder.load_imagenet()


def test_preprocess_is_undone_by_pixels(steps: ModuleType) -> None:
    preprocess = steps.Preprocess(64)
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    pixels = preprocess.pixels(preprocess(image))
    assert torch.allclose(pixels[0].permute(1, 2, 0) * 255, image.float(), atol=1e-3)


def test_postprocess_gives_the_image_s_own_size(steps: ModuleType) -> None:
    logits = torch.full((1, 1, 96, 96), -5.0)
    logits[..., :48] = 5.0
    mask, coverage = steps.Postprocess(0.5)(logits, torch.zeros(101, 200, 3, dtype=torch.uint8))
    assert mask.shape == (101, 200)
    assert mask.dtype == torch.uint8
    assert mask[:, :99].all()
    assert not mask[:, 101:].any()
    assert coverage.shape == (1,)
    assert coverage.item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("mirror", [False, True])
def test_exported_graphs_answer_as_torch(network: ModuleType, steps: ModuleType, tmp_path: Path, mirror: bool) -> None:
    """Logits within 1e-3 and masks equal but for 0.1 % of the pixels, on golden images and odd sizes."""
    parameters = {**load_spec(FOLDER).train.parameters, "mirror": mirror}
    served = steps.pipeline(checkpoint(network, tmp_path), parameters=parameters)
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


def checkpoint(network: ModuleType, folder: Path) -> Path:
    """A network that has seen something: random weights whose logits spread around the threshold."""
    torch.manual_seed(0)
    net = network.SegmentationNet()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 64, 64))
        net.heads[-1].bias.zero_()
    torch.save({"average": net.state_dict()}, folder / "checkpoint.pt")
    return folder


def batch_of_squares(count: int = 4, side: int = 64) -> tuple[Tensor, Tensor]:
    """Grey images with one bright square each, and masks of those squares."""
    masks = torch.zeros(count, 1, side, side)
    masks[:, :, 20:40, 16:36] = 1
    return (0.2 + 0.6 * masks).expand(-1, 3, -1, -1).contiguous(), masks


def test_augmentation_moves_image_and_mask_together(augmentation: ModuleType) -> None:
    pixels, masks = batch_of_squares()
    randoms = [np.random.default_rng(index) for index in range(4)]
    moved, moved_masks = augmentation.move(pixels, masks, randoms)
    assert ((moved_masks - masks).abs().mean(dim=(1, 2, 3)) > 0.01).all()
    inside, outside = moved_masks > 0.99, moved_masks < 0.01
    assert torch.allclose(moved[inside.expand_as(moved)], torch.tensor(0.8), atol=0.02)
    assert (moved[outside.expand_as(moved)] < 0.22).all()


def test_recolouring_changes_pixels_and_stays_in_range(augmentation: ModuleType) -> None:
    pixels, _ = batch_of_squares()
    coloured = augmentation.recolour(pixels, [np.random.default_rng(index) for index in range(4)])
    assert ((coloured - pixels).abs().mean(dim=(1, 2, 3)) > 0.01).all()
    assert coloured.min() >= 0
    assert coloured.max() <= 1


def test_augmentation_depends_on_seed_epoch_and_index_only(augmentation: ModuleType) -> None:
    pixels, masks = batch_of_squares()
    first = augmentation.augment(pixels, masks, seed=1, epoch=2, indices=[7, 3, 9, 5])
    torch.manual_seed(123)
    np.random.seed(123)
    other_order = augmentation.augment(pixels, masks, seed=1, epoch=2, indices=[5, 9, 3, 7])
    for one, other in zip(first, other_order, strict=True):
        assert torch.equal(one, other.flip(0))
    for changed in ({"seed": 2}, {"epoch": 3}, {"indices": [8, 4, 10, 6]}):
        given = {"seed": 1, "epoch": 2, "indices": [7, 3, 9, 5]} | changed
        view = augmentation.augment(pixels, masks, **given)[0]
        assert all(not torch.equal(one, other) for one, other in zip(first[0], view, strict=True))


def logits_of(mask: Tensor) -> Tensor:
    return (mask * 2 - 1) * 12


def test_loss_prefers_the_small_mask_over_nothing(training: ModuleType) -> None:
    """A polyp of 0.4 % of the image: cross entropy alone would hardly tell, the Dice part does."""
    truth = torch.zeros(1, 1, 96, 96)
    truth[:, :, 40:46, 40:46] = 1
    shifted, nothing = truth.roll(3, dims=3), torch.zeros_like(truth)
    exact, near, missed = (training.mask_loss(logits_of(mask), truth).item() for mask in (truth, shifted, nothing))
    assert exact < 0.1 < near < missed
    assert missed - exact > 0.5


def test_loss_of_an_image_without_polyp_asks_for_no_pixels(training: ModuleType) -> None:
    truth = torch.zeros(1, 1, 96, 96)
    found = truth.clone()
    found[:, :, :20, :20] = 1
    assert training.mask_loss(logits_of(truth), truth) < 0.1 < training.mask_loss(logits_of(found), truth)


def test_learning_rate_rises_and_falls(training: ModuleType) -> None:
    rates = [training.learning_rate(step / 100, 1.0) for step in range(100)]
    top = int(np.argmax(rates))
    assert rates[0] == pytest.approx(0.04)
    assert rates[top] == pytest.approx(1, abs=0.01)
    assert rates[-1] < 0.01
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_dice(training: ModuleType) -> None:
    empty, half, full = torch.zeros(4, 4).byte(), torch.eye(4).byte(), torch.ones(4, 4).byte()
    assert training.dice(empty, empty) == 1
    assert training.dice(empty, full) == 0
    assert training.dice(half, full) == pytest.approx(2 * 4 / 20)


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
        parameters = load_spec(FOLDER).train.parameters
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
