"""A metric on all cases of a model and on draws of its patients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from histotune.errors import DataError
from histotune.metrics import scores as metrics
from histotune.metrics.confusion import OF_CLASSES
from histotune.metrics.ranking import AREAS
from histotune.metrics.resampling import Resampler, draws
from histotune.metrics.shares import CaseShare, bounds, effective, independent

MetricFn = Callable[[np.ndarray, np.ndarray], float]
"""A metric of probabilities [n, C] and labels [n]."""
FEW = 200  # patients up to which each is left out in turn
_OF_ONE = ("sensitivity", "recall", "specificity", "precision")  # metrics of one class where there are two
_OF_POSITIVES = ("precision", "positive_f1")  # 0 without a positive case, of which a draw may have none by chance
_BIASED = ("ece",)  # above the truth, and in a draw, which repeats cases, more so
UNMEASURED = -1  # stratum of a case that is not measured


class Measured:
    """One metric of one model, on all its cases and on draws of its patients; its mean over strata where there are.

    Args:
        metric: a name of `metrics.METRICS`, or any function of probabilities and labels.
        probabilities: float [n, C].
        labels, patients: [n].
        strata: [n], or None for one of all cases; a case of stratum -1 is not measured, but its patient is drawn.

    Raises:
        DataError: lengths that differ.
    """

    def __init__(
        self,
        metric: str | MetricFn,
        probabilities: np.ndarray,
        labels: np.ndarray,
        patients: np.ndarray,
        positive: int,
        threshold: float | None,
        strata: np.ndarray | None = None,
    ) -> None:
        lengths = {len(probabilities), len(labels), len(patients), len(probabilities if strata is None else strata)}
        if len(lengths) > 1:
            raise DataError(
                f"a bootstrap needs one label and one patient per case: {len(probabilities)} cases, "
                f"{len(labels)} labels, {len(patients)} patients"
                + ("" if strata is None else f", and one stratum: {len(strata)} strata")
            )
        self._metric, self._cases = metric, (probabilities, labels)
        self._options: dict[str, Any] = {"positive": positive, "threshold": threshold}
        # Patients are numbered by name, so that the order of the cases does not change the draws.
        known, self._member = np.unique(patients, return_inverse=True)
        self.patients = len(known)
        every = np.arange(len(labels))
        names = () if strata is None else [name for name in np.unique(strata) if name != UNMEASURED]
        self._strata = [every] if strata is None else [every[strata == name] for name in names]

    @property
    def biased(self) -> bool:
        """Whether draws of patients lie off the truth, so that they give no interval of it."""
        return self._metric in _BIASED

    @functools.cached_property
    def effective(self) -> float:
        """How many equal patients those are worth that limit the metric: of its rarest class, or of all cases."""
        return min(effective(share.cases) for share in self._shares)

    def floor(self, level: float, variance: float) -> tuple[float, float] | None:
        """Return bounds than which an interval of that level is never narrower; None where nothing tells them.

        The shares of cases that a metric rests on are known as well as `shares.CaseShare` says. What each of them
        leaves open is added as squares (MOVER, Zou & Donner, 2008): exact for a mean of shares, and for what else
        follows from the predicted classes with one recall at its bound at a time. An area under a curve counts as a
        share of as many cases as there are patients, until the draws differ because several patients have cases that
        are ranked wrongly.

        Args:
            level: of confidence.
            variance: of the metric, over draws of patients.
        """
        value = self.value()
        if math.isnan(value):
            return None
        if self._metric in AREAS:
            return bounds(value, independent(value, variance, self._of_ranks(), self._misranked()), level)
        if self._metric not in OF_CLASSES:
            return None
        off = np.zeros(2)
        for share in self._shares:
            moves = [self._moved(share, bound) - self._moved(share, share.value) for bound in share.bounds(level)]
            off += np.square([min(0.0, *moves), max(0.0, *moves)])
        return value - float(np.sqrt(off[0])), value + float(np.sqrt(off[1]))

    @property
    def range(self) -> tuple[float, float]:
        """Between which values the metric lies; without bounds where it is a function."""
        if not isinstance(self._metric, str):
            return -math.inf, math.inf
        return metrics.range_of(self._metric)

    def value(self) -> float:
        """Measure all cases."""
        return float(np.mean([self._score(rows) for rows in self._strata]))

    def replicate(self, replicates: int, seed: int) -> np.ndarray:
        """Measure every draw of patients, [replicates]; NaN throughout for a single patient."""
        if self.patients < 2:
            return np.full(replicates, np.nan)
        return self._under(lambda: draws(self.patients, replicates, seed))

    def without_each(self) -> np.ndarray:
        """Measure the cases of all patients but one, for every patient of few, [P]; of many patients nothing, [0]."""
        if not 1 < self.patients <= FEW:
            return np.zeros(0)
        return self._under(lambda: [1 - np.eye(self.patients, dtype=np.int64)])

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        """Cases by patient, true and predicted class, [P, C, C]."""
        rows = np.concatenate(self._strata)
        probabilities, labels = (values[rows] for values in self._cases)
        classes = probabilities.shape[1]
        flat = (self._member[rows] * classes + labels) * classes + metrics.decide(probabilities, **self._options)
        return np.bincount(flat, minlength=self.patients * classes**2).reshape(-1, classes, classes)

    @functools.cached_property
    def _shares(self) -> list[CaseShare]:
        """The shares of cases that the metric rests on: right ones of all, of a predicted class, or of a true one."""
        counts = self._counts
        classes, positive = counts.shape[1], self._options["positive"]
        every = CaseShare(counts[:, range(classes), range(classes)].sum(axis=1), counts.sum(axis=(1, 2)))
        if self._metric == "accuracy" or self._metric not in (*OF_CLASSES, *AREAS):
            return [every]
        axis = 1 if self._metric in ("precision", "macro_precision") else 2
        shares = [CaseShare(counts[:, c, c], counts.sum(axis=axis)[:, c], c) for c in range(classes)]
        if self._metric in _OF_ONE and classes == 2:
            shares = [shares[positive if self._metric != "specificity" else 1 - positive]]
        return [share for share in shares if share.cases.any()] or [every]

    def _of_ranks(self) -> float:
        """Return how many patients an area rests on: the harmonic mean of those of a class and of the others."""
        counts = self._counts.sum(axis=2)
        pairs = [(effective(own), effective(counts.sum(axis=1) - own)) for own in counts.T]
        return min(2 / (1 / one + 1 / other) for one, other in pairs if one and other)

    def _misranked(self) -> int:
        """Count the patients of a class, the least of all, with a case that one of another class is ranked above."""
        rows = np.concatenate(self._strata)
        probabilities, labels = (values[rows] for values in self._cases)
        present = [c for c in range(probabilities.shape[1]) if 0 < (labels == c).sum() < len(labels)]
        wrong = [(labels == c) & (probabilities[:, c] <= probabilities[labels != c, c].max()) for c in present]
        return min(len(np.unique(self._member[rows][each])) for each in wrong)

    def _moved(self, share: CaseShare, value: float) -> float:
        """Compute the metric where a share has another value and everything else stays as it is."""
        assert isinstance(self._metric, str)
        if share.of is None or self._metric in ("precision", "macro_precision"):
            others = [other.value for other in self._shares if other is not share]
            return float(np.mean([value, *others]))
        counts, c = self._counts.sum(axis=0).astype(np.float64), share.of
        wrong = np.where(np.arange(len(counts)) == c, 0.0, counts[c])
        if not wrong.any():  # no case of the class is wrong: the other classes would share those that were
            wrong = np.where(np.arange(len(counts)) == c, 0.0, 1.0)
        total = counts[c].sum()
        counts[c] = wrong / wrong.sum() * total * (1 - value)
        counts[c, c] = total * value
        return float(OF_CLASSES[self._metric](counts, self._options["positive"]))

    def _under(self, weights: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
        """Measure under blocks [r, P] of how often each patient counts."""
        measure = self._by_name if isinstance(self._metric, str) else self._by_function
        averaged: np.ndarray = np.mean([measure(rows, weights()) for rows in self._strata], axis=0)
        return averaged

    def _score(self, rows: np.ndarray) -> float:
        probabilities, labels = (values[rows] for values in self._cases)
        if isinstance(self._metric, str):
            return metrics.score(self._metric, probabilities, labels, **self._options)
        return float(self._metric(probabilities, labels))

    def _by_name(self, rows: np.ndarray, blocks: Iterable[np.ndarray]) -> np.ndarray:
        assert isinstance(self._metric, str)
        name = metrics.check_metric(self._metric)
        here, member = np.unique(self._member[rows], return_inverse=True)  # not every patient is in every stratum
        probabilities, labels = (values[rows] for values in self._cases)
        resampler = Resampler(probabilities, labels, member, **self._options)
        drawn = [times[:, here] for times in blocks]
        values = np.concatenate([resampler.measure(name, times) for times in drawn])
        if name in _OF_POSITIVES and probabilities.shape[1] == 2:
            hits = np.bincount(member, weights=labels == self._options["positive"])
            values[np.concatenate([times @ hits for times in drawn]) == 0] = np.nan
        return values

    def _by_function(self, rows: np.ndarray, blocks: Iterable[np.ndarray]) -> np.ndarray:
        drawn = (np.repeat(rows, row[self._member[rows]]) for times in blocks for row in times)
        return np.array([self._score(chosen) for chosen in drawn])
