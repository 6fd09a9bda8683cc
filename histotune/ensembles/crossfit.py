"""What is fitted to held-out predictions is described on patients that had no part in the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histotune.data.grouping import by_case, by_group
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import REPLICATES, patient_bootstrap
from histotune.metrics.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    OF_CALIBRATED,
    fit_temperature,
    logs_of,
    losses,
    tempered,
)
from histotune.metrics.operating_points import OperatingPoint, ThresholdResult

CALIBRATION = ("ece", "brier", "nll")
PARTS = 5  # of the patients
_MANY = 500  # patients from which on they are dealt by class only, which takes no time


@dataclass(frozen=True)
class CalibratedPredictions:
    """A temperature and a threshold, and what comes of them.

    Attributes:
        temperature: fitted on all cases; 1 where, cross-fitted by patient, it does not help.
        threshold: fitted on all cases; None where no point was asked for.
        probabilities: [n, C], at the temperature. Their order, and so AUROC, is that of what was tempered.
        crossfitted: [n, C], of each case at the temperature that the other patients chose.
        called: bool [n], whether it is called positive at the threshold that they chose; None without a threshold.
        crossed: whether patients could be kept apart; else both are described on the cases that chose them.
    """

    temperature: float
    threshold: float | None
    probabilities: np.ndarray
    crossfitted: np.ndarray
    called: np.ndarray | None
    crossed: bool

    def of(self, metric: str) -> np.ndarray:
        """Return the probabilities by which a metric is measured: cross-fitted where a temperature serves it."""
        return self.crossfitted if metric in CALIBRATION else self.probabilities

    def measure(self, labels: np.ndarray, positive: int) -> dict[str, float]:
        """Return all metrics at the class of highest probability."""
        own = {name: metrics.score(name, self.crossfitted, labels) for name in CALIBRATION}
        return metrics.evaluate(self.probabilities, labels, positive=positive) | own


def tune(
    raw: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    parts: np.ndarray | None,
    point: OperatingPoint | None,
    *,
    positive: int = 1,
    bounds: tuple[float, float] | None = OF_CALIBRATED,
) -> CalibratedPredictions:
    """Fit a temperature to held-out probabilities [n, C], and a threshold at it; see `CalibratedPredictions`.

    Args:
        raw: of cases that had no part in what made them.
        labels, patients: [n].
        parts: as `parts_by_patient` gives them; without any, nothing shows whether a temperature helps, and it is 1.
        point: how to choose the threshold; None for more than two classes.
        bounds: of the temperature; None leaves it at 1.
    """
    splits = [] if parts is None else [parts == part for part in np.unique(parts)]
    temperature, by_split = 1.0, [1.0] * len(splits)
    if bounds is not None:
        temperature, by_split = _temperatures(logs_of(raw), labels, patients, splits, bounds)

    def choose(rows: np.ndarray, at: float, strict: bool) -> float | None:
        if point is None:
            return None
        return point.choose(tempered(raw[rows], at), labels[rows], positive=positive, strict=strict)

    threshold = choose(np.arange(len(labels)), temperature, True)
    probabilities, called = tempered(raw, temperature), np.zeros(len(labels), bool)
    crossfitted = probabilities.copy()
    if threshold is not None:
        called = probabilities[:, positive] >= threshold
    for own, other in zip(splits, by_split, strict=True):
        at = choose(np.flatnonzero(~own), other, False)
        crossfitted[own] = tempered(raw[own], other)
        called[own] = at is not None and crossfitted[own][:, positive] >= at
    chosen = None if threshold is None else called
    return CalibratedPredictions(temperature, threshold, probabilities, crossfitted, chosen, parts is not None)


def temperature_of(logits: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
    """Fit the temperature of held-out logits [n, C]; 1 where, cross-fitted by patient, it does not help.

    It helps if it lowers the negative log-likelihood of patients that had no part in its fit by more than the standard
    error of that, over patients.
    """
    parts = parts_by_patient(patients, labels)
    splits = [] if parts is None else [parts == part for part in np.unique(parts)]
    return _temperatures(logits, labels, patients, splits, (LEAST_TEMPERATURE, MOST_TEMPERATURE))[0]


def _temperatures(
    logits: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    splits: Sequence[np.ndarray],
    bounds: tuple[float, float],
) -> tuple[float, list[float]]:
    """Return the temperature of all cases, and of those outside of each split; 1 throughout where it does not help."""

    def fit(rows: np.ndarray) -> float:
        return fit_temperature(logits[rows], labels[rows], patients=patients[rows], least=bounds[0], most=bounds[1])

    by_split = [fit(~own) for own in splits]
    gain = np.zeros(len(labels))
    for own, temperature in zip(splits, by_split, strict=True):
        careful = patients if temperature < 1 else None
        gain[own] = (losses(logits, labels, 1.0, careful) - losses(logits, labels, temperature, careful))[own]
    sums = np.unique(patients, return_inverse=True)[1]
    per_patient, cases = np.bincount(sums, weights=gain), np.bincount(sums)
    mean, count = gain.mean(), len(cases)
    error = np.sqrt(count / max(count - 1, 1) * ((per_patient - mean * cases) ** 2).sum()) / len(gain)
    if not splits or not mean > error:
        return 1.0, [1.0] * len(splits)
    return fit(np.full(len(labels), True)), by_split


def reached(
    tuned: CalibratedPredictions,
    point: OperatingPoint,
    labels: np.ndarray,
    patients: np.ndarray,
    on: str,
    *,
    positive: int,
    replicates: int = REPLICATES,
) -> ThresholdResult:
    """Measure a tuned threshold by its cross-fitted decisions, with intervals over patients.

    Args:
        on: which cases these are.
    """
    assert tuned.called is not None
    assert tuned.threshold is not None
    decided = np.eye(2)[np.where(tuned.called, positive, 1 - positive)]
    sensitivity, specificity = (
        patient_bootstrap(name, decided, labels, patients, positive=positive, replicates=replicates)
        for name in ("sensitivity", "specificity")
    )
    how = "cross-fitted by patient" if tuned.crossed else "too few patients to cross-fit, so both values are optimistic"
    text = f"{on}, {len(np.unique(patients))} patients, {how}"
    return ThresholdResult(point.rule, point.asked, tuned.threshold, sensitivity, specificity, text)


def calibration(temperature: float, before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return a temperature, and ECE, Brier score and NLL of probabilities [n, C] before and after it."""
    pairs = {name: (metrics.score(name, before, labels), metrics.score(name, after, labels)) for name in CALIBRATION}
    return {"temperature": temperature} | {name: {"before": a, "after": b} for name, (a, b) in pairs.items()}


