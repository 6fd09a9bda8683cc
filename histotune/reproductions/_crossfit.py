"""Stage 2 of loosely coupled members, cross-fitted: what scores a fold has learned from the other folds alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from histotune.ensembles.strategies import ENSEMBLES, Ensemble
from histotune.metrics.calibration import apply_temperatures, fit_temperature


class Strategy(NamedTuple):
    """A registered ensemble and its parameters."""

    name: str
    params: Mapping[str, Any]


def crossfit(
    strategy: Strategy,
    logits: np.ndarray,
    present: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    asked: Sequence[np.ndarray] = (),
) -> list[np.ndarray]:
    """Score every fold by a stage 2 that was fitted, as the members' temperatures are, to the other folds alone.

    Args:
        logits: [M, n, C], out of folds: a member's logits of a case come from a network that never saw its patient.
        present: bool [M, n], whose modality is there.
        labels, folds: [n].
        asked: masks like `present` under which the folds are scored; none is `present` alone. A member that is there
            and withheld says nothing at all: not even where nobody else is left does its answer to the case count.

    Returns:
        probabilities [n, C], one for each mask.
    """
    masks = list(asked) or [present]
    found = [np.full(logits.shape[1:], np.nan) for _ in masks]
    for fold in np.unique(folds):
        scored, others = folds == fold, np.flatnonzero((folds != fold) & present.any(axis=0))
        ensemble, temperatures, _ = fit(strategy, logits[:, others], present[:, others], labels[others])
        tempered = apply_temperatures(logits[:, scored], temperatures)
        for probabilities, mask in zip(found, masks, strict=True):
            withheld = (present & ~mask)[:, scored, None]
            probabilities[scored] = ensemble.predict(np.where(withheld, 0.0, tempered), mask[:, scored])
    return found


def fit(
    strategy: Strategy, logits: np.ndarray, present: np.ndarray, labels: np.ndarray
) -> tuple[Ensemble, list[float], float]:
    """Fit a temperature for every member, on the cases that it hears, and the strategy; returns the seconds, too."""
    began = time.perf_counter()
    members = zip(logits, present, strict=True)
    temperatures = [fit_temperature(one[there], labels[there]) for one, there in members]
    ensemble = ENSEMBLES.build(strategy.name, **strategy.params)
    ensemble.fit(apply_temperatures(logits, temperatures), labels, present)
    return ensemble, temperatures, time.perf_counter() - began
