"""Greedy selection with replacement, on running sums: what a member would change is one addition away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from histotune.metrics import scores as metrics
from histotune.metrics.confusion import OF_CLASSES

METRICS = ("nll", "brier", "auroc", "balanced_accuracy", "accuracy", "macro_f1", "mcc")
"""Metrics to select by: those that do not ask which class is the positive one."""

EXACT = 5000  # cases up to which all is float64; beyond, sums are float32 and an AUROC takes scores to 1/65536
_LEVELS = 1 << 16
_GAIN = 1e-12  # of a metric: less is rounding
_EPS = np.finfo(np.float64).eps

Value = Callable[[np.ndarray, float], float]
"""A metric of sums over so many members; it may use the sums up."""


class CandidatePool:
    """Members whose weighted mean is measured; cases are sorted by class, and hold only what the metric needs.

    Args:
        probabilities: [M, n, C].
        present: bool [M, n]; of every case at least one member is there.
        labels: [n].
        metric: one of `METRICS`.
    """

    def __init__(self, probabilities: np.ndarray, present: np.ndarray, labels: np.ndarray, metric: str) -> None:
        order = np.argsort(labels, kind="stable")
        features, self._value = _needed(probabilities[:, order], labels[order], metric)
        there = present[:, order]
        self._there = None if there.all() else there.astype(np.float64)
        if self._there is not None:
            masks = self._there.reshape(*there.shape, *(1 for _ in features.shape[2:]))
            features = features * masks
            self._else = features.sum(axis=0) / masks.sum(axis=0)  # where none of those chosen is there
        self._features = features if len(labels) <= EXACT else features.astype(np.float32)
        self._room = np.empty_like(features[0])

    def __len__(self) -> int:
        return len(self._features)

    def value(self, total: Total, member: int) -> float:
        """Measure what was chosen with one more member; more is better, and -inf where it is not known."""
        sums = np.add(total.sums, self._features[member], out=self._room)
        if self._there is None:
            value = self._value(sums, total.count + 1)
        else:
            counts = total.there + self._there[member]
            counts = counts.reshape(*counts.shape, *(1 for _ in sums.shape[1:]))
            value = self._value(np.where(counts > 0, sums / np.maximum(counts, 1), self._else), 1)
        return -np.inf if np.isnan(value) else value

    def add(self, total: Total, member: int) -> None:
        """Choose a member."""
        total.sums += self._features[member]
        total.count += 1
        if self._there is not None:
            total.there += self._there[member]

    def nobody(self) -> Total:
        """Return what is summed up when nobody was chosen."""
        return Total(np.zeros_like(self._features[0]), np.zeros(self._features.shape[1]))


class Total:
    """Sums over the members that were chosen."""

    def __init__(self, sums: np.ndarray, there: np.ndarray) -> None:
        self.sums, self.there, self.count = sums, there, 0


def select(pool: CandidatePool, members: np.ndarray, *, rounds: int, start: int) -> np.ndarray:
    """Choose among members: the best few first, then again and again the one that helps most (Caruana et al., 2004).

    Args:
        members: numbers of those who may be chosen.
        rounds: how often one is added; a member may be added several times. The best state on the way is taken.
        start: at most how many of the best to begin with: as many of them as are best together.

    Returns:
        How often each of the pool was chosen, int [M].
    """
    total, counts = pool.nobody(), np.zeros(len(pool), np.int64)
    best, best_value = counts, -np.inf
    alone = np.array([pool.value(total, member) for member in members])
    for member in members[np.argsort(-alone, kind="stable")][:start]:
        value = pool.value(total, member)
        if value <= best_value + _GAIN:
            break
        pool.add(total, member)
        counts[member] += 1
        best, best_value = counts.copy(), value
    for _ in range(rounds):
        values = np.array([pool.value(total, member) for member in members])
        chosen = members[values.argmax()]
        pool.add(total, chosen)
        counts[chosen] += 1
        if values.max() > best_value + _GAIN:
            best, best_value = counts.copy(), values.max()
    return best


def _needed(probabilities: np.ndarray, labels: np.ndarray, metric: str) -> tuple[np.ndarray, Value]:
    """Return what is summed up over members, [M, n] or [M, n, C], and the metric of it."""
    if metric == "nll":
        true = np.ascontiguousarray(probabilities[:, np.arange(len(labels)), labels])
        return true, _log_likelihood
    negatives = len(labels) - int(labels.sum())
    if probabilities.shape[2] != 2 or not 0 < negatives < len(labels):
        sign = metrics.direction(metric)
        return probabilities, lambda sums, count: sign * metrics.score(metric, sums / count, labels)
    if metric in OF_CLASSES:
        margins = probabilities[:, :, 1] - probabilities[:, :, 0]  # an equal one is called the first class

        def of_classes(sums: np.ndarray, count: float) -> float:
            alarms, result = np.count_nonzero(sums[:negatives] > 0), np.count_nonzero(sums[negatives:] > 0)
            rows = [[negatives - alarms, alarms], [len(labels) - negatives - result, result]]
            return float(OF_CLASSES[metric](np.array(rows), 1))

        return margins, of_classes
    scores = np.ascontiguousarray(probabilities[:, :, 1])
    if metric == "auroc" and len(labels) > EXACT:
        return scores, lambda sums, count: _auroc(sums, count, negatives)
    sign = metrics.direction(metric)

    def of_scores(sums: np.ndarray, count: float) -> float:
        return sign * metrics.score(metric, np.stack([1 - sums / count, sums / count], axis=1), labels)

    return scores, of_scores


def _log_likelihood(sums: np.ndarray, count: float) -> float:
    return float(np.log(np.maximum(sums, _EPS * count, out=sums), out=sums).mean() - np.log(count))


def _auroc(sums: np.ndarray, count: float, negatives: int) -> float:
    """Return the AUROC of scores sums / count in [0, 1], negatives first; closer than 1/65536 counts as equal."""
    levels = np.multiply(sums, (_LEVELS - 1) / count, out=sums).astype(np.int64)
    below, own = (np.bincount(part, minlength=_LEVELS) for part in (levels[:negatives], levels[negatives:]))
    beaten = np.cumsum(below) - below / 2
    return float(own @ beaten) / negatives / (len(sums) - negatives)
