"""Which part of a slide is tissue, and which patches of it are worth keeping.

Three artefacts are measured by simple rules. Pen marks have a hue that no common stain has, more strongly than stains
have theirs (as the filters by colour of deep-histopath, Dusenberry and Hu, 2018). Folds are saturated and dark at once
(difference of saturation and intensity: Palokangas et al., 2007; Kothari et al., 2013). Blur is a small variance of the
Laplacian (Pech-Pacheco et al., 2000). The thresholds are ours, on the safe side of tissue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from histotune.errors import ConfigError, suggest
from histotune.ingest.datasets import BadFile

GLASS = 20  # saturation, of 255, up to which a pixel is glass (Patch selection of arXiv 2509.03408)
BLURRED = 15.0  # variance of the Laplacian of grey in [0, 255], below which a patch counts as out of focus
FOLDED = 0.25  # share of a patch that folds cover, from which on it counts as folded
NEAR = 0.05  # share of tissue by which patches may differ and still count as equally full
ARTEFACT = (
    8.0  # µm per pixel at which pen and folds are looked for: with `_MEDIAN` what is below some 30 µm wide is none
)
_MEDIAN = 7  # side of the median filter, pixels
_MOSTLY = 0.5  # share of what has a colour; more than that is no pen but a stain
_GREEN, _BLUE, _RED = (75, 190, 0.4), (190, 235, 0.6), (-10, 10, 0.8)  # hue from, to (degrees), saturation from
_BLACK = 45  # brightest channel, of 255, up to which it is black
_FOLD = 3.0  # standard deviations of the tissue's difference of saturation and intensity


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


def tissue_mask(overview: np.ndarray, rule: str = "otsu", pen: np.ndarray | None = None) -> np.ndarray:
    """Tell tissue from glass by the saturation, smoothed by a median of 7 px.

    Args:
        overview: uint8 [h, w, 3], of a few µm per pixel.
        rule: `hsv`: tissue has a saturation above 20 of 255. `otsu`: above Otsu's threshold (1979), which is found
            on this slide; but where even the paler side is no glass by the rule `hsv`, everything is tissue, and where
            even the stronger side is glass, nothing is: a threshold that divides has something to divide.
        pen: bool [h, w], pen marks: no tissue, and they have no part in the threshold.

    Returns:
        bool [h, w].
    """
    if rule not in RULES:
        raise ConfigError(f"unknown tissue rule {rule!r}. {suggest(rule, RULES)}")
    smooth = Image.fromarray(saturation(overview)).filter(ImageFilter.MedianFilter(_MEDIAN))
    values = np.asarray(smooth)
    if pen is None or not pen.any():
        return values > RULES[rule](np.bincount(values.ravel(), minlength=256))
    around = np.asarray(Image.fromarray(pen.astype(np.uint8)).filter(ImageFilter.MaxFilter(_MEDIAN))) > 0
    return (values > RULES[rule](np.bincount(values[~around], minlength=256))) & ~around


def coarser(pixels: np.ndarray, pixel: float) -> np.ndarray:
    """Average uint8 RGB [h, w, 3] or a mask bool [h, w] to about `ARTEFACT` µm per pixel, unless it is as coarse.

    A nucleus can be as dark or as blue as ink. It is 10 µm wide, a stroke of a pen several hundred.

    Args:
        pixel: µm per pixel.
    """
    factor = max(1, round(ARTEFACT / pixel))
    if factor == 1:
        return pixels
    if pixels.dtype == bool:
        return np.asarray(Image.fromarray(255 * pixels.astype(np.uint8)).reduce(factor)) > 127
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def finer(mask: np.ndarray, pixel: float, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask that was found on `coarser` pixels at their size before, bool [h, w] of `shape` (h, w, ...)."""
    factor = max(1, round(ARTEFACT / pixel))
    return np.asarray(mask.repeat(factor, axis=0).repeat(factor, axis=1)[: shape[0], : shape[1]])


def pen_mask(overview: np.ndarray) -> tuple[np.ndarray, bool]:
    """Find pen marks by their colour: green, blue, strong red, or black.

    Returns:
        bool [h, w], and whether it is a stain: more than half of what has a colour; then the mask is empty.
    """
    pixels = overview.astype(np.float32)
    high, low = pixels.max(axis=2), pixels.min(axis=2)
    spread, strength = high - low, (high - low) / np.maximum(high, 1)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    sixth = np.where(high == red, (green - blue) / np.maximum(spread, 1), 0.0)
    sixth = np.where((high == green) & (high > red), 2 + (blue - red) / np.maximum(spread, 1), sixth)
    sixth = np.where((high == blue) & (high > red) & (high > green), 4 + (red - green) / np.maximum(spread, 1), sixth)
    hue = 60 * sixth  # -60 to 300 degrees
    mask = (high <= _BLACK) & (high > 0)  # pure black is what was not scanned
    for start, end, least in (_GREEN, _BLUE, _RED):
        mask |= (hue >= start) & (hue < end) & (strength >= least) & (spread > GLASS)
    smooth = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MedianFilter(_MEDIAN))
    pen = np.asarray(smooth) > 0
    coloured = (saturation(overview) > GLASS) | pen
    stain = bool(pen.sum() > _MOSTLY * coloured.sum())
    return (np.zeros_like(pen) if stain else pen), stain


