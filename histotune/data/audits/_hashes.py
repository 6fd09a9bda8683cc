"""Perceptual hashes of images: 64 signs of low frequencies, their eight orientations, and who is near whom.

The hash is pHash (Zauner, 2010): which of 8 x 8 low frequencies of the luminance's cosine transform lie above their
median. A mirror image changes the sign of odd frequencies and a turn by 90 degrees swaps the two directions, so all
eight orientations come from one transform. Pairs at a small Hamming distance are found by multi-index hashing (Norouzi
et al., 2012): of five pieces of a hash one at least is equal in two hashes that differ in four bits or fewer, and most
likely in those that differ in a few more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

FREQUENCIES = 8  # in each direction, from the first on: the mean is left out
ORIENTATIONS = 8
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
PIECES = (13, 13, 13, 13, 12)  # bits
CHUNK = 8192  # images in memory at once
BLOCK = 1 << 21  # pairs in memory at once


def coefficients(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return low frequencies of uint8 [N, H, W, 3] at `rows`, float32 [n, 8, 8], in grey levels."""
    height, width = images.shape[1:3]
    down = _cosines(height)  # [8, H]
    across = np.kron(_cosines(width).T, LUMA[:, None])  # [W * 3, 8]: colour and columns in one product
    result = np.empty((len(rows), FREQUENCIES, FREQUENCIES), np.float32)
    for start in range(0, len(rows), CHUNK):
        pixels = images[rows[start : start + CHUNK]].reshape(-1, width * 3).astype(np.float32)
        half = (pixels @ across).reshape(-1, height, FREQUENCIES)
        result[start : start + CHUNK] = down @ half
    return result


def contrast(result: np.ndarray) -> np.ndarray:
    """Return how far low frequencies move the luminance, root mean square, grey levels, [n]."""
    strength: np.ndarray = np.sqrt((result**2).sum(axis=(1, 2)))
    return strength


def hashes(result: np.ndarray, orientation: int = 0) -> np.ndarray:
    """Hash coefficients [n, 8, 8] as those of the image in one of eight orientations, uint64 [n]; see `turned`."""
    odd = np.where(np.arange(1, FREQUENCIES + 1) % 2, np.float32(-1), np.float32(1))
    if orientation & 1:
        result = result * odd[:, None]
    if orientation & 2:
        result = result * odd
    if orientation & 4:
        result = result.transpose(0, 2, 1)
    flat = result.reshape(len(result), -1)
    middle = np.partition(flat, flat.shape[1] // 2 - 1, axis=1)[:, flat.shape[1] // 2 - 1]
    return np.packbits(flat > middle[:, None], axis=1).view(np.uint64).ravel()


def turned(images: np.ndarray, orientation: int) -> np.ndarray:
    """Flip images [n, H, W, ...] upside down (1), left to right (2), then swap rows and columns (4)."""
    if orientation & 1:
        images = images[:, ::-1]
    if orientation & 2:
        images = images[:, :, ::-1]
    return images.swapaxes(1, 2) if orientation & 4 else images


def near(first: np.ndarray, second: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs (i, j) of places in two arrays of hashes that differ in `distance` bits at most; some come twice."""
    shift = np.uint64(0)
    for bits in PIECES:
        mask = np.uint64((1 << bits) - 1)
        keys, others = (first >> shift) & mask, (second >> shift) & mask
        order = np.argsort(others, kind="stable")
        sorted_keys, sorted_second = others[order], second[order]
        begin, end = (np.searchsorted(sorted_keys, keys, side=side) for side in ("left", "right"))
        yield from _compare(first, sorted_second, order, begin, end - begin, distance)
        shift += np.uint64(bits)


def _compare(
    first: np.ndarray, second: np.ndarray, order: np.ndarray, begin: np.ndarray, count: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Compare each hash with its run of others, block by block."""
    total = np.concatenate([[0], np.cumsum(count)])
    start = 0
    while start < len(first):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + BLOCK, side="right")) - 1)
        lengths = count[start:stop]
        one = np.repeat(np.arange(start, stop), lengths)
        within = np.arange(len(one)) - np.repeat(total[start:stop] - total[start], lengths)
        other = np.repeat(begin[start:stop], lengths) + within
        close = np.flatnonzero(np.bitwise_count(first[one] ^ second[other]) <= distance)
        if len(close):
            yield one[close], order[other[close]]
        start = stop


def _cosines(length: int) -> np.ndarray:
    """Return cosines of frequency 1 to 8 over `length` pixels, float32 [8, length], whose mean square is 1."""
    frequency = np.arange(1, FREQUENCIES + 1)[:, None]
    waves = np.cos(np.pi * frequency * (2 * np.arange(length) + 1) / (2 * length))
    return (waves * np.sqrt(2) / length).astype(np.float32)
