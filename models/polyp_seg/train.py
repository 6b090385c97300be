"""Training: called in every Ray Train worker.

Everything random is drawn from (seed, epoch, index), never from a generator whose state would be lost: killed and
started again, a training goes on from its last epoch with the same order of data, the same views of it, and ends the
same.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from modelport.data import Split
from modelport.errors import BadInput
from modelport.training import Run

from .augmentation import augment
from .network import MULTIPLE, ResNetEncoder, SegmentationNet
from .pipeline import THRESHOLD, MirrorAveraged, Postprocess, Preprocess

WARM_UP = 0.15
"""Share of the training in which the learning rate rises."""
AVERAGE_DECAY = 0.998
"""Of the running average of the weights, a step. The average is what is evaluated and released."""
COARSE_WEIGHT = 0.4
"""Weight of the coarser stages' losses, together."""


def train(run: Run) -> None:
    """Train to the end, reporting the loss and the selection split's Dice with a checkpoint every epoch."""
    size = int(run.parameters["size"])
    if size <= 0 or size % MULTIPLE:
        raise BadInput(f"is {size}, not a multiple of {MULTIPLE}", key="train.parameters.size", remedy="use 192, say")
    preprocess = Preprocess(size)
    samples = load(run.train, preprocess)
    selection = load(run.selection, preprocess)

    learner = Learner(run)
    state = run.resume()
    if state is None:
        learner.start()
    else:
        learner.restore(state)
    parallel = run.prepare(learner.network)
    served = MirrorAveraged(learner.average) if run.parameters["mirror"] else learner.average
    for epoch in run.epochs(int(run.parameters["epochs"])):
        loss = train_epoch(run, learner, parallel, samples, preprocess, epoch)
        metrics = {"loss": loss, "dice": evaluate(served, selection, run.device)}
        run.report(metrics, learner.state(), epoch=epoch)


@dataclass(frozen=True)
class Samples:
    """A split as the network sees it, in memory: the decoding and resizing is done once, not once an epoch."""

    images: Tensor
    """float16 [N, 3, S, S], made by the very module that is served."""
    masks: Tensor
    """float16 [N, 1, S, S], the share of each pixel that is polyp."""
    targets: list[Tensor]
    """uint8 [H, W] each, of the images' own sizes."""


def load(split: Split, preprocess: Preprocess) -> Samples:
    """Decode, resize and normalise a whole split; about 0.4 MB an image at 192x192."""
    size = (preprocess.size, preprocess.size)
    images = torch.empty(len(split), 3, *size, dtype=torch.float16)
    masks = torch.empty(len(split), 1, *size, dtype=torch.float16)
    targets: list[Tensor] = []
    for index in range(len(split)):
        images[index] = preprocess(torch.tensor(split.image(index)))[0]
        target = torch.tensor(split.target(index)).gt(0).to(torch.uint8)
        masks[index] = interpolate(target[None, None].float(), size, mode="bilinear", antialias=True)[0]
        targets.append(target)
    return Samples(images, masks, targets)


