"""Networks for classification: a small one that learns from scratch on a CPU, and two of torchvision's."""

import torch
from torch import Tensor, nn
from torchvision.models import (
    EfficientNet_B0_Weights,
    MobileNet_V3_Small_Weights,
    WeightsEnum,
    efficientnet_b0,
    mobilenet_v3_small,
)

from modelport.errors import BadInput
from modelport.learning.imagenet import load_imagenet
from modelport.learning.unet import ResidualEncoder

NETWORKS = ("small", "mobilenet_v3_small", "efficientnet_b0")
DROPOUT = 0.3
"""Share of the features that the last layer must do without, at random, while it learns."""


class SmallNet(nn.Module):
    """Residual encoder of 2.8 million parameters; the mean and the spread of its features decide."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = ResidualEncoder()
        self.classifier = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(2 * self.encoder.channels[-1], classes))

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B, C]."""
        features = self.encoder(image)[-1].flatten(2)
        if features.shape[2] < 2:
            raise BadInput(
                f"{image.shape[-1]} pixels leave one place to look at, which has no spread",
                key="train.parameters.size",
                remedy="use 64 or more",
            )
        return self.classifier(torch.cat([features.mean(2), features.std(2)], dim=1))


class TorchvisionNet(nn.Module):
    """One of torchvision's networks with a last layer of our own, for its pretrained weights fit all but that."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        self.weights: WeightsEnum
        if name == "efficientnet_b0":
            self.body, self.weights = efficientnet_b0(num_classes=classes), EfficientNet_B0_Weights.IMAGENET1K_V1
        else:
            self.body, self.weights = mobilenet_v3_small(num_classes=classes), MobileNet_V3_Small_Weights.IMAGENET1K_V1

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, S, S] -> logits [B, C]."""
        return self.body(image)


def classifier(name: str, classes: int) -> nn.Module:
    """A network by name: ``small``, ``mobilenet_v3_small`` or ``efficientnet_b0``.

    Raises:
        BadInput: there is none of this name.
    """
    if name not in NETWORKS:
        raise BadInput(f"is {name!r}", key="train.parameters.network", remedy=f"write one of: {', '.join(NETWORKS)}")
    return SmallNet(classes) if name == "small" else TorchvisionNet(name, classes)


def load_pretrained(network: nn.Module) -> None:
    """Load ImageNet weights into all but the last layer.

    Raises:
        BadInput: there are none for this network.
        Unavailable: they cannot be downloaded.
    """
    if not isinstance(network, TorchvisionNet):
        raise BadInput(
            "there are no pretrained weights of the small network",
            key="train.parameters.pretrained",
            remedy="train from scratch with `--set train.pretrained=false`, or choose another network",
        )
    last = max(int(name.split(".")[1]) for name in network.body.state_dict() if name.startswith("classifier."))
    load_imagenet(network.body, network.weights, without=f"classifier.{last}.")
