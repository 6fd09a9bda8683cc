"""Temperature and operating threshold, both fitted on validation predictions and never on what is sealed.

A member's temperature is fitted on the same validation cases that its ensemble is then described with: one number per
member, so the optimism is small, but it is there; the sealed test set is where the description is checked. The
temperature of the whole and its threshold are described on patients that had no part in their fit: see `crossfit`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histotune.errors import ConfigError, DataError
from histotune.metrics import scores as metrics

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.01, 100.0
OF_CALIBRATED = (0.1, 10.0)  # temperatures for what combines members that have theirs already
MOST_CANDIDATES = 1000
THRESHOLD_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "positive_f1", "mcc")
"""Metrics that a threshold can serve; sensitivity alone, say, is best when everything is called positive."""


def fit_temperature(
    logits: np.ndarray, labels: np.ndarray, *, least: float = LEAST_TEMPERATURE, most: float = MOST_TEMPERATURE
) -> float:
    """Return the temperature T in [least, most] that makes softmax(logits / T) most likely (Guo et al., 2017).

    The negative log-likelihood is convex in b = 1 / T; its slope, mean(E_p[z] - z_true), is increasing, so its one
    root is found by bracketing. Perfectly separated cases give the least temperature, cases that are worse than
    chance the greatest, logits without information 1.

    Args:
        logits: float [n, C].
        labels: int [n].

    Raises:
        DataError: no case, or a logit is not finite.
    """
    from scipy.optimize import brentq  # here, because scipy.optimize costs every command a third of a second

    if not len(labels) or not np.isfinite(logits).all():
        raise DataError(f"a temperature needs finite logits of at least one case, got {len(labels)} cases")
    scores = logits.astype(np.float64)
    scores -= scores[np.arange(len(labels)), labels][:, None]  # relative to the true class

    def slope(inverse: float) -> float:
        return float((metrics.softmax(inverse * scores) * scores).sum(axis=1).mean())

    low, high = 1.0 / most, 1.0 / least
    if not scores.any():
        return 1.0
    if slope(low) >= 0:
        return most
    if slope(high) <= 0:
        return least
    return float(1.0 / brentq(slope, low, high, xtol=1e-10, rtol=1e-10))


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
    quantiles); among equals the one nearest to 0.5 wins.

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
    best = candidates[values >= np.nanmax(values) - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def _candidates(scores: np.ndarray) -> np.ndarray:
    distinct = np.unique(scores.astype(np.float64))
    if len(distinct) == 1:
        return np.array([0.5])
    middles = (distinct[1:] + distinct[:-1]) / 2
    if len(middles) > MOST_CANDIDATES:
        middles = middles[np.linspace(0, len(middles) - 1, MOST_CANDIDATES).round().astype(np.int64)]
    return middles
