"""Random views of training images: moved (what is marked in an image moves with it), then recoloured.

A whole batch is transformed at once. What happens to an example is drawn from (seed, epoch, index) alone: a training
that was killed and resumed, or runs on another number of workers, sees the same views as one that ran through.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

Randoms = Sequence[np.random.Generator]
"""One generator an example."""

KNOTS = 5
"""An elastic displacement is drawn at as many places along each side, and is smooth between them."""


def randoms(seed: int, epoch: int, indices: Sequence[int]) -> list[np.random.Generator]:
    """Generators of a batch's examples."""
    return [np.random.default_rng((seed, epoch, index)) for index in indices]


@dataclass(frozen=True)
class Views:
    """How far a view may be from the image; the defaults suit photographs that have an up and a down."""

    turn: float = 0.2
    """Largest angle, in radians."""
    mirror: bool = True
    """Whether left and right may be swapped."""
    zoom: float = 1.4
    """Largest factor of scale, in and out."""
    stretch: float = 1.2
    """Largest factor by which the width changes, and the height the other way."""
    shift: float = 0.1
    """Largest shift, as a share of the side."""
    bend: float = 0.0
    """Standard deviation of an elastic displacement, in half sides."""
    rim: str = "zeros"
    """What lies beyond the rim: ``zeros`` is black, ``border`` repeats the outermost pixels, ``reflection`` mirrors."""
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    cast: float = 0.1
    """Of each channel's brightness by itself."""
    gamma: float = 0.25

    def of(self, pixels: Tensor, *, seed: int, epoch: int, indices: Sequence[int]) -> Tensor:
        """Views of a batch of images [B, 3, S, S] of 0..1, by each one's index in the dataset."""
        drawn = randoms(seed, epoch, indices)
        return self.recolour(warp(pixels, self.grid(pixels, drawn), self.rim), drawn)

    def of_pairs(
        self, pixels: Tensor, masks: Tensor, *, seed: int, epoch: int, indices: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The same views of images [B, 3, S, S], and masks [B, C, S, S] of 0..1 that move with them."""
        drawn = randoms(seed, epoch, indices)
        pixels, masks = self.move(pixels, masks, drawn)
        return self.recolour(pixels, drawn), masks

    def move(self, pixels: Tensor, masks: Tensor, drawn: Randoms) -> tuple[Tensor, Tensor]:
        """Turn, mirror, zoom, stretch, shift and bend both alike."""
        moved = warp(torch.cat([pixels, masks], dim=1), self.grid(pixels, drawn), self.rim)
        return moved[:, :3], moved[:, 3:]

    def grid(self, pixels: Tensor, drawn: Randoms) -> Tensor:
        """Where each pixel of the views lies in the images [B, C, S, S]; [B, S, S, 2], x and y from -1 to 1."""
        device, size = pixels.device, list(pixels.shape[-2:])
        grid = affine_grid(self.matrices(drawn).to(device), [len(drawn), 1, *size], align_corners=False)
        if not self.bend:
            return grid
        knots = np.stack([random.standard_normal((2, KNOTS, KNOTS), dtype=np.float32) for random in drawn])
        bent = interpolate(torch.from_numpy(knots).to(device), size, mode="bicubic", align_corners=True)
        return grid + self.bend * bent.permute(0, 2, 3, 1)

    def matrices(self, drawn: Randoms) -> Tensor:
        """For each example where a place of the view lies in the image: float32 [B, 2, 3], both from -1 to 1.

        What is marked by coordinates of the image goes the other way, by the inverse; see `forward_matrices`.
        """
        angle = uniform(drawn, -self.turn, self.turn)
        zoom = uniform(drawn, -1, 1).mul(math.log(self.zoom)).exp()
        stretch = uniform(drawn, -1, 1).mul(math.log(self.stretch)).exp()
        mirror = uniform(drawn, -1, 1).sign() if self.mirror else torch.ones(len(drawn))
        right, down = (uniform(drawn, -2 * self.shift, 2 * self.shift) for _ in range(2))
        across, along = zoom * stretch * mirror, zoom / stretch
        rows = [angle.cos() * across, -angle.sin() * along, right, angle.sin() * across, angle.cos() * along, down]
        return torch.stack(rows, dim=1).view(-1, 2, 3)

    def recolour(self, pixels: Tensor, drawn: Randoms) -> Tensor:
        """Change brightness, the cast of each channel, contrast, saturation and gamma; [B, 3, S, S] of 0..1."""

        def around_one(spread: float) -> Tensor:
            return uniform(drawn, 1 - spread, 1 + spread).to(pixels.device).view(-1, 1, 1, 1)

        cast = torch.cat([around_one(self.cast) for _ in range(3)], dim=1)
        pixels = pixels * (around_one(self.brightness) * cast)
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = mean + (pixels - mean) * around_one(self.contrast)
        grey = pixels.mean(dim=1, keepdim=True)
        pixels = grey + (pixels - grey) * around_one(self.saturation)
        return pixels.clamp(0, 1) ** around_one(self.gamma)


def warp(pixels: Tensor, grid: Tensor, rim: str = "zeros") -> Tensor:
    """The image at the places of `grid` [B, S, S, 2] (x, y from -1 to 1), bilinear."""
    return grid_sample(pixels, grid, padding_mode=rim, align_corners=False)


def forward_matrices(matrices: Tensor) -> Tensor:
    """The inverses of `Views.matrices`: where a place of the image lies in the view; [B, 2, 3]."""
    linear = torch.linalg.inv(matrices[:, :, :2])
    return torch.cat([linear, -linear @ matrices[:, :, 2:]], dim=2)


def uniform(drawn: Randoms, low: float, high: float) -> Tensor:
    """One number an example, float32 [B]."""
    return torch.tensor([random.uniform(low, high) for random in drawn], dtype=torch.float32)
