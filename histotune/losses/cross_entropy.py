"""Cross-entropy with label smoothing and effective-number class weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from histotune.class_balance import effective_number_weights
from histotune.errors import ConfigError
from histotune.losses._base import LOSSES, LinearObjective, ObjectiveInput


class CrossEntropy(LinearObjective):
    """mean_i sum_k alpha_k q_ik (-log p_ik), with q the labels softened by `label_smoothing` (Szegedy et al., 2016).

    The mean divides by the batch, not by the sum of weights, so that a weight keeps its meaning in every batch.
    """

    soft_labels = True
    weights: Tensor

    def __init__(self, given: ObjectiveInput, label_smoothing: float, beta: float) -> None:
        super().__init__(given)
        self.label_smoothing = label_smoothing
        weights = torch.from_numpy(effective_number_weights(given.counts, beta))
        self.register_buffer("weights", weights.float(), persistent=False)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features [B, D] against labels [B] or probabilities [B, C]."""
        total = functional.cross_entropy(
            self.scores(features), labels, self.weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / len(labels)


@LOSSES.register("cross_entropy")
def cross_entropy(given: ObjectiveInput, *, label_smoothing: float = 0.0, beta: float = 0.0) -> CrossEntropy:
    """Softmax cross-entropy; `label_smoothing` in [0, 1), `beta` of the class weights in [0, 1] (0: none)."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ConfigError(f"loss.label_smoothing must lie in [0, 1), got {label_smoothing}")
    return CrossEntropy(given, label_smoothing, beta)
