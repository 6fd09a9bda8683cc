"""Which of several models no other beats in every respect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def front(values: np.ndarray, signs: Sequence[float]) -> np.ndarray:
    """Return which rows are on the Pareto front, bool [n]: no other is as good in all columns and better in one.

    Args:
        values: float [n, metrics]; a row with NaN is never on the front.
        signs: 1 where more is better, -1 where less is.

    >>> front(np.array([[0.9, 20.0], [0.8, 5.0], [0.7, 9.0], [0.9, 20.0]]), [1, -1])
    array([ True,  True, False,  True])
    """
    scores = np.where(np.isnan(values).any(axis=1, keepdims=True), -np.inf, values * np.asarray(signs, float))
    result = np.atleast_1d(np.isfinite(scores).all(axis=1))
    for row in np.flatnonzero(result):
        better = (scores >= scores[row]).all(axis=1) & (scores > scores[row]).any(axis=1)
        result[row] = not better.any()
    return result
