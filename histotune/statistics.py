"""How sure a number is: bootstrap over patients, never over patches, and paired differences between two models.

Patches of one patient share a slide, a stain and a tumour; drawing patches would count them as independent and make
every interval too narrow. A replicate therefore draws patients with replacement and takes all their patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histotune import metrics
from histotune._resampling import Resampler, draws
from histotune.errors import ConfigError, DataError

MetricFn = Callable[[np.ndarray, np.ndarray], float]
"""A metric of probabilities [n, C] and labels [n]."""

REPLICATES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value on all cases and its confidence interval; the bounds are NaN where they cannot be known."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Difference:
    """First minus second on the same cases, its confidence interval, and a two-sided p-value.

    Attributes:
        p: twice the smaller share of replicates on either side of zero, at least 2 / (replicates + 1).
    """

    value: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p:.3f}"


def patient_bootstrap(
    metric: str | MetricFn,
    probabilities: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    positive: int = 1,
    threshold: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return a metric on all cases with its expanded percentile interval over resampled patients.

    The percentiles are widened for few patients as a t-interval widens a normal one (Hesterberg, 2015, "expanded
    percentile"). Replicates in which the metric is undefined are left out; the bounds are NaN when more than half
    are, or when there are fewer than two patients.

    Args:
        metric: a name of `metrics.METRICS` (fast), or any function of probabilities and labels.
        probabilities: float [n, C].
        labels, patients: [n].
        positive, threshold: as in `metrics.evaluate`; a function that is given decides for itself.
        replicates: number of draws.
        seed: the same seed gives the same interval, also in another order of the cases.
        level: confidence, in (0, 1).
    """
    measured = _Measured(metric, probabilities, labels, patients, positive, threshold)
    return _interval(measured.value(), measured.replicate(replicates, seed), measured.patients, level)


def intervals(
    probabilities: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    positive: int = 1,
    threshold: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Return every metric of `metrics.evaluate` with its interval; see `patient_bootstrap`."""
    names = metrics.evaluate(probabilities, labels, positive=positive, threshold=threshold)
    found = {}
    for name, value in names.items():
        measured = _Measured(name, probabilities, labels, patients, positive, threshold)
        found[name] = _interval(value, measured.replicate(replicates, seed), measured.patients, level)
    return found


def paired_bootstrap(
    metric: str | MetricFn,
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    positive: int = 1,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """Return metric(first) - metric(second), both on the same drawn patients; see `patient_bootstrap`.

    Args:
        first, second: probabilities [n, C] of two models for the same cases in the same order.

    Raises:
        DataError: the two do not score the same cases.
    """
    return paired_bootstrap_of_seeds(
        metric, [first], [second], labels, patients, positive=positive, replicates=replicates, seed=seed, level=level
    )


def paired_bootstrap_of_seeds(
    metric: str | MetricFn,
    firsts: Sequence[np.ndarray],
    seconds: Sequence[np.ndarray],
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    positive: int = 1,
    strata: np.ndarray | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Difference:
    """Return the mean over training seeds of metric(first) - metric(second), with patients and seeds resampled.

    Each replicate draws patients, the same for both models and every seed, and seeds, the same for both models, and
    averages the differences over the drawn seeds. So the interval holds what other patients and other trainings would
    change; few seeds say little of the latter, and of one seed nothing. See `patient_bootstrap`.

    Args:
        firsts, seconds: probabilities [n, C] of two models, seed by seed, for the same cases in the same order.
        strata: [n]; the metric is then its mean over them, such as over the magnifications of a patient's images.

    Raises:
        DataError: the two do not score the same cases, or not with as many seeds.
    """
    shapes = [[probabilities.shape for probabilities in side] for side in (firsts, seconds)]
    if not firsts or shapes[0] != shapes[1] or len(set(shapes[0])) > 1:
        raise DataError(f"a paired comparison needs the same cases: {shapes[0]} and {shapes[1]}")
    ones, others = (
        [_Measured(metric, p, labels, patients, positive, None, strata) for p in side] for side in (firsts, seconds)
    )
    pairs = list(zip(ones, others, strict=True))
    drawn = np.stack([one.replicate(replicates, seed) - other.replicate(replicates, seed) for one, other in pairs])
    values = _over_seeds(drawn, seed)
    value = float(np.mean([one.value() - other.value() for one, other in pairs]))
    whole = _interval(value, values, ones[0].patients, level)
    known = values[~np.isnan(values)]
    tail = min((known <= 0).sum(), (known >= 0).sum())
    p = float("nan") if np.isnan(whole.low) else min(1.0, 2.0 * float(tail + 1) / (len(known) + 1))
    return Difference(whole.value, whole.low, whole.high, p)


def bootstrap_of_seeds(
    metric: str | MetricFn,
    probabilities: Sequence[np.ndarray],
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    positive: int = 1,
    strata: np.ndarray | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the mean of a metric over training seeds, with patients and seeds resampled.

    Arguments are those of `paired_bootstrap_of_seeds`, probabilities [n, C] seed by seed.

    Raises:
        DataError: there is no seed.
    """
    if not len(probabilities):
        raise DataError("a bootstrap over seeds needs at least one training")
    every = [_Measured(metric, p, labels, patients, positive, None, strata) for p in probabilities]
    values = _over_seeds(np.stack([one.replicate(replicates, seed) for one in every]), seed)
    return _interval(float(np.mean([one.value() for one in every])), values, every[0].patients, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having been tested together, in their order (Holm, 1979); a NaN counts as no test.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = [k for k in np.argsort(values, kind="stable") if not np.isnan(values[k])]
    adjusted, highest = values.copy(), 0.0
    for rank, k in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * float(values[k])))
        adjusted[k] = highest
    return [float(p) for p in adjusted]


