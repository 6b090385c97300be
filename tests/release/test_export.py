"""Modules that cannot be served as they are must be told so when they are exported, not when users ask."""

import numpy as np
import pytest
import torch
from redness import image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from modelport.contract import Task
from modelport.errors import BadInput
from modelport.learning.detect import Postprocess as Boxes
from modelport.learning.detect import preprocess as letterboxed
from modelport.release import FP32, Graph, Pipeline
from modelport.release.export import _synthetic, export
from modelport.release.replay import TOLERANCES, tolerances_for


class Preprocess(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(2, 0, 1).unsqueeze(0).float() / 255
        return interpolate(pixels, (16, 16), mode="bilinear", align_corners=False, antialias=True)


class Postprocess(nn.Module):
    def forward(self, logits: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        mask = interpolate(logits, (image.shape[0], image.shape[1]), mode="bilinear")[0, 0] > 0
        return mask.to(torch.uint8), mask.float().mean().reshape(1)


class DecidesBySize(nn.Module):
    """Right in torch; the exporter keeps, without a word, only the branch that the traced image took."""

    def forward(self, logits: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        mask = interpolate(logits, (image.shape[0], image.shape[1]), mode="bilinear")[0, 0] > 0
        if image.shape[0] > 45:
            mask = ~mask
        return mask.to(torch.uint8), mask.float().mean().reshape(1)


class MixesBatch(nn.Module):
    """Normalises over the batch, so that an answer would depend on who else asks."""

    def forward(self, batch: Tensor) -> Tensor:
        return (batch - batch.mean()).sum(dim=1, keepdim=True)


class Random(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return batch[:, :1] + torch.rand_like(batch[:, :1])


class ChannelMean(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return batch.mean(dim=1, keepdim=True) - 0.3


class FindsNothing(nn.Module):
    """Candidates for boxes of two classes, none of them above any threshold."""

    def forward(self, batch: Tensor) -> Tensor:
        return (batch[:, :, ::2, ::2].flatten(2).mean(1, keepdim=True) * 0.01).transpose(1, 2).repeat(1, 1, 6)


class MovesBySize(Boxes):
    """Right in torch; exported with the branch of the traced image, which no image without boxes shows."""

    def forward(self, candidates: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, labels = super().forward(candidates, image)
        return (boxes if image.shape[0] > 35 else boxes + 3), scores, labels


IMAGES = [image(0, 40, 40), image(1, 50, 30)]


def exported(preprocess: nn.Module, network: nn.Module, postprocess: nn.Module) -> dict[str, bytes]:
    pipeline = Pipeline(preprocess, network, postprocess)
    return dict(export(pipeline, Task.SEGMENT, IMAGES, TOLERANCES[Task.SEGMENT][FP32]).graphs)


def test_the_same_modules_give_the_same_bytes_and_no_names_of_files() -> None:
    first = exported(Preprocess(), ChannelMean(), Postprocess())
    assert exported(Preprocess(), ChannelMean(), Postprocess()) == first
    for data in first.values():
        assert b".py" not in data, "the graph holds a stack trace of the machine that exported it"


def test_sizes_are_dynamic() -> None:
    graphs = {step: Graph(data) for step, data in exported(Preprocess(), ChannelMean(), Postprocess()).items()}
    for height, width in ((1, 1), (7, 2000), (1080, 1920)):
        pixels = np.full((height, width, 3), 200, np.uint8)
        tensors = {"image": pixels}
        for graph in graphs.values():
            tensors |= graph.run(tensors)
        assert tensors["mask"].shape == (height, width)
        assert tensors["mask"].all()
    batch = graphs["network"].run({"input": np.zeros((5, 3, 16, 16), np.float32)})
    assert batch["logits"].shape == (5, 1, 16, 16)


@pytest.mark.parametrize(
    ("preprocess", "network", "postprocess", "message"),
    [
        (Preprocess(), ChannelMean(), DecidesBySize(), "do not answer as torch on an image of"),
        (Preprocess(), MixesBatch(), Postprocess(), "otherwise in a batch than alone"),
        (Preprocess(), Random(), Postprocess(), "do not answer as torch"),
        (Preprocess(), ChannelMean(), ChannelMean(), "the postprocess step fails"),
    ],
    ids=["decides by size", "mixes the batch", "random", "wrong arguments"],
)
def test_modules_that_cannot_be_served(
    preprocess: nn.Module, network: nn.Module, postprocess: nn.Module, message: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        exported(preprocess, network, postprocess)
    assert caught.value.remedy


def test_a_detectors_boxes_are_held_against_torch_though_no_image_shows_one() -> None:
    tolerances = tolerances_for(Task.DETECT, {"score": 0.25}, [FP32])[FP32]
    pictures = [image(0, 60, 40), image(1, 50, 70)]  # all of a kind: the branch shows on none of them

    def detector(postprocess: nn.Module) -> dict[str, bytes]:
        pipeline = Pipeline(letterboxed(64), FindsNothing(), postprocess, thresholds={"score": 0.25})
        return dict(export(pipeline, Task.DETECT, pictures, tolerances).graphs)

    assert detector(Boxes(64, score=0.25)).keys() == {"preprocess", "network", "postprocess"}
    with pytest.raises(BadInput, match="does not answer as torch on made-up candidates"):
        detector(MovesBySize(64, score=0.25))


@pytest.mark.parametrize(("places", "classes", "threshold"), [(2100, 3, 0.25), (10, 2, 0.0), (300, 40, 0.999)])
def test_made_up_candidates_decide_something(places: int, classes: int, threshold: float) -> None:
    candidates = _synthetic((1, places, 4 + classes), 64, 64, threshold)
    boxes, scores, labels = Boxes(64, score=threshold)(torch.from_numpy(candidates), torch.zeros(64, 64, 3))
    count = int((candidates[..., 4:].max(axis=-1) >= max(threshold, 1e-6)).sum())
    assert 0 < len(boxes) <= count
    assert len(set(scores.tolist())) == len(scores)
    if (places, classes) == (2100, 3):
        assert set(labels.tolist()) == {0, 1, 2}
        assert len(boxes) < count, "some overlap so much that one goes"
        everything = candidates[..., 4:].max(axis=-1)
        assert count < int((everything > 0).sum()), "some are below the threshold"
