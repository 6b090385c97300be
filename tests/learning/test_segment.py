"""Segmentation: the network, the loss, the mask that is served, and its Dice."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modelport.errors import BadInput, Unavailable
from modelport.learning import SegmentationNet
from modelport.learning.segment import Postprocess, deep_loss, dice, load_masks, mask_loss


def test_forward_shapes() -> None:
    net = SegmentationNet(classes=2)
    batch = torch.zeros(2, 3, 64, 64)
    shapes = [tuple(stage.shape) for stage in net.train()(batch)]
    assert shapes == [(2, 1, side, side) for side in (32, 16, 8, 4)]
    assert net.eval()(batch).shape == (2, 1, 32, 32)
    assert SegmentationNet(classes=4).eval()(batch).shape == (2, 4, 32, 32)


def test_pretrained_encoder_fits_the_same_decoder() -> None:
    net = SegmentationNet(classes=2, resnet=True).eval()
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 32, 32)


@pytest.mark.usefixtures("no_downloads")
def test_pretrained_offline_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match=r"train\.pretrained=false"):
        SegmentationNet(classes=2, resnet=True).load_pretrained()
    with pytest.raises(BadInput, match="no pretrained weights"):
        SegmentationNet(classes=2).load_pretrained()


def test_postprocess_gives_the_image_s_own_size() -> None:
    logits = torch.full((1, 1, 96, 96), -5.0)
    logits[..., :48] = 5.0
    mask, coverage = Postprocess()(logits, torch.zeros(101, 200, 3, dtype=torch.uint8))
    assert mask.shape == (101, 200)
    assert mask.dtype == torch.uint8
    assert mask[:, :99].all()
    assert not mask[:, 101:].any()
    assert coverage.shape == (1,)
    assert coverage.item() == pytest.approx(0.5, abs=0.01)


def test_of_several_classes_the_largest_wins() -> None:
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 2, :, :4] = 3.0
    logits[:, 0, :, 4:] = 3.0
    mask, coverage = Postprocess()(logits, torch.zeros(8, 8, 3, dtype=torch.uint8))
    assert mask[:, :4].eq(2).all()
    assert mask[:, 4:].eq(0).all()
    assert coverage.item() == pytest.approx(0.5)


def logits_of(mask: Tensor) -> Tensor:
    return (mask * 2 - 1) * 12


def test_loss_prefers_the_small_mask_over_nothing() -> None:
    """A shape of 0.4 % of the image: cross entropy alone would hardly tell, the Dice part does."""
    truth = torch.zeros(1, 1, 96, 96)
    truth[:, :, 40:46, 40:46] = 1
    shifted, nothing = truth.roll(3, dims=3), torch.zeros_like(truth)
    exact, near, missed = (mask_loss(logits_of(mask), truth).item() for mask in (truth, shifted, nothing))
    assert exact < 0.1 < near < missed
    assert missed - exact > 0.5


def test_loss_of_an_empty_mask_asks_for_no_pixels() -> None:
    truth = torch.zeros(1, 1, 96, 96)
    found = truth.clone()
    found[:, :, :20, :20] = 1
    assert mask_loss(logits_of(truth), truth) < 0.1 < mask_loss(logits_of(found), truth)


def test_loss_of_several_classes_tells_them_apart() -> None:
    truth = torch.zeros(1, 3, 32, 32)
    truth[:, 1, :8], truth[:, 2, 8:16], truth[:, 0, 16:] = 1, 1, 1
    swapped = truth[:, [0, 2, 1]]
    assert mask_loss(logits_of(truth), truth) < 0.1 < mask_loss(logits_of(swapped), truth)


def test_coarser_stages_count_together_as_much_as_is_said() -> None:
    masks = torch.zeros(1, 1, 32, 32)
    masks[:, :, :16] = 1
    fine, wrong = logits_of(masks), logits_of(1 - masks)
    alone, worst = mask_loss(fine, masks), mask_loss(wrong[..., ::2, ::2], masks[..., ::2, ::2])
    both = deep_loss([fine, wrong[..., ::2, ::2], wrong[..., ::2, ::2]], masks)
    assert both.item() == pytest.approx((alone + 0.4 * worst).item(), rel=1e-4)


class Masks:
    """A split of one mask."""

    def __len__(self) -> int:
        return 1

    def target(self, index: int) -> Any:
        mask = torch.zeros(64, 32, dtype=torch.uint8)
        mask[:32], mask[32:, :16] = 1, 2
        return mask.numpy()


def test_masks_in_memory_are_shares_of_each_class() -> None:
    shares = load_masks(Masks(), 8, 3)  # pyright: ignore[reportArgumentType]
    assert shares.shape == (1, 3, 8, 8)
    assert torch.allclose(shares.sum(1), torch.ones(1, 8, 8, dtype=torch.float16), atol=1e-2)
    assert shares.mean(dim=(2, 3))[0].tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    assert load_masks(Masks(), 8, 2).mean().item() == pytest.approx(0.75, abs=0.01)  # pyright: ignore[reportArgumentType]


def test_dice() -> None:
    empty, half, full = torch.zeros(4, 4).byte(), torch.eye(4).byte(), torch.ones(4, 4).byte()
    assert dice(empty, empty) == 1
    assert dice(empty, full) == 0
    assert dice(half, full) == pytest.approx(2 * 4 / 20)
    assert dice(full * 2, half, classes=3) == 0
    assert dice(half + 1, full, classes=3) == pytest.approx((2 * 12 / 28 + 0) / 2)
