"""Temperature and operating threshold, both fitted on validation predictions and never on what is sealed.

A member's temperature is fitted on the same validation cases that its ensemble is then described with: one number per
member, so the optimism is small, but it is there; the sealed test set is where the description is checked. The
temperature of the whole and its threshold are described on patients that had no part in their fit: see `crossfit`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from histotune.errors import ConfigError, DataError
from histotune.metrics import scores as metrics
from histotune.metrics.shares import effective

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
_GRID = 33  # temperatures that are tried, before the best is refined
OF_CALIBRATED = (0.1, 10.0)  # temperatures for what combines members that have theirs already
MOST_CANDIDATES = 1000
THRESHOLD_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "positive_f1", "mcc")
"""Metrics that a threshold can serve; sensitivity alone, say, is best when everything is called positive."""


def fit_temperature(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    patients: np.ndarray | None = None,
    least: float = LEAST_TEMPERATURE,
    most: float = MOST_TEMPERATURE,
) -> float:
    """Return the temperature T in [least, most] that makes softmax(logits / T) most likely (Guo et al., 2017).

    With `patients` it is drawn towards 1 as by a normal prior of log T with standard deviation 1, against which every
    (effective) patient counts as one observation. And a T below 1, which makes the model surer, allows for the next
    case to be wrong, with probability 1 / (P + 2) for P patients (Platt, 1999): a few cases that happen to be separated
    do not make a model infinitely sure. Logits without information give 1.

    Args:
        logits: float [n, C].
        labels: int [n].
        patients: [n]; None asks for the likelihood alone.

    Raises:
        DataError: no case, or a logit is not finite.
    """
    from scipy.optimize import minimize_scalar  # here, because scipy.optimize costs every command a third of a second

    if not len(labels) or not np.isfinite(logits).all():
        raise DataError(f"a temperature needs finite logits of at least one case, got {len(labels)} cases")
    if not np.ptp(logits, axis=1).any():
        return 1.0
    prior = 0.0 if patients is None else 1 / effective(np.unique(patients, return_counts=True)[1])

    def best(careful: np.ndarray | None) -> float:
        def cost(log_temperature: float) -> float:
            loss = losses(logits, labels, math.exp(log_temperature), careful).mean()
            return float(loss + prior * log_temperature**2 / 2)

        grid = np.linspace(math.log(least), math.log(most), _GRID)
        at = int(np.argmin([cost(one) for one in grid]))
        around = (grid[max(at - 1, 0)], grid[min(at + 1, _GRID - 1)])
        found = minimize_scalar(cost, bounds=around, method="bounded", options={"xatol": 1e-7})
        if at in (0, _GRID - 1) and cost(grid[at]) <= found.fun:
            return most if at else least
        return float(np.clip(math.exp(found.x), least, most))

    result = best(None)
    return result if patients is None or result >= 1 else min(max(result, best(patients)), 1.0)


def losses(
    logits: np.ndarray, labels: np.ndarray, temperature: float, patients: np.ndarray | None = None
) -> np.ndarray:
    """Return the negative log-likelihood of every case at a temperature, [n] nats.

    With `patients` that of a case that is of another class with probability 1 / (P + 2); see `fit_temperature`.
    """
    scores = logits.astype(np.float64) / temperature
    scores -= scores[np.arange(len(labels)), labels][:, None]  # relative to the true class
    largest = scores.max(axis=1)
    loss: np.ndarray = largest + np.log(np.exp(scores - largest[:, None]).sum(axis=1))
    if patients is None:
        return loss
    wrong = 1 / (effective(np.unique(patients, return_counts=True)[1]) + 2)
    return loss - wrong * scores.sum(axis=1) / (scores.shape[1] - 1)


def apply_temperatures(logits: np.ndarray, temperatures: Sequence[float]) -> np.ndarray:
    """Divide the logits [M, N, C] of M members by their temperatures [M]; float64.

    Raises:
        DataError: not one temperature per member.
    """
    if len(logits) != len(temperatures):
        raise DataError(f"{len(logits)} members need as many temperatures, got {len(temperatures)}")
    tempered: np.ndarray = logits / np.asarray(temperatures, dtype=np.float64)[:, None, None]
    return tempered


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities [n, C] proportional to p ** (1 / temperature), float64; those of 1 as they are.

    >>> tempered(np.array([[0.9, 0.1]]), 0.5).round(3)
    array([[0.988, 0.012]])
    """
    if temperature == 1.0:
        return probabilities
    return metrics.softmax(logs_of(probabilities) / temperature)


def logs_of(probabilities: np.ndarray) -> np.ndarray:
    """Return log-probabilities, float64; that of 0 is finite."""
    logs: np.ndarray = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float64).tiny))
    return logs


def choose_threshold(
    probabilities: np.ndarray, labels: np.ndarray, *, metric: str = "balanced_accuracy", positive: int = 1
) -> float:
    """Return the threshold on the positive class's probability that gives the best `metric`; see `metrics.decide`.

    Candidates are the midpoints between neighbouring distinct probabilities (above 1,000 of them, evenly spaced
    quantiles), and those that call all cases positive, 0, or none, just above 1. Among equals one that does not call
    all cases alike wins, then the one nearest to 0.5.

    Args:
        probabilities: float [n, 2].
        labels: int [n]; both classes must occur.
        metric: one of `THRESHOLD_METRICS`.

    Raises:
        ConfigError: `metric` is not one of them, or there are not two classes.
        DataError: only one class occurs in `labels`.
    """
    if metrics.check_metric(metric, probabilities.shape[1]) not in THRESHOLD_METRICS:
        raise ConfigError(f"no threshold can be chosen by {metric!r}: take one of {', '.join(THRESHOLD_METRICS)}")
    if len(np.unique(labels)) < 2:
        raise DataError("a threshold needs cases of both classes, and the validation part has one class only")
    candidates = _candidates(probabilities[:, positive])
    sign = metrics.direction(metric)
    values = np.array(
        [sign * metrics.score(metric, probabilities, labels, positive=positive, threshold=t) for t in candidates]
    )
    best = np.flatnonzero(values >= np.nanmax(values) - 1e-12)
    apart = best[(best > 0) & (best < len(candidates) - 1)]
    best = apart if len(apart) else best
    return float(candidates[best[np.abs(candidates[best] - 0.5).argmin()]])


def _candidates(scores: np.ndarray) -> np.ndarray:
    """Return thresholds, ascending: the first calls all cases positive, the last none, the others some of them."""
    distinct = np.unique(scores.astype(np.float64))
    ends = np.array([0.0]), np.array([np.nextafter(1.0, 2.0)])
    if len(distinct) == 1:
        return np.concatenate(ends)
    middles = (distinct[1:] + distinct[:-1]) / 2
    if len(middles) > MOST_CANDIDATES:
        middles = middles[np.linspace(0, len(middles) - 1, MOST_CANDIDATES).round().astype(np.int64)]
    return np.concatenate([ends[0], middles, ends[1]])
