"""Sensitivity and specificity at every threshold that makes a difference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from histotune.errors import StudyError


class Curve(NamedTuple):
    """Every threshold that makes a difference, ascending: the first calls all cases positive, the last none."""

    thresholds: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    positives: int
    negatives: int


def curve_of(scores: np.ndarray, hits: np.ndarray) -> Curve:
    """Return what every threshold reaches on scores [n] of cases that are hits or not, bool [n].

    Raises:
        StudyError: there are not both.
    """
    distinct, owner = np.unique(scores.astype(np.float64), return_inverse=True)
    true, false = (np.bincount(owner[rows], minlength=len(distinct)) for rows in (hits, ~hits))
    positives, negatives = int(true.sum()), int(false.sum())
    if not positives or not negatives:
        raise StudyError(
            f"an operating point needs cases of both classes, and there are {positives} positive and {negatives} "
            "negative ones"
        )
    middles = (distinct[1:] + distinct[:-1]) / 2
    middles = np.where(middles > distinct[:-1], middles, distinct[1:])  # neighbouring doubles have no middle
    missed, spared = (np.concatenate([[0], np.cumsum(counts)]) for counts in (true, false))
    thresholds = np.concatenate([[0.0], middles, [np.nextafter(1.0, 2.0)]])
    return Curve(thresholds, 1 - missed / positives, spared / negatives, positives, negatives)
