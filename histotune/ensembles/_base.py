"""The contract of an ensemble: saved logits of several members become one prediction per case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histotune.errors import DataError
from histotune.registry import Registry


class Ensemble:
    """Combines temperature-calibrated logits [M, N, C] of M members into probabilities [N, C].

    The order of the members has no meaning to a strategy that learns nothing, and one member alone is that member:
    its probabilities come back as they are. A strategy writes `combine`, in tensors, so that it is also a part of an
    exported graph; one that learns also writes `fit`, `state` and `load_state`, and what it learns belongs to the
    members in the order in which it saw them.
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
        probabilities: np.ndarray = self.join(torch.tensor(logits, dtype=torch.float64)).numpy()
        return probabilities

    def join(self, logits: Tensor) -> Tensor:
        """Map logits [M, N, C] to probabilities [N, C], both float64."""
        probabilities = logits.softmax(dim=2)
        return probabilities[0] if probabilities.shape[0] == 1 else self.combine(probabilities)

    def combine(self, probabilities: Tensor) -> Tensor:
        """Map the probabilities [M, N, C] of at least two members to probabilities [N, C], both float64."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as plain values that JSON can hold."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if state:
            raise DataError(f"{type(self).__name__} learns nothing, but a state was given: {dict(state)}")


ENSEMBLES: Registry[Ensemble] = Registry("ensemble", "histotune.ensembles")


def member_mean(values: Tensor) -> Tensor:
    """Average values [M, N, C] over members, to the last bit the same in whatever order they come."""
    return values.sort(dim=0).values.mean(dim=0)


def normalised(scores: Tensor) -> Tensor:
    """Divide non-negative scores [N, C] by their sum over classes."""
    return scores / scores.sum(dim=1, keepdim=True)


def _check(logits: np.ndarray) -> None:
    if logits.ndim != 3 or not len(logits):
        raise DataError(f"an ensemble needs logits [members >= 1, cases, classes], got {logits.shape}")
    if not np.isfinite(logits).all():
        raise DataError("an ensemble needs finite logits: leave out the member that has a NaN or infinite one")
