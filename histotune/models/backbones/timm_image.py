"""Any timm model as a backbone, `timm/NAME`, also for images far smaller than it was made for."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from histotune.errors import ConfigError
from histotune.models.backbones._base import BACKBONES, Backbone, BackboneInput, BackboneOutput, Widths
from histotune.models.backbones._torchvision import import_timm
from histotune.models.backbones._weights import load_package, load_weights

_STEP, _LARGEST = 4, 512  # image sizes that are tried when one does not fit, pixels
_REFUSALS = (AssertionError, ArithmeticError, IndexError, RuntimeError, TypeError, ValueError)
_BLOCKS = ("blocks_token_only", "cls_attn_blocks", "blocks")  # timm's names; those that only read the positions first
_DENSE = ("resnet", "resnetv2", "wide_resnet", "vgg", "vit", "deit", "mixer")  # bfloat16 pays also on a CPU


class TimmBackbone(Backbone):
    """A timm model without its classifier."""

    def __init__(self, name: str, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        _refuse_rest(network, shape)
        self.dense = name.startswith(_DENSE) and "convnext" not in name
        self.channels_last_output = getattr(network, "output_fmt", "") == "NHWC"
        self.prefix = int(getattr(network, "num_prefix_tokens", 0))
        self.widths = self._probe(shape)

    def forward(self, batch: Tensor) -> BackboneOutput:
        """Map images [B, C, H, W] to tokens [B, T, Dt] (positions, without class tokens) and pooled [B, Dp]."""
        return self._output(self.network.forward_features(batch))  # type: ignore[operator]

    def last_mixing(self) -> tuple[nn.Module, int] | None:
        """Return the norm before the last attention of a transformer with class tokens."""
        if not self.prefix:
            return None
        for name in _BLOCKS:
            blocks = getattr(self.network, name, None)
            norm = getattr(blocks[-1], "norm1", None) if isinstance(blocks, (nn.Sequential, nn.ModuleList)) else None
            if isinstance(norm, nn.Module):
                return norm, self.prefix
        return None

    def _output(self, maps: Tensor) -> BackboneOutput:
        if maps.dim() == 3:
            tokens = maps[:, self.prefix :]
            maps = torch.cat([maps[:, : self.prefix], tokens], dim=1) if self.prefix else tokens
        elif self.channels_last_output:
            tokens = maps.flatten(1, 2)
            maps = tokens.unflatten(1, maps.shape[1:3])
        else:
            tokens = maps.flatten(2).transpose(1, 2)
            maps = tokens.transpose(1, 2).unflatten(2, maps.shape[2:])
        return BackboneOutput(tokens, self.network.forward_head(maps, pre_logits=True))  # type: ignore[operator]

    def _probe(self, shape: tuple[int, ...]) -> Widths:
        """Learn widths and grid from one image; a size that the network cannot take is refused here."""
        self.eval()
        with torch.no_grad():
            maps = self.network.forward_features(torch.zeros(1, *shape))  # type: ignore[operator]
            output = self._output(maps)
        self.train()
        self.convolutional = maps.dim() == 4 and not self.channels_last_output
        self.grid = self._positions(maps, output.tokens.shape[1])
        return Widths(token=output.tokens.shape[-1], pooled=output.pooled.shape[-1])

    def _positions(self, maps: Tensor, count: int) -> tuple[int, int] | None:
        """Return rows and columns of the tokens; what only its patches tell of a sequence holds if it kept them all."""
        if maps.dim() == 4:
            rows, columns = maps.shape[1:3] if self.channels_last_output else maps.shape[2:]
        else:
            embedding = getattr(self.network, "patch_embed", None)
            rows, columns = getattr(embedding, "grid_size", None) or (0, 0)
        return (rows, columns) if rows * columns == count else None


def check_name(name: str) -> None:
    """Check that timm has a model of this name (a tag of its weights may follow a dot), without importing timm.

    Raises:
        ConfigError: it has none; the nearest names are offered.
    """
    model = name.partition(".")[0]
    if model not in known_names():
        near = difflib.get_close_matches(model, known_names(), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(f'timm/{n}' for n in near)}?" if near else "See timm.list_models()."
        raise ConfigError(f"unknown backbone 'timm/{name}': timm has no such model. {hint}")


@cache
def known_names() -> frozenset[str]:
    """Read timm's model names from its sources: 0.1 s instead of the 2 s that importing them takes."""
    result = importlib.util.find_spec("timm")
    assert result is not None
    folders = [Path(folder) / "models" for folder in result.submodule_search_locations or ()]
    sources = (path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.py"))
    return frozenset(name for source in sources for name in re.findall(r"@register_model\s+def (\w+)\(", source))


@BACKBONES.register("timm/", check_member=check_name)
def timm_image(
    name: str,
    given: BackboneInput,
    *,
    weights: str | None = None,
    pretrained: bool = False,
    small_stem: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    patch_size: int = 0,
    depth: int = 0,
) -> TimmBackbone:
    """Any model of timm by name, such as timm/resnet18, timm/convnext_atto or timm/vit_tiny_patch16_224.

    Args:
        name: timm's name of the model; its size at birth (`_224`) does not bind image_size.
        given: shape of an image.
        weights: initial weights: a file (safetensors, or a state dict that loads with `weights_only=True`), or
            `package` for ImageNet weights from an installed package (tf_efficientnet_lite0, -1, -2).
        pretrained: fetch timm's own weights from the Hugging Face hub, or take them from its cache.
        small_stem: let the first convolution keep the resolution and leave out the max pool after it, as is usual
            for images of 32-64 px (He et al., 2016, on CIFAR-10).
        drop_rate: dropout before the pooled vector's use.
        drop_path_rate: stochastic depth.
        patch_size: side of a patch of a vision transformer, pixels; 0 keeps the model's own.
        depth: blocks of a vision transformer; 0 keeps the model's own.
    """
    if weights and pretrained:
        raise ConfigError(f"backbone 'timm/{name}': give either weights or pretrained, not both ({weights=})")
    if len(given.shape) != 3:
        raise ConfigError(f"backbone 'timm/{name}' reads images (channels, height, width), got shape {given.shape}")
    optional = {"drop_path_rate": drop_path_rate, "patch_size": patch_size, "depth": depth}
    options = {"drop_rate": drop_rate, **{k: v for k, v in optional.items() if v}}
    network = _create(name, given.shape, pretrained, options)
    if weights == "package":
        load_package(network, name)
    elif weights:
        load_weights(network, Path(weights))
    if small_stem:
        _keep_resolution(name, network)
    try:
        return TimmBackbone(name, network, given.shape)
    except _REFUSALS as error:
        raise _unfit(name, given.shape, options, error) from error


def _create(name: str, shape: tuple[int, ...], pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    try:
        return _network(name, shape, pretrained, options)
    except TypeError as error:
        raise ConfigError(f"backbone 'timm/{name}' refuses {dict(options)}: {error}") from error
    except (OSError, ImportError, *_REFUSALS) as error:
        if not pretrained and isinstance(error, _REFUSALS):
            raise _unfit(name, shape, options, error) from error
        if not pretrained:
            raise
        config = _facts(name)
        source = f"{config.hf_hub_id} on huggingface.co" if config and config.hf_hub_id else "their source"
        raise ConfigError(
            f"backbone 'timm/{name}': its pretrained weights could not be fetched from {source} ({error}). Without a "
            f"network, fetch them elsewhere and give `weights: PATH`, or leave `pretrained` out"
        ) from error


def _network(name: str, shape: tuple[int, ...], pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    config = _facts(name)
    fixed = {"img_size": shape[1:]} if config is not None and config.fixed_input_size else {}
    network: nn.Module = import_timm().create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=shape[0], **fixed, **options
    )
    return network


def _facts(name: str) -> Any:
    return import_timm().models.get_pretrained_cfg(name)


def input_statistics(name: str, *, package: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation, of pixels in [0, 1], by which inputs of pretrained weights were standardised.

    Args:
        name: `timm/NAME`.
        package: whether the weights come from a package, which has its own: (x - 127) / 128 of pixels in [0, 255].
    """
    if package:
        return (127 / 255,) * 3, (128 / 255,) * 3
    config = _facts(name.removeprefix("timm/"))
    if config is None:
        default = import_timm().data
        return default.IMAGENET_DEFAULT_MEAN, default.IMAGENET_DEFAULT_STD
    return tuple(config.mean), tuple(config.std)


def _unfit(name: str, shape: tuple[int, ...], options: Mapping[str, Any], error: Exception) -> ConfigError:
    """Describe that a network cannot take images of this size, and name the nearest size that it takes."""
    message = f"backbone 'timm/{name}' cannot take {shape[1]}x{shape[2]} px: {error}"
    sides = sorted(range(2 * _STEP, _LARGEST + 1, _STEP), key=lambda side: abs(side - shape[1]))
    for side in sides:
        if side != shape[1] and _takes(name, (shape[0], side, side), options):
            return ConfigError(f"{message}. The nearest image_size that it takes is {side}")
    return ConfigError(f"{message}. No image_size up to {_LARGEST} fits")


def _refuse_rest(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Refuse an image that patches do not tile: timm would leave its right and lower edge out without a word."""
    embedding = getattr(network, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if not isinstance(patch, tuple) or getattr(embedding, "dynamic_img_pad", False):
        return
    rest = max(side % step for side, step in zip(shape[1:], patch, strict=True))
    if rest:
        raise ValueError(f"its patches of {patch[0]} px would leave {rest} px of every row and column out")


def _takes(name: str, shape: tuple[int, ...], options: Mapping[str, Any]) -> bool:
    """Whether images of this size go through the network: shapes only, no number is computed."""
    try:
        with torch.device("meta"):
            TimmBackbone(name, _network(name, shape, False, options), shape)
    except _REFUSALS:
        return False
    return True


def _keep_resolution(name: str, network: nn.Module) -> None:
    """Set the stride of an overlapping first convolution to 1 and leave out the max pool that follows it."""
    first = network.pretrained_cfg["first_conv"]  # type: ignore[index]
    stem = network.get_submodule(first) if isinstance(first, str) else None
    if not isinstance(stem, nn.Conv2d) or not 1 < stem.stride[0] < stem.kernel_size[0]:
        raise ConfigError(f"backbone 'timm/{name}' has no overlapping strided first convolution: leave small_stem out")
    stem.stride = (1, 1)
    if isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.maxpool = nn.Identity()
