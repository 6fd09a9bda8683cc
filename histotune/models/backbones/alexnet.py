"""Small convolutional networks for 32-pixel patches: CIFAR10-quick and a half-width AlexNet."""

from __future__ import annotations

from torch import Tensor, nn

from histotune.errors import ConfigError
from histotune.models.backbones._base import BACKBONES, Backbone, BackboneInput, BackboneOutput, Widths

_GRID = 4  # positions of the last map in height and width, at 32 px without any pooling on top


class SmallConvNet(Backbone):
    """Convolutions down to an eighth of the side, averaged to 4 x 4 positions, then fully connected layers.

    At 32 px the last map is 4 x 4 by itself and the averaging is the identity; at any other size it makes the number
    of weights independent of the image size.
    """

    dense = True
    grid = (_GRID, _GRID)
    convolutional = True

    def __init__(self, maps: nn.Module, channels: int, classifier: nn.Module, features: int) -> None:
        super().__init__()
        self.maps = maps
        self.classifier = classifier
        self.widths = Widths(token=channels, pooled=features)

    def forward(self, batch: Tensor) -> BackboneOutput:
        """Map images [B, C, H, W] to tokens [B, 16, channels] and pooled [B, features]."""
        maps = self.maps(batch)  # [B, channels, about H/8, about W/8]
        if maps.shape[-2:] != (_GRID, _GRID):
            maps = nn.functional.adaptive_avg_pool2d(maps, _GRID)
        tokens = maps.flatten(2).transpose(1, 2)
        return BackboneOutput(tokens, self.classifier(tokens.transpose(1, 2).flatten(1)))


@BACKBONES.register("alexnet")
def alexnet(
    given: BackboneInput, *, width: int = 32, features: int = 64, dropout: float = 0.0, batch_norm: bool = False
) -> SmallConvNet:
    """CIFAR10-quick, the "AlexNet" of Janowczyk (2016): 3 conv, 1 FC of 64; 145,058 weights with 2 classes.

    Caffe's network, with pools that keep the last column (ceil mode). Sizes other than 32 px: the last map is averaged
    to 4 x 4.

    Args:
        given: shape of an image.
        width: channels of the first two convolutions; the third has twice as many.
        features: width of the fully connected layer, which has no ReLU.
        dropout: above 0, the variant of the same authors: ReLU, then dropout, after the fully connected layer.
        batch_norm: normalise after every convolution; not in the original, and better on IDC.
    """
    channels = _image_channels(given, "alexnet")
    maps = nn.Sequential(
        *_filter(channels, width, 5, norm=batch_norm),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(inplace=True),
        *_filter(width, width, 5, norm=batch_norm),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        *_filter(width, 2 * width, 5, norm=batch_norm),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(3, 2, ceil_mode=True),
    )
    classifier = nn.Sequential(nn.Linear(2 * width * _GRID**2, features))
    if dropout:
        classifier.extend([nn.ReLU(inplace=True), nn.Dropout(dropout)])
    return SmallConvNet(maps, 2 * width, classifier, features)


@BACKBONES.register("alexnet32")
def alexnet32(given: BackboneInput, *, width: int = 48, features: int = 256, dropout: float = 0.25) -> SmallConvNet:
    """AlexNet (Krizhevsky et al., 2012) fitted to 32 px: 5 conv with batch norm, 2 FC; inferred, not published.

    Its channels stand as in the original, 3 : 8 : 12 : 12 : 8, with `width` in the first layer (96 there, 48 here);
    both fully connected layers have `features` units (256-1024). Sizes other than 32 px: the last map is averaged to
    4 x 4.
    """
    channels = _image_channels(given, "alexnet32")
    wide, widest = width * 8 // 3, width * 4
    maps = nn.Sequential(
        *_convolution(channels, width, 5),
        nn.MaxPool2d(2, ceil_mode=True),
        *_convolution(width, wide, 3),
        nn.MaxPool2d(2, ceil_mode=True),
        *_convolution(wide, widest, 3),
        *_convolution(widest, widest, 3),
        *_convolution(widest, wide, 3),
        nn.MaxPool2d(2, ceil_mode=True),
    )
    classifier = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(wide * _GRID**2, features),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(features, features),
        nn.ReLU(inplace=True),
    )
    return SmallConvNet(maps, wide, classifier, features)


def _filter(before: int, after: int, kernel: int, *, norm: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=not norm)
    return [convolution, nn.BatchNorm2d(after)] if norm else [convolution]


def _convolution(before: int, after: int, kernel: int) -> list[nn.Module]:
    return [*_filter(before, after, kernel, norm=True), nn.ReLU(inplace=True)]


def _image_channels(given: BackboneInput, name: str) -> int:
    if len(given.shape) != 3:
        raise ConfigError(f"backbone {name!r} reads images (channels, height, width), got shape {given.shape}")
    return given.shape[0]
