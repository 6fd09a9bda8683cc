"""How sure a number is: bootstrap over patients, never over patches, and paired differences between two models.

Patches of one patient share a slide, a stain and a tumour; drawing patches would count them as independent and make
every interval too narrow. A replicate therefore draws patients with replacement and takes all their patches.
`Seeded` adds what several trainings contribute.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histotune.errors import DataError
from histotune.metrics import scores as metrics
from histotune.metrics.intervals import ConfidenceInterval, Difference, Seeded
from histotune.metrics.measured import Measured, MetricFn
from histotune.metrics.shares import LEVEL

REPLICATES = 2000


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
) -> ConfidenceInterval:
    """Return a metric on all cases with its expanded percentile interval over resampled patients.

    Replicates in which the metric is undefined are left out; the bounds are NaN when more than half are, when there are
    fewer than two patients, when no replicate differs and the metric is no share of cases, and of the ECE, which is
    above the truth in all of them.

    Args:
        metric: a name of `metrics.METRICS` (fast), or any function of probabilities and labels.
        probabilities: float [n, C].
        labels, patients: [n].
        positive, threshold: as in `metrics.evaluate`; a function that is given decides for itself.
        replicates: number of draws.
        seed: the same seed gives the same interval, also in another order of the cases.
        level: confidence, in (0, 1).
    """
    measured = Measured(metric, probabilities, labels, patients, positive, threshold)
    return Seeded.of([measured], replicates, seed).interval(level)


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
) -> dict[str, ConfidenceInterval]:
    """Return every metric of `metrics.evaluate` with its interval; see `patient_bootstrap`."""
    about = {"positive": positive, "threshold": threshold, "replicates": replicates, "seed": seed, "level": level}
    names = metrics.evaluate(probabilities, labels, positive=positive, threshold=threshold)
    return {name: patient_bootstrap(name, probabilities, labels, patients, **about) for name in names}  # type: ignore[arg-type]


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
    """Return the mean over training seeds of metric(first) - metric(second), over other patients and other seeds.

    Each replicate draws patients, the same for both models and every seed; the trainings are compared seed by seed. So
    the interval holds what other patients and other trainings would change; of one seed it holds the former only.

    Args:
        firsts, seconds: probabilities [n, C] of two models, seed by seed, for the same cases in the same order.
        strata: [n], or [seeds, n] where every seed has its own; the metric is then its mean over them, such as over
            the magnifications of a patient's images, or over folds. A case of stratum -1 is not measured.

    Raises:
        DataError: the two do not score the same cases, or not with as many seeds.
    """
    shapes = [[probabilities.shape for probabilities in side] for side in (firsts, seconds)]
    if not firsts or shapes[0] != shapes[1] or len(set(shapes[0])) > 1:
        raise DataError(f"a paired comparison needs the same cases: {shapes[0]} and {shapes[1]}")
    one, other = (
        over_seeds(metric, side, labels, patients, positive=positive, strata=strata, replicates=replicates, seed=seed)
        for side in (firsts, seconds)
    )
    return one.minus(other).difference(level)


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
) -> ConfidenceInterval:
    """Return the mean of a metric over training seeds with its interval over other patients and other seeds.

    Arguments are those of `paired_bootstrap_of_seeds`, probabilities [n, C] seed by seed.

    Raises:
        DataError: no training is given.
    """
    about = {"positive": positive, "replicates": replicates, "seed": seed}
    return over_seeds(metric, probabilities, labels, patients, strata=strata, **about).interval(level)


def over_seeds(
    metric: str | MetricFn,
    probabilities: Sequence[np.ndarray],
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    positive: int = 1,
    strata: np.ndarray | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Seeded:
    """Measure one configuration on draws of patients once, for its interval and all its differences.

    Arguments are those of `paired_bootstrap_of_seeds`, probabilities [n, C] seed by seed.

    Raises:
        DataError: no training is given.
    """
    if not len(probabilities):
        raise DataError("a bootstrap over seeds needs at least one training")
    own = [strata] * len(probabilities) if strata is None or strata.ndim == 1 else list(strata)
    pairs = zip(probabilities, own, strict=True)
    every = [Measured(metric, one, labels, patients, positive, None, where) for one, where in pairs]
    return Seeded.of(every, replicates, seed)


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
