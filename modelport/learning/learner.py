"""What a training changes, and how: the network, the running average of its weights, the optimizer, the rate."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelport.errors import BadInput

WARM_UP = 0.15
"""Share of the training in which the learning rate rises."""
AVERAGE_DECAY = 0.998
"""Of the running average of the weights, a step. The average is what is evaluated and released."""
LARGEST_GRADIENT = 1.0
"""Norm that a step's gradients are cut to."""


class Learner:
    """A network that learns by AdamW, and the running average of its weights."""

    def __init__(self, network: nn.Module, weight_decay: float) -> None:
        """The network lies on the device that it is to learn on; biases and norms are not decayed."""
        # Channels last is a quarter faster on a CPU, and what tensor cores want.
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = copy.deepcopy(self.network)
        learned = [value for value in self.network.parameters() if value.requires_grad]
        matrices = [value for value in learned if value.ndim > 1]
        others = [value for value in learned if value.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        )

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on; `load_average` reads what is served."""
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
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        decay = min(AVERAGE_DECAY, (1 + number) / (10 + number))
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)


def learning_rate(progress: float, peak: float) -> float:
    """One cycle: from a 25th of the peak up, then down to nearly nothing, both along a cosine; progress in 0..1."""
    if progress < WARM_UP:
        return peak * (1 + 24 * (1 - math.cos(math.pi * progress / WARM_UP)) / 2) / 25
    return peak * max(1e-4, (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2)


def load_average(checkpoint: Path, network: nn.Module) -> dict[str, float]:
    """Load the running average of a checkpoint's weights into `network`; its epoch's metrics.

    Args:
        checkpoint: Folder that holds ``checkpoint.pt``.
        network: Built with the parameters of the training.

    Raises:
        BadInput: the weights are another network's.
    """
    file = checkpoint / "checkpoint.pt"
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(state["average"])
    except RuntimeError as error:
        raise BadInput(
            f"holds the weights of another network: {error}",
            file=file,
            remedy="build it in pipeline.py as train.py does, from the same parameters",
        ) from error
    return dict(state["metrics"])
