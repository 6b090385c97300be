"""What is served, as three torch modules that are exported as they are: preprocess, network, postprocess.

Training imports `Preprocess` from here, so that what the network learned on is what it is asked about.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from modelport.release import Pipeline

from .network import SegmentationNet

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, per RGB channel in 0..1: what a pretrained encoder expects."""
THRESHOLD = 0.5
"""A pixel is polyp from this probability on. Fixed, not tuned: the Dice loss puts the optimum near it."""


class Preprocess(nn.Module):
    """Resize to a square, antialiased and without keeping the aspect, and normalise."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [H, W, 3] RGB -> float32 [1, 3, S, S]."""
        pixels = image.permute(2, 0, 1).unsqueeze(0).float() / 255
        pixels = interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        return self.normalise(pixels)

    def normalise(self, pixels: Tensor) -> Tensor:
        """RGB in 0..1 -> what the network takes; [B, 3, S, S]."""
        return (pixels - self.mean) / self.std

    def pixels(self, normalised: Tensor) -> Tensor:
        """The reverse of `normalise`."""
        return normalised * self.std + self.mean


class Postprocess(nn.Module):
    """Bring the logits to the size of the image, and decide."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.logit = torch.logit(torch.tensor(threshold, dtype=torch.float64)).item()

    def forward(self, logits: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [1, 1, s, s] and the image [H, W, 3] -> mask uint8 [H, W], coverage float32 [1] in 0..1."""
        size = (image.shape[0], image.shape[1])
        full = interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0]
        mask = full > self.logit
        return mask.to(torch.uint8), mask.float().mean().reshape(1)


class MirrorAveraged(nn.Module):
    """Mean of the logits of an image and of its mirror image: twice the work, a steadier mask."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B, 1, S/2, S/2]."""
        return (self.network(batch) + self.network(batch.flip(3)).flip(3)) / 2


def pipeline(checkpoint: Path, *, parameters: Mapping[str, Any]) -> Pipeline:
    """Modules to serve, from the folder that holds `checkpoint.pt` of the best epoch."""
    state = torch.load(checkpoint / "checkpoint.pt", map_location="cpu", weights_only=True)
    network: nn.Module = SegmentationNet(resnet=bool(parameters["pretrained"]))
    network.load_state_dict(state["average"])
    if parameters["mirror"]:
        network = MirrorAveraged(network)
    return Pipeline(
        preprocess=Preprocess(int(parameters["size"])).eval(),
        network=network.eval(),
        postprocess=Postprocess(THRESHOLD).eval(),
        thresholds={"polyp": THRESHOLD},
    )
