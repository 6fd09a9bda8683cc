"""The contract of an ensemble: saved logits of several members become one prediction per case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from histotune.core.registry import Registry
from histotune.errors import DataError

_TINY = torch.finfo(torch.float64).tiny


class Ensemble:
    """Combines temperature-calibrated logits [M, N, C] of M members into probabilities [N, C].

    A member has no input of a case whose modality is missing: `present` [M, N] is False there, and
    what stands in the logits there does not count. Where no member has input, all of them count.
    The order of the members has no meaning to a strategy that learns nothing, and one member alone is that member:
    its probabilities come back as they are. A strategy writes `combine`, in tensors, so that it is also a part of an
    exported graph; one that learns also writes `learn`, `state` and `load_state`, and what it learns belongs to the
    members in the order in which it saw them.
    A builder takes keyword parameters only.

    Attributes:
        learns: whether something is fitted to held-out logits.
        selects: whether members that get no weight are left out of what is exported.
        temperature: by which the logarithms of what is combined are divided in the end; set by the caller that fits it.
    """

    learns: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    temperature: float = 1.0

    def fit(self, logits: np.ndarray, labels: np.ndarray, present: np.ndarray | None = None) -> None:
        """Learn from held-out logits [M, N, C], labels [N] and, where members are missing, bool [M, N].

        They must be of cases that the members were not trained on, such as those of the validation part or out of
        folds: on their own training cases members are surer than they will ever be again.

        Raises:
            DataError: the shapes do not fit, or a logit that counts is not finite.
        """
        mask = _check(logits, present)
        if self.learns:
            self.learn(_tensor(logits).softmax(dim=2), torch.from_numpy(mask), torch.from_numpy(labels))

    def learn(self, probabilities: Tensor, present: Tensor, labels: Tensor) -> None:
        """Learn from probabilities [M, N, C] (float64), bool [M, N] and int64 [N]; nothing by default."""

    def predict(self, logits: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """Return probabilities [N, C], float64, rows sum to 1.

        Raises:
            DataError: the shape is not [M, N, C], or a logit that counts is not finite.
        """
        mask = _check(logits, present)
        probabilities: np.ndarray = self.join(_tensor(logits), torch.from_numpy(mask)).numpy()
        return probabilities

    def join(self, logits: Tensor, present: Tensor | None = None) -> Tensor:
        """Map logits [M, N, C] and bool [M, N] (None: all are there) to probabilities [N, C], both float64."""
        joined = self._together(logits, present)
        if self.temperature == 1.0:
            return joined
        return (joined.clamp_min(_TINY).log() / self.temperature).softmax(dim=1)

    def _together(self, logits: Tensor, present: Tensor | None) -> Tensor:
        probabilities = logits.softmax(dim=2)
        if probabilities.shape[0] == 1:
            return probabilities[0]
        there = torch.ones_like(logits[..., 0], dtype=torch.bool) if present is None else present
        return self.combine(probabilities, there | ~there.any(dim=0))

    def combine(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Map the probabilities [M, N, C] of at least two members to probabilities [N, C], both float64.

        Args:
            probabilities: finite everywhere.
            present: bool [M, N]; of every case at least one member is there.
        """
        raise NotImplementedError

    def shares(self, members: int) -> list[float]:
        """Return how much each of so many members counts, summing to 1; nothing where no one number says it."""
        return []

    def state(self) -> dict[str, Any]:
        """Return what `fit` learned, as plain values that JSON can hold."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if state:
            raise DataError(f"{type(self).__name__} learns nothing, but a state was given: {dict(state)}")


ENSEMBLES: Registry[Ensemble] = Registry("ensemble", "histotune.ensembles.strategies")


def member_mean(values: Tensor, present: Tensor) -> Tensor:
    """Average values [M, N, C] over the members present (bool [M, N]), the same to the last bit in whatever order."""
    masked = torch.where(present[:, :, None], values, torch.zeros_like(values))
    return masked.sort(dim=0).values.sum(dim=0) / present.sum(dim=0)[:, None]


def normalised(scores: Tensor) -> Tensor:
    """Divide non-negative scores [N, C] by their sum over classes."""
    return scores / scores.sum(dim=1, keepdim=True)


def _tensor(logits: np.ndarray) -> Tensor:
    return torch.from_numpy(np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0))


def _check(logits: np.ndarray, present: np.ndarray | None) -> np.ndarray:
    """Return who is there, bool [M, N]."""
    if logits.ndim != 3 or not len(logits):
        raise DataError(f"an ensemble needs logits [members >= 1, cases, classes], got {logits.shape}")
    mask = np.ones(logits.shape[:2], bool) if present is None else np.asarray(present, bool)
    if mask.shape != logits.shape[:2]:
        raise DataError(f"logits {logits.shape} need a mask of who is there {logits.shape[:2]}, got {mask.shape}")
    counts = mask | ~mask.any(axis=0)
    if not np.isfinite(logits[counts]).all():
        raise DataError("an ensemble needs finite logits: leave out the member that has a NaN or infinite one")
    return mask
