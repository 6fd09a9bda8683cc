"""Random changes of a whole batch of images at once, on its device, with draws of their own for every image.

Images are [B, S, S, 3] (rows, columns, RGB): uint8, or float in [0, 1] for what changes colours. Draws come from a
numpy generator, so that they are the same on every device. An amount of 0 draws nothing and returns its input.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from histotune.core.config import AugmentConfig

_LUMA = (0.2989, 0.5870, 0.1140)  # ITU-R BT.601, scaled to sum 1 below
_HAEMATOXYLIN = (0.650, 0.704, 0.286)  # optical density of each stain in R, G, B: Ruifrok & Johnston, 2001
_EOSIN = (0.072, 0.990, 0.105)


def augment(images: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Apply flips, turns and colour changes to uint8 [B, S, S, 3]; float in [0, 1] when a colour changed."""
    images = flip_and_turn(images, rng, flip=config.flip, turn=config.turn)
    if config.stain_jitter or config.color_jitter:
        images = images.float() / 255
        images = jitter_stains(images, config.stain_jitter, rng)
        images = jitter_colors(images, config.color_jitter, rng)
    return images


def flip_and_turn(images: Tensor, rng: np.random.Generator, *, flip: bool = True, turn: bool = True) -> Tensor:
    """Mirror each image (each axis with probability 1/2) and turn it by a random multiple of 90 degrees.

    Both together reach all eight symmetries of the square with probability 1/8 each; `turn` alone the four rotations.
    """
    if not (flip or turn):
        return images
    rows, columns, swap = rng.integers(0, 2, size=(3, len(images)))
    if not turn:
        swap[:] = 0
    elif not flip:
        columns = rows ^ swap  # an even number of mirrors is a rotation
    codes = torch.from_numpy(rows + 2 * columns + 4 * swap)
    order = codes.argsort()
    groups = images[order.to(images.device)].split(torch.bincount(codes, minlength=8).tolist())
    turned = torch.cat([symmetry(group, code) for code, group in enumerate(groups)])
    return turned[order.argsort().to(images.device)]


def symmetry(images: Tensor, code: int) -> Tensor:
    """Return the symmetry `code` in 0..7 of the square, of images [B, S, S, 3]; 0 is the identity."""
    if code & 4:
        images = images.transpose(1, 2)
    axes = [axis for bit, axis in ((1, 1), (2, 2)) if code & bit]
    return images.flip(axes) if axes else images


def undo_symmetry(maps: Tensor, code: int) -> Tensor:
    """Turn maps [B, h, w] of images that `symmetry(images, code)` has turned back to how the images were before."""
    axes = [axis for bit, axis in ((1, 1), (2, 2)) if code & bit]
    maps = maps.flip(axes) if axes else maps
    return maps.transpose(1, 2) if code & 4 else maps


def jitter_colors(images: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Multiply brightness, contrast and saturation of each image by factors from [1 - amount, 1 + amount].

    Contrast turns about the mean grey of the image, saturation about the grey of the pixel. The three are one affine
    map of colours, clamped to [0, 1] once.
    """
    if not amount:
        return images
    size = len(images)
    brightness, contrast, saturation = _factors(rng, amount, 3, size).to(images.device).unbind()
    luma = torch.tensor(_LUMA, device=images.device)
    luma = luma / luma.sum()
    pixels = images.reshape(size, -1, 3)  # [B, S*S, 3]
    grey = pixels.mean(dim=1) @ luma * brightness  # [B], mean grey of the brightened image
    mix = saturation[:, None, None] * torch.eye(3, device=images.device)
    mix = mix + (1 - saturation)[:, None, None] * luma[:, None]  # [B, from, to]
    offset = (1 - contrast) * grey
    changed = torch.baddbmm(offset[:, None, None], pixels, (contrast * brightness)[:, None, None] * mix)
    return changed.clamp_(0, 1).reshape(images.shape)


def jitter_stains(images: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Multiply each image's haematoxylin and eosin by factors from [1 - amount, 1 + amount] (Tellez et al., 2018).

    Colours are unmixed in optical density with fixed stain vectors (Ruifrok & Johnston, 2001); what is neither stain
    stays as it is. White stays white.
    """
    if not amount:
        return images
    factors = torch.ones(len(images), 3)
    factors[:, :2] = _factors(rng, amount, len(images), 2)
    stains = _stain_matrix()
    change = (torch.linalg.inv(stains) * factors[:, None, :]) @ stains  # [B, 3, 3]: unmix, scale, mix again
    density = -torch.log((images * 255 + 1) / 256).reshape(len(images), -1, 3)
    changed = torch.exp(-torch.bmm(density, change.to(images.device)))
    return ((changed * 256 - 1) / 255).clamp_(0, 1).reshape(images.shape)


def mixup(images: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mix each case with another of its batch, with a weight of its own from Beta(alpha, alpha) (Zhang et al., 2018).

    Images are float [B, ...], labels probabilities [B, C]; alpha 0 mixes nothing.
    """
    if not alpha:
        return images, labels
    size = len(images)
    weight = torch.from_numpy(rng.beta(alpha, alpha, size=size).astype(np.float32)).to(images.device)
    partner = torch.from_numpy(rng.permutation(size)).to(images.device)
    spread = weight.reshape(size, *(1 for _ in images.shape[1:]))
    mixed = torch.lerp(images[partner], images, spread)
    return mixed, torch.lerp(labels[partner], labels, weight[:, None])


def _factors(rng: np.random.Generator, amount: float, *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(1 - amount, 1 + amount, size=shape).astype(np.float32))


def _stain_matrix() -> Tensor:
    """Return unit rows: haematoxylin, eosin, and the direction that neither of them has."""
    stains = functional.normalize(torch.tensor([_HAEMATOXYLIN, _EOSIN]), dim=1)
    rest = functional.normalize(torch.linalg.cross(stains[0], stains[1]), dim=0)
    return torch.cat([stains, rest[None]])
