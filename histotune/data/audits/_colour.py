"""Mean colours of images."""

from __future__ import annotations

import numpy as np

CHUNK = 4096  # images in memory at once


def colours(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean of every channel of uint8 [N, H, W, 3] at `rows`, float64 [n, 3]."""
    found = [
        images[rows[start : start + CHUNK]].reshape(len(rows[start : start + CHUNK]), -1, 3).mean(axis=1)
        for start in range(0, len(rows), CHUNK)
    ]
    return np.concatenate([np.empty((0, 3)), *found])
