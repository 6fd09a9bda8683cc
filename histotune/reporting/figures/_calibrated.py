"""A model's held-out probabilities at a temperature that other patients chose, and draws of its patients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from histotune.ensembles.crossfit import parts_by_patient, tune
from histotune.metrics import scores as metrics
from histotune.metrics.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE
from histotune.metrics.intervals import tails
from histotune.metrics.resampling import bounds, draws
from histotune.metrics.shares import effective
from histotune.reporting.figures._base import FigureSource, call
from histotune.reporting.figures._select import find
from histotune.studies.leaderboard import ENSEMBLE

REPLICATES = 500


class Calibrated(NamedTuple):
    """A model's probabilities for cases that it was not trained on, before and after temperature scaling.

    Attributes:
        model, cases: in words.
        before, after: probabilities [n, C]; the temperature of `after` is cross-fitted by patient.
        tempered: whether `before` has no temperature at all, which an ensemble has.
    """

    model: str
    cases: str
    before: np.ndarray
    after: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    tempered: bool


def calibrated(source: FigureSource, of: str) -> Calibrated:
    """Read a model's held-out predictions; temperatures compose, so that those of an ensemble lose theirs.

    Raises:
        StudyError: there is no such model.
    """
    line = find(source, of)
    saved = line.record.predictions()
    before = metrics.softmax(saved.logits)
    bounds = (LEAST_TEMPERATURE, MOST_TEMPERATURE)
    parts = parts_by_patient(saved.patients, saved.labels)
    tuned = tune(before, saved.labels, saved.patients, parts, None, bounds=bounds)
    how = "" if tuned.crossed else " (too few patients to cross-fit)"
    cases = f"{'out-of-fold predictions' if source.settings.folds else 'validation set'} of {source}{how}"
    ensemble = line.kind == ENSEMBLE
    return Calibrated(call(line), cases, before, tuned.crossfitted, saved.labels, saved.patients, not ensemble)


def band(
    patients: np.ndarray, values: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the expanded 95 % percentiles, as of every interval, of a measure of sums over resampled patients.

    Args:
        patients: [n].
        values: what is summed up over cases, [n, k].
        measure: sums [r, k] -> values [r, m], NaN where one is not known.

    Returns:
        bounds, [m] each; NaN of a single patient.
    """
    sums, counts = sums_by_patient(patients, values), np.unique(patients, return_counts=True)[1]
    if len(sums) < 2:
        return (np.full(measure(sums).shape[1], np.nan),) * 2
    drawn = np.concatenate([measure(times @ sums) for times in draws(len(sums), REPLICATES, 0)])
    low, high = bounds(drawn, tails(effective(counts)))
    return low, high


def sums_by_patient(patients: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum values [n, k] up over the cases of each patient, [P, k]."""
    names, owner = np.unique(patients, return_inverse=True)
    result = np.zeros((len(names), values.shape[1]))
    np.add.at(result, owner, values)
    return result
