"""Cross-entropy with label smoothing, effective-number class weights and logit adjustment."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from histotune.core.parameters import Interval
from histotune.data.imbalance import log_priors
from histotune.models.losses._base import BETA, LOSSES, LinearObjective, ObjectiveInput, full_precision


class CrossEntropy(LinearObjective):
    """mean_i sum_k alpha_k q_ik (-log p_ik), with q the labels softened by `label_smoothing` (Szegedy et al., 2016).

    In training, p is the softmax of logits + tau log prior (Menon et al., 2021); `scores` are the logits alone, which
    with tau = 1 aim at balanced accuracy. The mean divides by the batch, not by the sum of weights, so that a weight
    keeps its meaning in every batch.
    """

    soft_labels = True
    weights: Tensor
    adjustment: Tensor

    def __init__(self, given: ObjectiveInput, label_smoothing: float, beta: float, tau: float) -> None:
        super().__init__(given)
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", given.class_weights(beta), persistent=False)
        self.register_buffer("adjustment", tau * torch.from_numpy(log_priors(given.counts)).float(), persistent=False)

    @full_precision
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features [B, D] against labels [B] or probabilities [B, C]."""
        logits = self.scores(features) + self.adjustment
        targets = labels.to(logits.dtype) if labels.is_floating_point() else labels
        total = functional.cross_entropy(
            logits, targets, self.weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / len(labels)


@LOSSES.register(
    "cross_entropy",
    ranges={"label_smoothing": Interval(0, 1, open_high=True), "beta": BETA, "tau": Interval(0)},
    source="Szegedy et al., 2016 (label smoothing); Cui et al., 2019 (beta); Menon et al., 2021 (tau)",
)
def cross_entropy(
    given: ObjectiveInput, *, label_smoothing: float = 0.0, beta: float = 0.0, tau: float = 0.0
) -> CrossEntropy:
    """Softmax cross-entropy; `label_smoothing`, `beta` of the class weights, `tau` of logit adjustment (0: none)."""
    return CrossEntropy(given, label_smoothing, beta, tau)