class _Measured:
    """One metric of one model, on all its cases and on draws of its patients; its mean over strata where there are."""

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
        names, self._member = np.unique(patients, return_inverse=True)
        self.patients = len(names)
        every = np.arange(len(labels))
        self._strata = [every] if strata is None else [every[strata == name] for name in np.unique(strata)]

    def value(self) -> float:
        """Measure all cases."""
        return float(np.mean([self._score(rows) for rows in self._strata]))

    def replicate(self, replicates: int, seed: int) -> np.ndarray:
        """Measure every draw of patients, [replicates]; NaN throughout when there is one patient only."""
        if self.patients < 2:
            return np.full(replicates, np.nan)
        measure = self._by_name if isinstance(self._metric, str) else self._by_function
        return np.mean([measure(rows, draws(self.patients, replicates, seed)) for rows in self._strata], axis=0)

    def _score(self, rows: np.ndarray) -> float:
        probabilities, labels = (values[rows] for values in self._cases)
        if isinstance(self._metric, str):
            return metrics.score(self._metric, probabilities, labels, **self._options)
        return float(self._metric(probabilities, labels))

    def _by_name(self, rows: np.ndarray, blocks: Iterable[np.ndarray]) -> np.ndarray:
        assert isinstance(self._metric, str)
        name = metrics.check_metric(self._metric)
        here, member = np.unique(self._member[rows], return_inverse=True)  # not everybody is in every stratum
        probabilities, labels = (values[rows] for values in self._cases)
        resampler = Resampler(probabilities, labels, member, **self._options)
        return np.concatenate([resampler.measure(name, times[:, here]) for times in blocks])

    def _by_function(self, rows: np.ndarray, blocks: Iterable[np.ndarray]) -> np.ndarray:
        drawn = (np.repeat(rows, row[self._member[rows]]) for times in blocks for row in times)
        return np.array([self._score(chosen) for chosen in drawn])


def _over_seeds(drawn: np.ndarray, seed: int) -> np.ndarray:
    """Average replicates [seeds, r] over seeds that are drawn anew for every replicate, [r]."""
    chosen = np.random.default_rng([seed, len(drawn)]).integers(len(drawn), size=drawn.shape)
    averaged: np.ndarray = np.take_along_axis(drawn, chosen, axis=0).mean(axis=0)
    return averaged


def tails(patients: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the shares of replicates below an interval's lower and upper bound; see `patient_bootstrap`."""
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(np.sqrt(patients / (patients - 1)) * stdtrit(patients - 1, (1 - level) / 2)))
    return tail, 1 - tail


def _interval(value: float, replicates: np.ndarray, patients: int, level: float) -> Interval:
    if not 0 < level < 1:
        raise ConfigError(f"a confidence level must lie between 0 and 1, got {level=}")
    known = replicates[~np.isnan(replicates)]
    if patients < 2 or len(known) < len(replicates) / 2:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(known, tails(patients, level))
    return Interval(float(value), float(low), float(high))
