"""The contract of an ensemble: saved logits of several members become one prediction per case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from histotune.errors import DataError
from histotune.metrics import softmax
from histotune.registry import Registry


class Ensemble:
    """Combines temperature-calibrated logits [M, N, C] of M members into probabilities [N, C].

    The order of the members has no meaning to a strategy that learns nothing, and one member alone is that member:
    its probabilities come back as they are. A strategy writes `combine`; one that learns also writes `fit`, `state`
    and `load_state`, and what it learns belongs to the members in the order in which it saw them.
    A builder takes keyword parameters only.
    """

    def fit(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Learn from validation logits [M, N, C] and labels [N]; nothing by default."""
        _check(logits)

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities [N, C], float64, rows sum to 1.

        Raises:
            DataError: the shape is not [M, N, C], or a logit is not finite.
        """
        _check(logits)
        probabilities = softmax(logits)
        return probabilities[0] if len(probabilities) == 1 else self.combine(probabilities)

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        """Map the probabilities [M, N, C] of at least two members to probabilities [N, C]."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as plain values that JSON can hold."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if state:
            raise DataError(f"{type(self).__name__} learns nothing, but a state was given: {dict(state)}")


ENSEMBLES: Registry[Ensemble] = Registry("ensemble", "histotune.ensembles")


def member_mean(values: np.ndarray) -> np.ndarray:
    """Average values [M, N, C] over members, to the last bit the same in whatever order they come."""
    mean: np.ndarray = np.sort(values, axis=0).mean(axis=0)
    return mean


def normalised(scores: np.ndarray) -> np.ndarray:
    """Divide non-negative scores [N, C] by their sum over classes."""
    probabilities: np.ndarray = scores / scores.sum(axis=1, keepdims=True)
    return probabilities


def _check(logits: np.ndarray) -> None:
    if logits.ndim != 3 or not len(logits):
        raise DataError(f"an ensemble needs logits [members >= 1, cases, classes], got {logits.shape}")
    if not np.isfinite(logits).all():
        raise DataError("an ensemble needs finite logits: leave out the member that has a NaN or infinite one")
