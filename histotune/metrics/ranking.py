"""Areas under curves that rank cases by a score; weighted, so that a bootstrap sorts once and not once a replicate."""

from __future__ import annotations

import itertools
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

    def steps(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Count hits and all cases called at each step, [..., steps] each; `weights` as for `auroc`."""
        if weights is None:
            return np.cumsum(self._hits)[self._ends], self._ends + 1.0
        hits = np.cumsum(self._hits * weights, axis=-1)
        return hits[..., self._ends], np.cumsum(weights, axis=-1, dtype=np.float64)[..., self._ends]

    def by_member(self, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count hits and misses by patient, [P] each; `member` [n] is the patient's number of each case as given."""
        ranked = member[self.order]
        hits = np.bincount(ranked, weights=self._hits)
        return hits, np.bincount(ranked) - hits

    def auroc(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return P(score of a hit > score of a miss) + P(equal) / 2, [...]; NaN without either.

        Args:
            weights: how often each case counts, [..., n] in the order of `self.order`; None counts each once.
        """
        true, called = self.steps(weights)
        false = called - true
        area = (_rises(false) * (true - _rises(true) / 2)).sum(axis=-1)  # trapezoids, in cases squared
        return _share(area, true[..., -1] * false[..., -1])

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the sum over steps of (rise in recall) * precision, [...]; NaN without a hit."""
        true, called = self.steps(weights)
        precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        return _share((_rises(true) * precision).sum(axis=-1), true[..., -1])


AREAS: dict[str, Callable[[Ranking, np.ndarray | None], np.ndarray]] = {
    "auroc": Ranking.auroc,
    "average_precision": Ranking.average_precision,
}


def rankings(probabilities: np.ndarray, labels: np.ndarray, positive: int) -> list[Ranking]:
    """Rank by the positive class of two, or by each of more classes against the rest."""
    classes = [positive] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return [Ranking(probabilities[:, c], labels == c) for c in classes]


def wins(scores: np.ndarray, hits: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count pairs of a hit and a miss by their patients.

    Args:
        scores: float [n].
        hits: bool [n], whether the case is of the class.
        member: int [n], the number of each case's patient, 0..P-1.

    Returns:
        [P, P], how many hits of the row's patient score above misses of the column's, an equal score as a half; and
        the hits of every patient, [P].
    """
    patients = int(member.max()) + 1
    above, own = np.zeros((patients, patients)), np.bincount(member[hits], minlength=patients).astype(np.float64)
    order = np.argsort(member, kind="stable")
    ours, others = order[hits[order]], order[~hits[order]]  # patient by patient
    if not len(ours) or not len(others):
        return above, own
    starts, other_starts = (np.flatnonzero(np.diff(member[rows], prepend=-1)) for rows in (ours, others))
    edges = np.append(starts, len(ours))
    for start, end in itertools.pairwise(edges):
        mine, rivals = scores[ours[start:end], None], scores[None, others]
        beaten = ((mine > rivals) + 0.5 * (mine == rivals)).sum(axis=0)  # by every miss
        above[member[ours[start]], member[others[other_starts]]] = np.add.reduceat(beaten, other_starts)
    return above, own


def _rises(steps: np.ndarray) -> np.ndarray:
    return np.diff(steps, axis=-1, prepend=0.0)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
