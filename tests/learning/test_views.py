"""Views and preprocessing: drawn from (seed, epoch, index) alone, and where the geometry puts things."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, interpolate

from modelport.learning import Preprocess, Views, letterbox
from modelport.learning.preprocess import PADDING
from modelport.learning.views import forward_matrices, randoms, warp

STILL = Views(turn=0, mirror=False, zoom=1, stretch=1, shift=0, brightness=0, contrast=0, saturation=0, cast=0, gamma=0)
ALL = Views(turn=math.pi, bend=0.02)


def batch_of_squares(count: int = 4, side: int = 64) -> tuple[Tensor, Tensor]:
    """Grey images with one bright square each, and masks of those squares."""
    masks = torch.zeros(count, 1, side, side)
    masks[:, :, 20:40, 16:36] = 1
    return (0.2 + 0.6 * masks).expand(-1, 3, -1, -1).contiguous(), masks


def test_image_and_mask_move_together() -> None:
    pixels, masks = batch_of_squares()
    moved, moved_masks = ALL.move(pixels, masks, randoms(0, 0, range(4)))
    assert ((moved_masks - masks).abs().mean(dim=(1, 2, 3)) > 0.01).all()
    inside, outside = moved_masks > 0.99, moved_masks < 0.01
    assert torch.allclose(moved[inside.expand_as(moved)], torch.tensor(0.8), atol=0.02)
    assert (moved[outside.expand_as(moved)] < 0.22).all()


def test_recolouring_changes_pixels_and_stays_in_range() -> None:
    pixels, _ = batch_of_squares()
    coloured = ALL.recolour(pixels, randoms(0, 0, range(4)))
    assert ((coloured - pixels).abs().mean(dim=(1, 2, 3)) > 0.01).all()
    assert coloured.min() >= 0
    assert coloured.max() <= 1


def test_views_depend_on_seed_epoch_and_index_only() -> None:
    pixels, masks = batch_of_squares()
    given = {"seed": 1, "epoch": 2, "indices": [7, 3, 9, 5]}
    first = ALL.of_pairs(pixels, masks, **given)
    torch.manual_seed(123)
    np.random.seed(123)
    other_order = ALL.of_pairs(pixels, masks, **{**given, "indices": [5, 9, 3, 7]})
    for one, other in zip(first, other_order, strict=True):
        assert torch.equal(one, other.flip(0))
    assert torch.equal(ALL.of(pixels, **given), first[0])
    for changed in ({"seed": 2}, {"epoch": 3}, {"indices": [8, 4, 10, 6]}):
        view = ALL.of_pairs(pixels, masks, **given | changed)[0]
        assert all(not torch.equal(one, other) for one, other in zip(first[0], view, strict=True))


def test_views_of_no_extent_are_the_images() -> None:
    pixels, _ = batch_of_squares()
    assert torch.allclose(STILL.of(pixels, seed=0, epoch=0, indices=range(4)), pixels, atol=1e-5)


@pytest.mark.parametrize(("rim", "corner"), [("zeros", 0.0), ("border", 0.5), ("reflection", 0.5)])
def test_beyond_the_rim(rim: str, corner: float) -> None:
    views = replace(STILL, turn=math.pi / 4, rim=rim)
    turned = views.of(torch.full((8, 3, 32, 32), 0.5), seed=0, epoch=0, indices=range(8))
    lowest = turned.flatten(1).min(1).values.min()
    assert lowest == pytest.approx(corner, abs=1e-5)


def test_points_follow_by_the_inverse_matrices() -> None:
    """A spot at (x, y) of the image is found where `forward_matrices` says."""
    x, y, side = 0.25, -0.375, 129
    column, row = round((x + 1) / 2 * side - 0.5), round((y + 1) / 2 * side - 0.5)
    spot = torch.zeros(6, 1, side, side)
    spot[:, :, row - 1 : row + 2, column - 1 : column + 2] = 1
    matrices = ALL.matrices(randoms(0, 0, range(6)))
    moved = warp(spot, affine_grid(matrices, [6, 1, side, side], align_corners=False))
    places = forward_matrices(matrices) @ torch.tensor([x, y, 1.0])
    for view, place in zip(moved[:, 0], places, strict=True):
        where = (view > 0.5).nonzero().float().mean(0)
        found = ((where + 0.5) / side * 2 - 1).flip(0)
        assert torch.allclose(found, place, atol=0.03)


def test_preprocess_is_undone_by_pixels() -> None:
    preprocess = Preprocess(64)
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    pixels = preprocess.pixels(preprocess(image))
    assert torch.allclose(pixels[0].permute(1, 2, 0) * 255, image.float(), atol=1e-3)


def test_letterbox_keeps_the_aspect_and_pads_with_grey() -> None:
    """200 x 100 pixels in a square of 64: 64 x 32 of them, 16 rows of grey above and below."""
    assert letterbox(100, 200, 64) == (32, 64, 16, 0)
    preprocess = Preprocess(64, letterbox=True)
    image = torch.randint(0, 256, (100, 200, 3), dtype=torch.uint8)
    pixels = preprocess.pixels(preprocess(image))[0]
    assert torch.allclose(pixels[:, :16], torch.tensor(PADDING), atol=1e-5)
    assert torch.allclose(pixels[:, 48:], torch.tensor(PADDING), atol=1e-5)
    small = interpolate(image.permute(2, 0, 1)[None].float() / 255, (32, 64), mode="bilinear", antialias=True)[0]
    assert torch.allclose(pixels[:, 16:48], small, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "place"),
    [(64, 64, (64, 64, 0, 0)), (30, 20, (64, 43, 0, 10)), (20, 30, (43, 64, 10, 0)), (1, 5000, (1, 64, 31, 0))],
)
def test_letterbox_geometry(height: int, width: int, place: tuple[int, int, int, int]) -> None:
    assert letterbox(height, width, 64) == place
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    assert Preprocess(64, letterbox=True)(image).shape == (1, 3, 64, 64)


def test_letterbox_is_exported_for_every_aspect(tmp_path: Path) -> None:
    """One graph, traced with a wide image, puts upright and square ones where torch does."""
    from torch.export import Dim

    from modelport.release import Graph

    preprocess = Preprocess(48, letterbox=True).eval()
    program = torch.onnx.export(
        preprocess,
        (torch.zeros(60, 90, 3, dtype=torch.uint8),),
        input_names=["image"],
        output_names=["input"],
        dynamic_shapes=({0: Dim("height"), 1: Dim("width")},),
        dynamo=True,
        opset_version=18,
        verbose=False,
    )
    assert program is not None
    graph = Graph(program.model_proto.SerializeToString())
    random = np.random.default_rng(0)
    for size in ((60, 90), (90, 60), (33, 33), (20, 31), (211, 47)):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        answer = graph.run({"image": image})["input"]
        assert np.abs(answer - preprocess(torch.tensor(image)).numpy()).max() < 1e-3
