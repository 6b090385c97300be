"""Random views of training images: image and mask move together, then the image alone changes colour.

A whole batch is transformed at once. What happens to a sample is drawn from (seed, epoch, index) alone: a training that
was killed and resumed, or runs on another number of workers, sees the same views as one that ran through.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

Randoms = Sequence[np.random.Generator]
"""One generator a sample."""

ZOOM = 1.4
"""Largest factor of scale, in and out."""
STRETCH = 1.2
SHIFT = 0.1
"""Largest shift, as a share of the side."""
BEND = 0.02
"""Standard deviation of the elastic displacement, in half sides."""
BRIGHTNESS, CONTRAST, SATURATION, CAST, GAMMA = 0.3, 0.3, 0.4, 0.1, 0.25


def augment(pixels: Tensor, masks: Tensor, *, seed: int, epoch: int, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Views of a batch: pixels [B, 3, S, S] and masks [B, 1, S, S], of 0..1, and each sample's index in the dataset."""
    randoms = [np.random.default_rng((seed, epoch, index)) for index in indices]
    pixels, masks = move(pixels, masks, randoms)
    return recolour(pixels, randoms), masks


def move(pixels: Tensor, masks: Tensor, randoms: Randoms) -> tuple[Tensor, Tensor]:
    """Rotate by any angle, mirror, zoom, stretch, shift and bend.

    Beyond the rim lies black, as around an endoscope's view.
    """
    device = pixels.device
    angle = uniform(randoms, -math.pi, math.pi, device)
    zoom = uniform(randoms, -1, 1, device).mul(math.log(ZOOM)).exp()
    stretch = uniform(randoms, -1, 1, device).mul(math.log(STRETCH)).exp()
    mirror = uniform(randoms, -1, 1, device).sign()
    right, down = (uniform(randoms, -2 * SHIFT, 2 * SHIFT, device) for _ in range(2))
    across, along = zoom * stretch * mirror, zoom / stretch
    rows = [angle.cos() * across, -angle.sin() * along, right, angle.sin() * across, angle.cos() * along, down]
    grid = affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
    knots = torch.from_numpy(np.stack([random.standard_normal((2, 5, 5), dtype=np.float32) for random in randoms]))
    bend = interpolate(knots.to(device), pixels.shape[-2:], mode="bicubic", align_corners=True)
    grid = grid + BEND * bend.permute(0, 2, 3, 1)
    moved = grid_sample(torch.cat([pixels, masks], dim=1), grid, align_corners=False)
    return moved[:, :3], moved[:, 3:]


def recolour(pixels: Tensor, randoms: Randoms) -> Tensor:
    """Change brightness, the cast of each channel, contrast, saturation and gamma."""
    device = pixels.device

    def around_one(spread: float) -> Tensor:
        return uniform(randoms, 1 - spread, 1 + spread, device).view(-1, 1, 1, 1)

    cast = torch.cat([around_one(CAST) for _ in range(3)], dim=1)
    pixels = pixels * (around_one(BRIGHTNESS) * cast)
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * around_one(CONTRAST)
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + (pixels - grey) * around_one(SATURATION)
    return pixels.clamp(0, 1) ** around_one(GAMMA)


def uniform(randoms: Randoms, low: float, high: float, device: torch.device) -> Tensor:
    """One number a sample, float32 [B]."""
    return torch.tensor([random.uniform(low, high) for random in randoms], dtype=torch.float32, device=device)
