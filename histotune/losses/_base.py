"""The contract of an objective: a head that scores features, and the loss that trains both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histotune.registry import Registry


@dataclass(frozen=True)
class ObjectiveInput:
    """What the program provides to build an objective.

    Args:
        feature_dim: width D of the features.
        counts: cases of each class in the *training part*, [C]; every count is at least 1.
    """

    feature_dim: int
    counts: tuple[int, ...]

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.counts)


class Objective(nn.Module):
    """Head + loss over features [B, D] and labels [B] (int64, 0..C-1).

    `scores` are the logits [B, C] that calibration, AUROC and ensembles use: softmax(scores) is the prediction,
    whatever the loss does to them in training. `loss` is the mean over the batch, a float32 scalar, also under
    autocast; it is finite, with finite gradients, for every finite input.
    Soft targets: `loss` also takes labels [B, C] of probabilities when `soft_labels` is True (mixup needs it).
    """

    soft_labels: bool = False

    def scores(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C], float32."""
        raise NotImplementedError

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features [B, D] against labels [B], a float32 scalar."""
        raise NotImplementedError

    def set_progress(self, fraction: float) -> None:
        """Hear that `fraction` of the training in [0, 1] is done; deferred schemes override it."""


class LinearObjective(Objective):
    """An objective whose head is one linear layer; a subclass writes `loss` only."""

    def __init__(self, given: ObjectiveInput) -> None:
        super().__init__()
        self.head = nn.Linear(given.feature_dim, given.classes)

    def scores(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C], float32."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits


LOSSES: Registry[Objective] = Registry("loss", "histotune.losses")
