"""What trainings of segmentation share: masks in memory, the loss, the mask that is served, and its Dice.

With two classes the network gives one channel of logits, foreground against background; with more, one a class.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate, one_hot

from modelport.data import Split
from modelport.errors import BadInput
from modelport.learning.learner import load_average
from modelport.learning.memory import forward, load_images
from modelport.learning.preprocess import Preprocess
from modelport.learning.unet import MULTIPLE, SegmentationNet
from modelport.learning.views import Views
from modelport.release import Pipeline
from modelport.training import Run

COARSE_WEIGHT = 0.4
"""Weight of the losses of the network's coarser stages, together."""
THRESHOLD = 0.5
"""A pixel is foreground from this probability on. Fixed, not tuned: the Dice loss puts the optimum near it."""


class Segmentation:
    """A run's images and masks in memory, at the network's size, and what `fit` asks for."""

    def __init__(self, run: Run, views: Views, *, mirror: bool = False) -> None:
        """Reads the parameters ``size`` and ``pretrained``.

        Args:
            run: As given to ``train(run)``.
            views: Of the training images.
            mirror: Whether `MirrorAveraged` is served.
        """
        self.run, self.views, self.mirror = run, views, mirror
        self.preprocess = Preprocess(checked_size(int(run.parameters["size"])))
        self.classes = len(run.spec.classes)
        self.images = load_images(run.train, self.preprocess)
        self.masks = load_masks(run.train, self.preprocess.size, self.classes)
        self.selection = load_images(run.selection, self.preprocess)
        # Selected by what is served: the decision at each image's own size.
        self.truths = [torch.tensor(run.selection.target(index)) for index in range(len(run.selection))]

    def start(self, network: nn.Module) -> None:
        """Load pretrained weights into a `SegmentationNet`, if the parameters say so."""
        if self.run.parameters["pretrained"]:
            assert isinstance(network, SegmentationNet)
            network.load_pretrained()

    def loss(self, network: nn.Module, indices: Sequence[int], epoch: int) -> Tensor:
        """Of a batch's views."""
        device = self.run.device
        images, masks = (part[indices].to(device).float() for part in (self.images, self.masks))
        preprocess = self.preprocess.to(device)
        pixels, masks = self.views.of_pairs(
            preprocess.pixels(images), masks, seed=self.run.seed, epoch=epoch, indices=indices
        )
        images = preprocess.normalise(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            stages = network(images)
        return deep_loss([stage.float() for stage in stages], masks)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mean over the images of the Dice of the mask that would be served."""
        served = MirrorAveraged(network) if self.mirror else network
        logits = forward(served, self.selection, self.run.device)
        postprocess = Postprocess()
        scores: list[float] = []
        for one, truth in zip(logits.split(1), self.truths, strict=True):
            mask, _ = postprocess(one, truth)  # of the image it reads the size alone, which is the truth's
            scores.append(dice(mask, truth, self.classes))
        return {"dice": sum(scores) / len(scores)}


def segmentation_pipeline(checkpoint: Path, network: nn.Module, *, size: int, mirror: bool = False) -> Pipeline:
    """What is served: the averaged weights of a checkpoint, loaded into `network`."""
    load_average(checkpoint, network)
    return Pipeline(
        preprocess=Preprocess(size).eval(),
        network=(MirrorAveraged(network) if mirror else network).eval(),
        postprocess=Postprocess().eval(),
        thresholds={"foreground": THRESHOLD},
    )


class Postprocess(nn.Module):
    """Bring the logits to the size of the image, and decide: by the threshold, or for the largest of several."""

    def forward(self, logits: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [1, C, s, s] and the image [H, W, 3] -> mask uint8 [H, W], coverage float32 [1] in 0..1."""
        size = (image.shape[0], image.shape[1])
        full = interpolate(logits, size, mode="bilinear", align_corners=False)[0]
        mask = full[0] > 0 if full.shape[0] == 1 else full.argmax(0)
        return mask.to(torch.uint8), (mask > 0).float().mean().reshape(1)


class MirrorAveraged(nn.Module):
    """Mean of the logits of an image and of its mirror image: twice the work, a steadier mask."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B, C, s, s]."""
        return (self.network(batch) + self.network(batch.flip(3)).flip(3)) / 2


def load_masks(split: Split, size: int, classes: int) -> Tensor:
    """float16 [N, C, S, S]: the share of each pixel that is foreground, or that is each class."""
    masks = torch.empty(len(split), 1 if classes == 2 else classes, size, size, dtype=torch.float16)
    for index in range(len(split)):
        target = torch.tensor(split.target(index))
        shares = target.gt(0)[None] if classes == 2 else one_hot(target.long(), classes).permute(2, 0, 1)
        masks[index] = interpolate(shares[None].float(), (size, size), mode="bilinear", antialias=True)[0]
    return masks


def deep_loss(stages: Sequence[Tensor], masks: Tensor) -> Tensor:
    """Loss of the finest logits at the masks' size, and of the coarser at theirs; [B, C, s, s] each, finest first."""
    finest, *coarser = stages
    loss = mask_loss(interpolate(finest, masks.shape[-2:], mode="bilinear", align_corners=False), masks)
    for logits in coarser:
        small = interpolate(masks, logits.shape[-2:], mode="area")
        loss = loss + COARSE_WEIGHT / len(coarser) * mask_loss(logits, small)
    return loss


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy a pixel plus one minus soft Dice an image, so that a small shape counts as much as a large one.

    Both [B, C, s, s]; masks in 0..1. The Dice is the mean over the foreground classes. A thousandth of the image is
    added to both sides of its fraction: an image without a class then asks for few false pixels instead of dividing by
    nothing.
    """
    if logits.shape[1] == 1:
        entropy, found, truth = binary_cross_entropy_with_logits(logits, masks), logits.sigmoid(), masks
    else:
        entropy, found, truth = cross_entropy(logits, masks), logits.softmax(1)[:, 1:], masks[:, 1:]
    found, truth = found.flatten(2), truth.flatten(2)
    smooth = found.shape[2] / 1000
    overlap = (2 * (found * truth).sum(2) + smooth) / (found.sum(2) + truth.sum(2) + smooth)
    return entropy + (1 - overlap).mean()


def dice(mask: Tensor, truth: Tensor, classes: int = 2) -> float:
    """Mean Dice over the foreground classes in either of two masks of class ids [H, W]; 1 where there are none."""
    scores: list[float] = []
    for label in range(1, classes):
        found, wanted = mask == label, truth == label
        size = int(found.sum()) + int(wanted.sum())
        if size:
            scores.append(2 * int((found & wanted).sum()) / size)
    return sum(scores) / len(scores) if scores else 1.0


def checked_size(size: int) -> int:
    """The side of the network's square, if its stages halve it evenly."""
    if size <= 0 or size % MULTIPLE:
        raise BadInput(f"is {size}, not a multiple of {MULTIPLE}", key="train.parameters.size", remedy="use 192, say")
    return size
