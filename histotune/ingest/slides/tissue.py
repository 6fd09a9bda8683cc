"""Which part of a slide is tissue, and which patches of it are worth keeping."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from histotune.errors import ConfigError, suggest
from histotune.ingest.datasets import BadFile

GLASS = 20  # saturation, of 255, up to which a pixel is glass (Patch selection of arXiv 2509.03408)
_MEDIAN = 7  # side of the median filter, pixels


class Patches(NamedTuple):
    """Squares of a slide on a grid without overlap, row by row.

    Attributes:
        x, y: int64 [n], left upper corner, pixels at the highest resolution.
        share: float64 [n], share of tissue.
        side: pixels at the highest resolution.
    """

    x: np.ndarray
    y: np.ndarray
    share: np.ndarray
    side: float


def tissue_mask(overview: np.ndarray, rule: str = "otsu") -> np.ndarray:
    """Tell tissue from glass by the saturation, smoothed by a median of 7 px.

    Args:
        overview: uint8 [h, w, 3], of a few µm per pixel.
        rule: `hsv`: tissue has a saturation above 20 of 255. `otsu`: above Otsu's threshold (1979), which is found
            on this slide; but where even the paler side is no glass by the rule `hsv`, everything is tissue, and where
            even the stronger side is glass, nothing is: a threshold that divides has something to divide.

    Returns:
        bool [h, w].
    """
    if rule not in RULES:
        raise ConfigError(f"unknown tissue rule {rule!r}. {suggest(rule, RULES)}")
    smooth = Image.fromarray(saturation(overview)).filter(ImageFilter.MedianFilter(_MEDIAN))
    values = np.asarray(smooth)
    return values > RULES[rule](np.bincount(values.ravel(), minlength=256))


def saturation(pixels: np.ndarray) -> np.ndarray:
    """Return S of HSV, uint8 [h, w], of uint8 RGB [h, w, 3]."""
    high, low = pixels.max(axis=2), pixels.min(axis=2)
    share: np.ndarray = np.rint(255 * (high - low).astype(np.float32) / np.maximum(high, 1))
    return share.astype(np.uint8)


def otsu(counts: np.ndarray) -> int:
    """Return the value up to which a histogram [256] is one class, so that the classes' means differ most."""
    counts = counts.astype(np.float64)
    weight, moment = counts.cumsum(), (counts * np.arange(len(counts))).cumsum()
    rest = weight[-1] - weight
    between = (moment[-1] * weight - weight[-1] * moment) ** 2 / np.maximum(weight * rest, 1)
    return int(between.argmax())


def _otsu_beside_glass(counts: np.ndarray) -> int:
    threshold, levels = otsu(counts), np.arange(len(counts))
    pale, strong = counts[: threshold + 1], counts[threshold + 1 :]
    if not strong.sum():  # one value alone
        return -1 if threshold > GLASS else threshold
    if pale @ levels[: threshold + 1] > GLASS * pale.sum():
        return -1
    return len(counts) if strong @ levels[threshold + 1 :] <= GLASS * strong.sum() else threshold


RULES = {"otsu": _otsu_beside_glass, "hsv": lambda counts: GLASS}


def choose(mask: np.ndarray, size: tuple[int, int], side: float, *, least: float, top: int) -> Patches:
    """Choose the patches with most tissue.

    Args:
        mask: bool [h, w], tissue, over the whole slide.
        size: (width, height) of the slide, pixels at the highest resolution.
        side: of a patch, pixels there; what is left at the right and lower edge is in no patch.
        least: share of tissue in (0, 1] that a patch needs.
        top: how many at most; of equals the upper left ones; 0 is all.

    Raises:
        BadFile: the slide is smaller than a patch, or no patch has so much tissue.
    """
    columns, rows = (int(extent // side) for extent in size)
    if not columns or not rows:
        raise BadFile("too_small", f"{size[0]}x{size[1]} px, and a patch is {side:.0f} px of the slide")
    shares = _shares(mask, columns * side / size[0], rows * side / size[1], columns, rows)
    tissue = np.argsort(-shares, axis=None, kind="stable")
    tissue = tissue[shares.ravel()[tissue] >= least][: top or None]
    if not len(tissue):
        raise BadFile(
            "no_tissue",
            f"{mask.mean():.1%} of the slide is tissue, and no patch has the least share of {least:g} (the best: "
            f"{shares.max():.2f})",
        )
    row, column = np.divmod(np.sort(tissue), columns)
    x, y = (np.rint(at * side).astype(np.int64) for at in (column, row))
    return Patches(x, y, shares[row, column], side)


def _shares(mask: np.ndarray, across: float, down: float, columns: int, rows: int) -> np.ndarray:
    """Return the mean of a mask over a grid that covers the given part of its width and height, [rows, columns]."""
    left, upper = (
        np.rint(np.linspace(0, part * extent, count + 1)).astype(np.int64)
        for part, extent, count in ((across, mask.shape[1], columns), (down, mask.shape[0], rows))
    )
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    boxes = np.diff(np.diff(sums[np.ix_(upper, left)], axis=0), axis=1)
    shares: np.ndarray = boxes / np.maximum(np.diff(upper)[:, None] * np.diff(left), 1)
    return shares
