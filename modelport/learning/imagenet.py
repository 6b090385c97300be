"""Weights that torchvision offers for its networks, trained on ImageNet."""

from typing import Any
from urllib.error import URLError

import torch
from torch import nn
from torchvision.models import WeightsEnum

from modelport.errors import Unavailable


def load_imagenet(body: nn.Module, weights: WeightsEnum, without: str) -> None:
    """Load pretrained weights; downloads them unless they are in torch's cache.

    Args:
        body: The network that they are of, but for its last layer.
        weights: Which.
        without: Beginning of the last layer's names, which tells ImageNet's classes apart and stays as it is.

    Raises:
        Unavailable: they cannot be downloaded.
    """
    try:
        state: dict[str, Any] = dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError) as error:
        raise Unavailable(
            f"the ImageNet weights cannot be downloaded from {weights.url}: {error}",
            key="train.parameters.pretrained",
            remedy="train from scratch with `--set train.pretrained=false`, or put the file into "
            f"{torch.hub.get_dir()}/checkpoints on the machine that trains",
        ) from error
    own = body.state_dict()
    kept = {name: value for name, value in own.items() if name.startswith(without)}
    body.load_state_dict({name: value for name, value in state.items() if not name.startswith(without)} | kept)
