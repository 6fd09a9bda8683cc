"""VGG (Simonyan & Zisserman, 2015), which is timm's under a name of its own."""

from __future__ import annotations

from histotune.models.backbones._base import BACKBONES, BackboneInput
from histotune.models.backbones.timm_image import TimmBackbone, timm_image


@BACKBONES.register("vgg19")
def vgg19(
    given: BackboneInput,
    *,
    weights: str | None = None,
    pretrained: bool = False,
    batch_norm: bool = False,
    drop_rate: float = 0.0,
) -> TimmBackbone:
    """VGG-19 (Simonyan & Zisserman, 2015): 16 conv, 2 FC of 4096; 139,570,240 weights without its classifier.

    Args:
        given: shape of an image of at least 32 px; it was made for 224.
        weights: initial weights: a file of timm's or torchvision's (safetensors, or a state dict that loads with
            `weights_only=True`).
        pretrained: fetch timm's own weights from the Hugging Face hub, or take them from its cache.
        batch_norm: normalise after every convolution (timm's vgg19_bn).
        drop_rate: dropout between and after the fully connected layers.
    """
    name = "vgg19_bn" if batch_norm else "vgg19"
    return timm_image(name, given, weights=weights, pretrained=pretrained, drop_rate=drop_rate)
