"""Errors of a model on the cases that it was scored on: counted by group, and the most confident ones by case."""

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
    """A misclassified case.

    Attributes:
        id, patient: of the case.
        truth, predicted: names of classes.
        probability: of the predicted class.
    """

    id: str
    patient: str
    truth: str
    predicted: str
    probability: float


def scored(source: FigureSource, of: str) -> tuple[str, Predictions, np.ndarray]:
    """Return a model's name, its saved predictions, and its probabilities float64 [n, C].

    These are cases of the validation set, or out-of-fold: no label of the sealed test set is among them.
    """
    line = find(source, of)
    saved = line.record.predictions()
    return call(line), saved, metrics.softmax(saved.logits)


def confident_errors(
    saved: Predictions, probabilities: np.ndarray, classes: Sequence[str], most: int
) -> tuple[CaseError, ...]:
    """Return the errors of highest probability, the most confident first, equal ones by id."""
    predicted = metrics.decide(probabilities)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != saved.labels)
    order = wrong[np.lexsort((saved.ids[wrong], -sure[wrong]))][:most]
    return tuple(
        CaseError(
            str(saved.ids[row]),
            str(saved.patients[row]),
            classes[saved.labels[row]],
            classes[predicted[row]],
            round(float(sure[row]), 6),
        )
        for row in order
    )
