"""A metric on many resamples of patients at once: sums per patient and one sort, instead of one evaluation per draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from histotune.errors import ConfigError
from histotune.metrics import scores as metrics
from histotune.metrics.confusion import OF_CLASSES, mean_of_known
from histotune.metrics.ranking import AREAS, Ranking, rankings, wins

BLOCK = 250  # replicates drawn at once: bounds memory where every case is its own patient
PAIRED = 2000  # patients up to which all pairs of them fit in memory
WEIGHTS = 500_000  # replicates x cases ranked at once: bounds memory


def draws(patients: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks [r, patients] of how often each patient was drawn, `replicates` rows in all."""
    if replicates < 1:
        raise ConfigError(f"a bootstrap needs at least one replicate, got {replicates=}")
    generator = np.random.default_rng(seed)
    for start in range(0, replicates, BLOCK):
        rows = min(BLOCK, replicates - start)
        drawn = generator.integers(patients, size=(rows, patients)) + np.arange(rows)[:, None] * patients
        yield np.bincount(drawn.ravel(), minlength=rows * patients).reshape(rows, patients)


def bounds(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return quantiles [2, m] of replicates [r, m], over those that are known; NaN where none is."""
    known = ~np.isnan(values).all(axis=0)
    result = np.full((2, values.shape[1]), np.nan)
    result[:, known] = np.nanquantile(values[:, known], levels, axis=0)
    return result


class Resampler:
    """The cases of one model, ready to be measured under any multiplicity of its patients.

    Args:
        probabilities: float [n, C].
        labels: int [n].
        member: int [n], the number of each case's patient, 0..P-1, every one of which occurs.
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        member: np.ndarray,
        *,
        positive: int = 1,
        threshold: float | None = None,
    ) -> None:
        self._probabilities, self._labels, self._member, self._positive = probabilities, labels, member, positive
        self._sizes = np.bincount(member)
        self._rows = np.split(np.argsort(member, kind="stable"), np.cumsum(self._sizes)[:-1])
        predicted = metrics.decide(probabilities, positive=positive, threshold=threshold)
        self._classes = probabilities.shape[1]
        cells = self._classes**2
        flat = member * cells + labels * self._classes + predicted
        self._confusions = np.bincount(flat, minlength=len(self._sizes) * cells).reshape(-1, cells)
        self._rankings: list[Ranking] | None = None
        self._wins: list[tuple[np.ndarray, np.ndarray]] | None = None

    def measure(self, name: str, times: np.ndarray) -> np.ndarray:
        """Return the metric of each replicate, [r], where patient p counts times[r, p] times."""
        if name in OF_CLASSES:
            confusions = (times @ self._confusions).reshape(-1, self._classes, self._classes)
            return OF_CLASSES[name](confusions, self._positive)
        if name == "auroc" and len(self._sizes) <= PAIRED:
            return self._auroc(times)
        if name in AREAS:
            return self._areas(name, times)
        if name == "ece":
            gaps = self._per_patient(metrics.calibration_gaps)
            return np.abs(times @ gaps).sum(axis=1) / (times @ self._sizes)
        assert name in ("nll", "brier"), name
        mean = metrics.negative_log_likelihood if name == "nll" else metrics.brier_score
        sums = self._per_patient(lambda probabilities, labels: np.array(mean(probabilities, labels) * len(labels)))
        return (times @ sums) / (times @ self._sizes)

    def _per_patient(self, total: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        return np.stack([total(self._probabilities[rows], self._labels[rows]) for rows in self._rows])

    def _areas(self, name: str, times: np.ndarray) -> np.ndarray:
        if self._rankings is None:
            self._rankings = rankings(self._probabilities, self._labels, self._positive)
        rows = max(1, WEIGHTS // len(self._member))
        blocks = [times[start : start + rows] for start in range(0, len(times), rows)]
        values = np.empty((len(times), len(self._rankings)))
        for column, ranking in enumerate(self._rankings):
            members = self._member[ranking.order]
            values[:, column] = np.concatenate([AREAS[name](ranking, block[:, members]) for block in blocks])
        return mean_of_known(values)

    def _auroc(self, times: np.ndarray) -> np.ndarray:
        """Count which hits rank above which misses once, by pair of patients: a replicate only weighs the pairs."""
        if self._wins is None:
            classes = [self._positive] if self._classes == 2 else range(self._classes)
            self._wins = [wins(self._probabilities[:, c], self._labels == c, self._member) for c in classes]
        drawn = times.astype(np.float64)
        areas = []
        for above, hits in self._wins:
            pairs = (drawn @ hits) * (drawn @ (self._sizes - hits))
            having = np.flatnonzero(hits)  # of the other patients no hit can be above anything
            result = ((drawn[:, having] @ above[having]) * drawn).sum(axis=1)
            areas.append(np.divide(result, pairs, out=np.full(len(times), np.nan), where=pairs > 0))
        return mean_of_known(np.stack(areas, axis=1))
