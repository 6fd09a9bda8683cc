"""A metric on all cases of a model and on draws of its patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from histotune.errors import DataError
from histotune.metrics import scores as metrics
from histotune.metrics.resampling import Resampler, draws

MetricFn = Callable[[np.ndarray, np.ndarray], float]
"""A metric of probabilities [n, C] and labels [n]."""
FEW = 200  # patients up to which each is left out in turn
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
        return np.concatenate([resampler.measure(name, times[:, here]) for times in blocks])

    def _by_function(self, rows: np.ndarray, blocks: Iterable[np.ndarray]) -> np.ndarray:
        drawn = (np.repeat(rows, row[self._member[rows]]) for times in blocks for row in times)
        return np.array([self._score(chosen) for chosen in drawn])
