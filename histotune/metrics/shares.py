"""What few patients can show: how many equal patients some unequal ones are worth, and how far a share can be known.

A bootstrap over patients sees what differs between them. Where hardly anybody is wrong hardly anything differs, and
five patients without an error would give an interval of width 0. A share is therefore never known better than from an
effective number of independent cases, which is the cases over the design effect (Korn & Graubard, Survey Methodology
1998). The design effect is estimated from the patients with errors. As long as there are few of them it is drawn
towards that of patients whose cases are all alike, where the cases count no more than their patients.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95


def effective(counts: np.ndarray) -> float:
    """Return how many patients with equally many cases are worth as much as those with `counts` cases (Kish, 1965).

    >>> effective(np.array([20, 20, 20])), round(effective(np.array([60, 20, 20, 20])), 2)
    (3.0, 3.0)
    """
    counts = counts.astype(np.float64)
    return float(counts.sum() ** 2 / max((counts**2).sum(), 1.0))


class CaseShare(NamedTuple):
    """How many cases of every patient are right, [P], how many there are, [P], and of which class; None for all."""

    right: np.ndarray
    cases: np.ndarray
    of: int | None = None

    @property
    def value(self) -> float:
        """Right cases of all; NaN of none."""
        return float(self.right.sum() / self.cases.sum()) if self.cases.sum() else float("nan")

    def independent(self) -> float:
        """Return how many independent cases these are worth: at least their effective patients, at most all cases."""
        have = self.cases > 0
        right, cases = self.right[have].astype(np.float64), self.cases[have].astype(np.float64)
        spread, between = self.value * (1 - self.value), 0.0
        if len(cases) > 1 and spread:
            between = len(cases) / (len(cases) - 1) * ((right - self.value * cases) ** 2).sum() / cases.sum() ** 2
        seen = int(min((right < cases).sum(), (right > 0).sum()))
        return independent(self.value, between, effective(cases), seen, most=float(cases.sum()))

    def bounds(self, level: float) -> tuple[float, float]:
        """Return the interval of the share for as many independent cases; see `bounds`."""
        return bounds(self.value, self.independent(), level)


def independent(share: float, variance: float, patients: float, seen: int, *, most: float = float("inf")) -> float:
    """Return how many independent cases a share with this variance over patients is worth.

    Args:
        share: in [0, 1].
        variance: as estimated from the patients.
        patients: effective ones; no fewer cases are returned.
        seen: how many patients the variance rests on, such as those with an error; the fewer, the nearer to `patients`.
        most: no more cases are returned.
    """
    spread = share * (1 - share)
    if not spread or not seen:
        return patients
    each = (seen**2 * variance / spread + 1 / patients) / (seen**2 + 1)  # of the simulated weights the best
    return min(max(1 / each, patients), max(most, patients))


def bounds(share: float, cases: float, level: float) -> tuple[float, float]:
    """Return the interval of a share of independent cases, which may be fractions; see `wilson`.

    Of none or all of them it is the exact one (Clopper & Pearson, 1934), which is wider.

    >>> low, high = bounds(1.0, 5, 0.95)
    >>> round(low, 3), high
    (0.478, 1.0)
    """
    if share in (0.0, 1.0):
        least = ((1 - level) / 2) ** (1 / cases)
        return (least, 1.0) if share else (0.0, 1 - least)
    low, high = wilson(share, cases, level)
    return float(low), float(high)


def wilson(shares: ArrayLike, cases: ArrayLike, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the score interval of shares of `cases` independent units each, at least 1.

    It is SciPy's `binomtest(...).proportion_ci(method="wilson")`, for many shares at once and for a share that is no
    whole count, such as a sensitivity of 0.8 in 3 patients (Wilson, JASA 1927).

    >>> low, high = wilson([0.0, 0.5], 10)
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.237], [0.278, 0.763])
    """
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    share, n = np.asarray(shares, dtype=np.float64), np.asarray(cases)
    middle = share + z**2 / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return np.maximum((middle - half) / scale, 0.0), np.minimum((middle + half) / scale, 1.0)
