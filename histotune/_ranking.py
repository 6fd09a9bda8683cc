"""Areas under curves that rank cases by a score; weighted, so that a bootstrap sorts once and not once a replicate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Ranking:
    """Cases of one class against the rest, from the highest score down; equal scores are one step of the curve.

    Args:
        scores: float [n].
        hits: bool [n], whether the case is of the class.
    """

    def __init__(self, scores: np.ndarray, hits: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self._ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        self._hits = hits[self.order].astype(np.float64)

    def auroc(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return P(score of a hit > score of a miss) + P(equal) / 2, [...]; NaN without either.

        Args:
            weights: how often each case counts, [..., n] in the order of `self.order`; None counts each once.
        """
        true, called = self._steps(weights)
        false = called - true
        area = (_rises(false) * (true - _rises(true) / 2)).sum(axis=-1)  # trapezoids, in cases squared
        return _share(area, true[..., -1] * false[..., -1])

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the sum over steps of (rise in recall) * precision, [...]; NaN without a hit."""
        true, called = self._steps(weights)
        precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        return _share((_rises(true) * precision).sum(axis=-1), true[..., -1])

    def _steps(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Count hits and all cases called at each step, [..., steps] each."""
        if weights is None:
            return np.cumsum(self._hits)[self._ends], self._ends + 1.0
        hits = np.cumsum(self._hits * weights, axis=-1)
        return hits[..., self._ends], np.cumsum(weights, axis=-1, dtype=np.float64)[..., self._ends]


AREAS: dict[str, Callable[[Ranking, np.ndarray | None], np.ndarray]] = {
    "auroc": Ranking.auroc,
    "average_precision": Ranking.average_precision,
}


def rankings(probabilities: np.ndarray, labels: np.ndarray, positive: int) -> list[Ranking]:
    """Rank by the positive class of two, or by each of more classes against the rest."""
    classes = [positive] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return [Ranking(probabilities[:, c], labels == c) for c in classes]


def _rises(steps: np.ndarray) -> np.ndarray:
    return np.diff(steps, axis=-1, prepend=0.0)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