class Learner:
    """What a training changes: the network, the running average of its weights, the optimizer."""

    def __init__(self, run: Run) -> None:
        torch.manual_seed(run.seed)
        network = SegmentationNet(resnet=bool(run.parameters["pretrained"])).to(run.device)
        # Channels last is a quarter faster on a CPU, and what tensor cores want.
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = copy.deepcopy(self.network)
        convolutions = [value for value in self.network.parameters() if value.ndim > 1]
        others = [value for value in self.network.parameters() if value.ndim <= 1]
        decay = float(run.parameters["weight_decay"])
        self.optimizer = torch.optim.AdamW(
            [{"params": convolutions, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        )

    def start(self) -> None:
        """Begin afresh."""
        if isinstance(self.network.encoder, ResNetEncoder):
            self.network.encoder.load_imagenet()
            self.average.load_state_dict(self.network.state_dict())

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on; `pipeline` serves the average."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def step(self, loss: Tensor, rate: float, number: int) -> None:
        """Learn from a batch's loss; the average follows, faster in the first steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(AVERAGE_DECAY, (1 + number) / (10 + number))
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)


def train_epoch(
    run: Run, learner: Learner, parallel: nn.Module, samples: Samples, preprocess: Preprocess, epoch: int
) -> float:
    """Learn from every sample once; the mean loss."""
    order = np.random.default_rng((run.seed, epoch)).permutation(len(samples.images)).tolist()
    mine = run.shard(order)
    batch_size = min(max(1, int(run.parameters["batch_size"]) // run.world_size), len(mine))
    steps = len(mine) // batch_size
    total_steps = steps * int(run.parameters["epochs"])
    preprocess = preprocess.to(run.device)
    parallel.train()
    losses: list[float] = []
    for step in range(steps):
        indices = mine[step * batch_size : (step + 1) * batch_size]
        images, masks = (part[indices].to(run.device).float() for part in (samples.images, samples.masks))
        pixels, masks = augment(preprocess.pixels(images), masks, seed=run.seed, epoch=epoch, indices=indices)
        images = preprocess.normalise(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda"):
            stages = parallel(images)
        loss = deep_loss([stage.float() for stage in stages], masks)
        number = epoch * steps + step
        learner.step(loss, learning_rate(number / total_steps, float(run.parameters["learning_rate"])), number)
        losses.append(loss.item())
        run.progress(step + 1, steps, loss=losses[-1])
    return sum(losses) / len(losses)


def deep_loss(stages: list[Tensor], masks: Tensor) -> Tensor:
    """Loss of the finest logits at the masks' size, and of the coarser at theirs; [B, 1, s, s] each, finest first."""
    finest, *coarser = stages
    loss = mask_loss(interpolate(finest, masks.shape[-2:], mode="bilinear", align_corners=False), masks)
    for logits in coarser:
        small = interpolate(masks, logits.shape[-2:], mode="area")
        loss = loss + COARSE_WEIGHT / len(coarser) * mask_loss(logits, small)
    return loss


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy a pixel plus one minus soft Dice an image, so that a small polyp counts as much as a large one.

    Both [B, 1, s, s]; masks in 0..1. A thousandth of the image is added to both sides of the Dice's fraction: an image
    without a polyp then asks for few false pixels instead of dividing by nothing.
    """
    entropy = binary_cross_entropy_with_logits(logits, masks)
    found, truth = logits.sigmoid().flatten(1), masks.flatten(1)
    smooth = found.shape[1] / 1000
    overlap = (2 * (found * truth).sum(1) + smooth) / (found.sum(1) + truth.sum(1) + smooth)
    return entropy + (1 - overlap).mean()


@torch.inference_mode()
def evaluate(network: nn.Module, samples: Samples, device: torch.device, batch_size: int = 16) -> float:
    """Mean over the images of the Dice of the mask that would be served, at each image's own size."""
    network.eval()
    postprocess = Postprocess(THRESHOLD)
    scores: list[float] = []
    for start in range(0, len(samples.targets), batch_size):
        images = samples.images[start : start + batch_size].to(device).float()
        logits: Tensor = network(images.contiguous(memory_format=torch.channels_last)).cpu()
        for one, target in zip(logits.split(1), samples.targets[start : start + batch_size], strict=True):
            mask, _ = postprocess(one, target)  # of the image it reads the size alone, which is the target's
            scores.append(dice(mask, target))
    return sum(scores) / len(scores)


def dice(mask: Tensor, target: Tensor) -> float:
    """Dice of two masks of 0 and 1 [H, W]; 1 where both are empty."""
    size = int(mask.sum()) + int(target.sum())
    return 2 * int((mask & target).sum()) / size if size else 1.0


def learning_rate(progress: float, peak: float) -> float:
    """One cycle: from a 25th of the peak up, then down to nearly nothing, both along a cosine; progress in 0..1."""
    if progress < WARM_UP:
        return peak * (1 + 24 * (1 - math.cos(math.pi * progress / WARM_UP)) / 2) / 25
    return peak * max(1e-4, (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2)