def fold_mask(overview: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Find folds, bool [h, w]: tissue far more saturated and darker than the rest of it."""
    if not tissue.any():
        return np.zeros_like(tissue)
    difference = saturation(overview).astype(np.float32) / 255 - overview.mean(axis=2, dtype=np.float32) / 255
    own = difference[tissue]
    folds = tissue & (difference > max(0.0, float(own.mean() + _FOLD * own.std())))
    return np.asarray(Image.fromarray(folds.astype(np.uint8)).filter(ImageFilter.MedianFilter(_MEDIAN))) > 0


def sharpness(pixels: np.ndarray) -> float:
    """Return the variance of the Laplacian of uint8 RGB [h, w, 3] in grey; small where a patch is out of focus."""
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    inner = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(inner.var()) if inner.size else 0.0


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


def choose(mask: np.ndarray, size: tuple[int, int], side: float, *, least: float, top: int, seed: int = 0) -> Patches:
    """Choose the patches with most tissue, from all over the slide where more than enough are about equally full.

    Those that have at most `NEAR` less tissue than the last of the fullest `top` are divided by place into `top` groups
    of equal size, and the fullest of each group is taken, of equals one at random.

    Args:
        mask: bool [h, w], tissue, over the whole slide.
        size: (width, height) of the slide, pixels at the highest resolution.
        side: of a patch, pixels there; what is left at the right and lower edge is in no patch.
        least: share of tissue in (0, 1] that a patch needs.
        top: how many at most; 0 is all.
        seed: of the draw.

    Raises:
        BadFile: the slide is smaller than a patch, or no patch has so much tissue.
    """
    columns, rows = (int(extent // side) for extent in size)
    if not columns or not rows:
        raise BadFile("too_small", f"{size[0]}x{size[1]} px, and a patch is {side:.0f} px of the slide")
    shares = _shares(mask, columns * side / size[0], rows * side / size[1], columns, rows)
    tissue = np.argsort(-shares, axis=None, kind="stable")
    tissue = tissue[shares.ravel()[tissue] >= least]
    if top and len(tissue) > top:
        last = shares.ravel()[tissue[top - 1]]
        pool = np.sort(tissue[shares.ravel()[tissue] >= max(least, last - NEAR)])
        places = np.stack(np.divmod(pool, columns), axis=1)
        tissue = pool[_spread(places, shares.ravel()[pool], top, np.random.default_rng(seed))]
    if not len(tissue):
        raise BadFile(
            "no_tissue",
            f"{mask.mean():.1%} of the slide is tissue, and no patch has the least share of {least:g} (the best: "
            f"{shares.max():.2f})",
        )
    row, column = np.divmod(np.sort(tissue), columns)
    x, y = (np.rint(at * side).astype(np.int64) for at in (column, row))
    return Patches(x, y, shares[row, column], side)


def shares_of(mask: np.ndarray, size: tuple[int, int], patches: Patches) -> np.ndarray:
    """Return the share of a mask over the whole slide in every patch, float64 [n]."""
    columns, rows = (int(extent // patches.side) for extent in size)
    if not len(patches.x):
        return np.zeros(0)
    every = _shares(mask, columns * patches.side / size[0], rows * patches.side / size[1], columns, rows)
    row, column = (np.rint(at / patches.side).astype(np.int64) for at in (patches.y, patches.x))
    return np.asarray(every[row, column])


def _spread(places: np.ndarray, shares: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `count` of n >= count places [n, 2]: one of each of so many groups, made by halving the longer side."""
    order = rng.permutation(len(places))  # who comes first among equals
    groups, chosen = [(order, count)], list[int]()
    while groups:
        rows, wanted = groups.pop()
        if wanted == 1:
            chosen.append(int(rows[shares[rows].argmax()]))
            continue
        axis = int(np.ptp(places[rows], axis=0).argmax())
        rows = rows[np.argsort(places[rows, axis], kind="stable")]
        first = wanted // 2
        cut = round(len(rows) * first / wanted)
        groups += [(rows[:cut], first), (rows[cut:], wanted - first)]
    return np.array(chosen, dtype=np.int64)


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
