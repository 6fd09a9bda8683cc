"""Maps over patches as pictures: one tint for more than usual, one for less, and the plain grey patch between them."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from PIL import Image

MORE, LESS = (213, 94, 0), (0, 114, 178)  # vermilion and blue of Okabe & Ito (2008): the colour-blind tell them apart
_DARKEST, _LIGHTEST, _STRONGEST = 70, 235, 0.85  # of the grey patch, and share of the tint where it is full
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_MIDDLE = 170  # grey of a legend, about that of tissue


def attention_limit(largest: float) -> int:
    """Return the power of two, at least 2, at which the common scale of attention ends: from 1/limit to limit.

    >>> attention_limit(1.2), attention_limit(4.0), attention_limit(4.1)
    (2, 4, 8)
    """
    return int(2 ** max(1, math.ceil(math.log2(max(largest, 1e-9)))))


def attention_strength(values: np.ndarray, limit: int) -> np.ndarray:
    """Map multiples of an equal share to [-1, 1]: 0 is 1x, 1 is `limit` or more, -1 is 1/limit or less."""
    return np.clip(np.log2(np.maximum(values, 1e-9)) / math.log2(limit), -1, 1)


def tinted(pixels: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Lay a tint over the grey form of a patch.

    Args:
        pixels: uint8 [H, W, 3].
        strength: [H, W] in [-1, 1]; 0 leaves the patch grey.

    Returns:
        uint8 [H, W, 3].
    """
    grey = _DARKEST + (_LIGHTEST - _DARKEST) / 255 * (pixels @ np.array(_LUMA))[:, :, None]  # [H, W, 1]
    share = _STRONGEST * np.abs(strength)[:, :, None]
    color = np.where(strength[:, :, None] > 0, np.array(MORE), np.array(LESS))
    mixed: np.ndarray = np.rint((1 - share) * grey + share * color).astype(np.uint8)
    return mixed


def scale(low: float, steps: int) -> np.ndarray:
    """Return the colours of a legend from strength `low` (0 or -1) to 1, uint8 [steps, 3]."""
    middle = np.full((1, steps, 3), round(255 * (_MIDDLE - _DARKEST) / (_LIGHTEST - _DARKEST)), np.uint8)
    return tinted(middle, np.linspace(low, 1, steps)[None])[0]


def png(pixels: np.ndarray, *, colors: int = 0) -> bytes:
    """Encode uint8 [H, W, 3]; with at most `colors` colours where a smaller file matters more, 0 keeps every value."""
    out, image = io.BytesIO(), Image.fromarray(pixels)
    (image.quantize(colors, dither=Image.Dither.NONE) if colors else image).save(out, "PNG", optimize=True)
    return out.getvalue()


def address(pixels: np.ndarray, *, colors: int = 0) -> str:
    """Return an image as an address that holds it, for a page that needs no other file; `colors` as for `png`."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels, colors=colors)).decode()}"
