"""A network for segmentation: a small residual U-Net that learns from scratch on a CPU, or one on a pretrained encoder.

Both halve the resolution five times at most, look at the whole image once at the bottom, and come back up to half the
input's size: [B, 3, S, S] -> logits [B, C, S/2, S/2], S a multiple of 32. In training mode the forward pass returns a
list: those logits, then the coarser ones of the decoder stages, for deep supervision.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from torchvision.models import ResNet18_Weights, resnet18

from modelport.errors import BadInput
from modelport.learning.imagenet import load_imagenet

MULTIPLE = 32
"""The input's side is a multiple of this, so that every stage halves evenly."""
WIDTHS = (16, 32, 64, 128, 256)
"""Channels at strides 2, 4, 8, 16 and 32. Few where pixels are many: that is what makes it fast on a CPU."""
DEPTHS = (1, 2, 2, 2)
"""Residual blocks at strides 4, 8, 16 and 32."""


class SegmentationNet(nn.Module):
    """Encoder, context of the whole image, decoder with skip connections."""

    def __init__(self, classes: int, *, resnet: bool = False) -> None:
        """One channel of logits for two classes, foreground against background; else one a class."""
        super().__init__()
        channels = 1 if classes == 2 else classes
        self.encoder = ResNetEncoder() if resnet else ResidualEncoder()
        widths = list(self.encoder.channels)
        self.context = Context(widths[-1])
        self.decoder = nn.ModuleList()
        self.heads = nn.ModuleList()
        for skip, below in zip(widths[-2::-1], widths[:0:-1], strict=True):
            self.decoder.append(conv(skip + below, skip))
            self.heads.append(head(skip, channels))

    def load_pretrained(self) -> None:
        """Load the encoder's ImageNet weights.

        Raises:
            BadInput: it is not the ResNet.
            Unavailable: they cannot be downloaded.
        """
        if not isinstance(self.encoder, ResNetEncoder):
            raise BadInput("there are no pretrained weights of our own encoder", remedy="build it with resnet=True")
        load_imagenet(self.encoder.body, ResNet18_Weights.IMAGENET1K_V1, without="fc.")

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits at half the input's size; in training mode a list of them and the coarser stages'."""
        features: list[Tensor] = self.encoder(image)
        x: Tensor = self.context(features[-1])
        stages: list[Tensor] = []
        for block, skip in zip(self.decoder, features[-2::-1], strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
            stages.append(x)
        if not self.training:
            return self.heads[-1](stages[-1])
        return [predict(stage) for predict, stage in zip(self.heads, stages, strict=True)][::-1]


class ResidualEncoder(nn.Module):
    """Features at strides 2, 4, 8, 16 and 32."""

    channels: Sequence[int] = WIDTHS

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(conv(3, WIDTHS[0], kernel=5, stride=2), conv(WIDTHS[0], WIDTHS[0]))
        self.stages = nn.ModuleList([stem])
        for before, width, depth in zip(WIDTHS, WIDTHS[1:], DEPTHS, strict=False):
            blocks = [ResidualBlock(before, width, stride=2)]
            blocks += [ResidualBlock(width, width) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image [B, 3, S, S] -> features, finest first."""
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class ResNetEncoder(nn.Module):
    """torchvision's ResNet-18, features at strides 2, 4, 8, 16 and 32."""

    channels: Sequence[int] = (64, 64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet18(weights=None)
        del self.body.fc

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image [B, 3, S, S] -> features, finest first."""
        body = self.body
        x = body.relu(body.bn1(body.conv1(x)))
        features = [x]
        x = body.maxpool(x)
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            features.append(x)
        return features


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which averages where the block halves the resolution."""

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(before, width, stride=stride), conv(width, width, activation=False))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), conv(before, width, kernel=1, activation=False))

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, before, h, w] -> [B, width, h / stride, w / stride]."""
        return relu(self.body(x) + self.shortcut(x))


class Context(nn.Module):
    """What lies around each place, near (dilations 1, 2, 4) and in the whole image, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        part = width // 4
        self.local = nn.ModuleList(
            [conv(width, part, kernel=1), conv(width, part, dilation=2), conv(width, part, dilation=4)]
        )
        self.whole = nn.Sequential(nn.Conv2d(width, part, 1), nn.ReLU(inplace=True))
        self.mix = conv(4 * part, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, width, h, w] -> the same shape."""
        whole = self.whole(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        return x + self.mix(torch.cat([*(look(x) for look in self.local), whole], dim=1))


def conv(
    before: int, width: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1, activation: bool = True
) -> nn.Sequential:
    """Convolution that keeps the size (but for the stride), batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(before, width, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(width),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if activation else nn.Sequential(*layers)


def head(width: int, channels: int) -> nn.Conv2d:
    """Logits from features; starts by calling most of the image background, as in most training images it is."""
    layer = nn.Conv2d(width, channels, kernel_size=1)
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.zero_()
        layer.bias[0] = -1.5 if channels == 1 else 1.5
    return layer
