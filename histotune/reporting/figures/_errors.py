"""Errors of a model on the cases that it was scored on: counted by group, and the surest ones one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histotune.metrics import scores as metrics
from histotune.reporting.figures._base import FigureSource, call
from histotune.reporting.figures._select import find
from histotune.storage.records import Predictions


@dataclass(frozen=True)
class CaseError:
    """One case that a model took for another class.

    Attributes:
        id, patient: of the case.
        truth, said: names of classes.
        probability: that the model gave to what it said.
    """

    id: str
    patient: str
    truth: str
    said: str
    probability: float


def scored(source: FigureSource, of: str) -> tuple[str, Predictions, np.ndarray]:
    """Return a model's name, its saved predictions, and its probabilities float64 [n, C].

    These are cases of the validation part, or out of folds: no label of the sealed part is ever among them.
    """
    line = find(source, of)
    saved = line.record.predictions()
    return call(line), saved, metrics.softmax(saved.logits)


def surest_mistakes(
    saved: Predictions, probabilities: np.ndarray, classes: Sequence[str], most: int
) -> tuple[CaseError, ...]:
    """Return the wrong cases of highest probability, the surest first, equal ones by id."""
    message = metrics.decide(probabilities)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(message != saved.labels)
    order = wrong[np.lexsort((saved.ids[wrong], -sure[wrong]))][:most]
    return tuple(
        CaseError(
            str(saved.ids[row]),
            str(saved.patients[row]),
            classes[saved.labels[row]],
            classes[message[row]],
            round(float(sure[row]), 6),
        )
        for row in order
    )
