"""From an image of any size to a network's input: one module, used in training and exported as it is."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, per RGB channel in 0..1: what pretrained networks expect."""
PADDING = 114 / 255
"""Grey beside a letterboxed image, as detectors are used to."""


class Preprocess(nn.Module):
    """Resize to a square, antialiased, and normalise.

    The aspect is kept with `letterbox`: the image lies in the middle of the square, grey beside it. Without, it is
    squeezed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        *,
        letterbox: bool = False,
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
    ) -> None:
        super().__init__()
        self.size = size
        self.letterbox = letterbox
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [H, W, 3] RGB -> float32 [1, 3, S, S]."""
        pixels = image.permute(2, 0, 1).unsqueeze(0).float() / 255
        if not self.letterbox:
            size = (self.size, self.size)
            return self.normalise(interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True))
        height, width, top, left = letterbox(image.shape[0], image.shape[1], self.size)
        pixels = interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
        around = (left, self.size - width - left, top, self.size - height - top)
        return self.normalise(pad(pixels, around, value=PADDING))

    def normalise(self, pixels: Tensor) -> Tensor:
        """RGB in 0..1 -> what the network takes; [B, 3, S, S]."""
        return (pixels - self.mean) / self.std

    def pixels(self, normalised: Tensor) -> Tensor:
        """The reverse of `normalise`."""
        return normalised * self.std + self.mean


def letterbox(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Where an image lies in a square of side `size`: its height and width there, and the rows above and columns left.

    In whole numbers, so that the exported graph computes them like Python: a half is rounded up, and a side never
    vanishes.
    """
    # max() would decide while it is traced; torch's leaves the decision to the graph.
    longest = cast(int, torch.sym_max(height, width))
    inside_height = cast(int, torch.sym_max(1, (2 * height * size + longest) // (2 * longest)))
    inside_width = cast(int, torch.sym_max(1, (2 * width * size + longest) // (2 * longest)))
    return inside_height, inside_width, (size - inside_height) // 2, (size - inside_width) // 2