def parts_by_patient(patients: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Deal patients into five parts, or fewer, int [n]; of two classes, the others of every part hold both.

    None where that cannot be: there is one patient only, or all cases of a class are one patient's.
    """
    names, owner = np.unique(patients, return_inverse=True)
    classes = np.unique(labels)
    for count in range(min(PARTS, len(names)), 1, -1):
        dealt = _deal(owner, labels, [1 / count] * count)
        if len(classes) > 2 or all(np.isin(classes, labels[dealt != part]).all() for part in range(count)):
            return dealt
    return None


def _deal(owner: np.ndarray, labels: np.ndarray, fractions: list[float]) -> np.ndarray:
    if owner.max() < _MANY:
        return by_group(owner, labels, fractions, [0], "patient")
    width = int(labels.max()) + 1
    counts = np.bincount(owner * width + labels, minlength=(owner.max() + 1) * width).reshape(-1, width)
    return by_case(counts.argmax(axis=1), fractions, [0])[owner]


def held_out(
    fitted: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    parts: np.ndarray | None,
    shape: tuple[int, int],
    name: str,
) -> np.ndarray:
    """Return the probabilities of a strategy for every case [n, C], fitted without the patients of the case.

    Args:
        fitted: rows to learn from -> what scores rows.
        parts: as `parts_by_patient` gives them.
        name: of the strategy, for errors.

    Raises:
        StudyError: patients cannot be kept apart.
    """
    if parts is None:
        raise StudyError(
            f"{name} learns from held-out predictions, and these, or all of one class, are of a single patient: use "
            "a strategy without fitting, such as average"
        )
    result = np.zeros(shape)
    for part in np.unique(parts):
        own = np.flatnonzero(parts == part)
        result[own] = fitted(np.flatnonzero(parts != part))(own)
    return result
