"""Near-identical images on both sides of a split: saved again, scaled, brightened, mirrored or turned."""

from __future__ import annotations

import numpy as np

from histotune.core.parameters import Interval
from histotune.data.audits import _hashes
from histotune.data.audits._base import AUDITS, LEAK, NOTE, OK, Finding, Subject

MOST = 200_000  # candidates whose pixels are compared
FLAT = 1.0  # grey levels: fine structure that varies by less is noise
SPREAD = 0.04  # share of the pixels that fine structure lies on; less is a speck on glass
WHITE = 250.0  # grey level from which on a pixel may be padding
COMPARED = 2048  # pairs of images in memory at once


@AUDITS.register(
    "near_identical",
    ranges={"distance": Interval(0, 16, whole=True), "contrast": Interval(0), "correlation": Interval(0, 1)},
    source="pHash: Zauner 2010; multi-index hashing: Norouzi et al., CVPR 2012",
)
def near_identical(subject: Subject, *, distance: int = 8, contrast: float = 3.0, correlation: float = 0.55) -> Finding:
    """Images on both sides of the split that are the same but for compression, scale, brightness, flips and turns.

    Candidates differ in at most `distance` of 64 bits of a perceptual hash. Their pixels decide: the luminance and,
    apart, its fine structure must correlate by `correlation` at least, in which two images of different tissue never
    agree. Images whose luminance varies by less than `contrast` grey levels are blank and are not compared. A copy that
    is shifted by some pixels is not found: see `neighbours`.
    """
    image = next(subject.images(), None)
    if image is None:
        return subject.skipped("near_identical", "there are no images")
    column = image[1]
    rows = subject.placed[column.present[subject.placed]]
    result = _hashes.coefficients(column.stored, rows)
    textured = _hashes.contrast(result) >= contrast
    blank = int((~textured).sum())
    rows, result = rows[textured], result[textured]
    content = subject.cohort.table["content"].to_numpy(str)
    square = column.stored.shape[1] == column.stored.shape[2]
    candidates = _candidates(subject, rows, result, content, distance, _hashes.ORIENTATIONS if square else 4)
    twins = _twins(column.stored, candidates[:MOST], correlation)
    touched = len(np.unique(twins[:, :2]))
    aside = f"; {blank:,} blank ones were not compared" if blank else ""
    if some := len(candidates) > MOST:
        aside += f"; of {len(candidates):,} pairs of like hashes only {MOST:,} were compared"
    if not touched:
        message = f"no image has a near-identical one across it{aside}"
        return Finding("near_identical", NOTE if some else OK, 0, len(rows), message)
    return Finding(
        "near_identical",
        LEAK,
        touched,
        len(rows),
        f"{touched:,} of {len(rows):,} images are near-identical to one on the other side{aside}",
        [subject.pair(int(one), int(other)) for one, other, _ in twins[:3]],
        "look at the examples; leave copies out, or give those of one origin one patient",
    )


def _candidates(
    subject: Subject, rows: np.ndarray, result: np.ndarray, content: np.ndarray, distance: int, orientations: int
) -> np.ndarray:
    """Return pairs of row numbers across the split of which the hashes are near, with the orientation, int64 [n, 3]."""
    upright, pairs = _hashes.hashes(result), [np.empty((0, 3), np.int64)]
    for orientation in range(orientations):
        turned = upright if orientation == 0 else _hashes.hashes(result, orientation)
        for one, other in _hashes.near(upright, turned, distance):
            ordered = one < other
            first, second = rows[one[ordered]], rows[other[ordered]]
            apart = subject.across(first, second) & (content[first] != content[second])
            first, second = first[apart], second[apart]
            pairs.append(np.column_stack([first, second, np.full(len(first), orientation)]))
    candidates: np.ndarray = np.unique(np.concatenate(pairs), axis=0)
    return candidates


def _twins(images: np.ndarray, candidates: np.ndarray, correlation: float) -> np.ndarray:
    """Return the candidates [n, 3] whose pixels agree."""
    agree = [
        _agree(images, candidates[start : start + COMPARED]) >= correlation
        for start in range(0, len(candidates), COMPARED)
    ]
    return candidates[np.concatenate([np.empty(0, bool), *agree])]


def _agree(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation of pairs of images, of their luminance or their fine structure, whichever is less, [n]."""
    from scipy.ndimage import uniform_filter

    first, second = (images[pairs[:, at]].astype(np.float32) @ _hashes.LUMA for at in (0, 1))
    for orientation in range(1, _hashes.ORIENTATIONS):
        here = pairs[:, 2] == orientation
        if here.any():
            second[here] = _hashes.turned(second[here], orientation)
    drawn = ((first < WHITE) | (second < WHITE)).astype(np.float32)  # an edge that both were padded with is no tissue
    first, second = (_centred(values, drawn) for values in (first, second))
    size = (0, *(max(3, round(side * 5 / 32)) for side in first.shape[1:]))
    around = uniform_filter(drawn, size, mode="nearest").clip(1e-3)
    fine = [drawn * (values - uniform_filter(values, size, mode="nearest") / around) for values in (first, second)]
    spread = np.minimum(*(_share(values) for values in fine))
    return np.where(spread < SPREAD, 0.0, np.minimum(_correlation(first, second), _correlation(*fine)))


def _centred(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Take the means of rows and columns away: a slide's edge, a pen's line or a padded border is one of these."""
    for axis in (1, 2):
        count = drawn.sum(axis=axis, keepdims=True).clip(1)
        values = (values - (values * drawn).sum(axis=axis, keepdims=True) / count) * drawn
    return values


def _share(values: np.ndarray) -> np.ndarray:
    """Return on which share of the pixels the energy of images [n, H, W] lies (participation ratio), [n]."""
    squares = values.reshape(len(values), -1) ** 2
    return squares.mean(axis=1) ** 2 / (squares**2).mean(axis=1).clip(FLAT**4 / 16)


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation [n] of images [n, H, W] whose means are 0."""
    scale: np.ndarray = np.sqrt((first**2).sum(axis=(1, 2)) * (second**2).sum(axis=(1, 2)))
    return (first * second).sum(axis=(1, 2)) / scale.clip(1e-6)
