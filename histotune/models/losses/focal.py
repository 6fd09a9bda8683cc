"""Class-balanced softmax focal loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from histotune.models.losses._base import BETA, GAMMA, LOSSES, LinearObjective, ObjectiveInput, full_precision

_SMALLEST = 1e-6  # of 1 - p before it is raised to gamma: below gamma = 1 its gradient would be infinite at p = 1


class Focal(LinearObjective):
    """mean_i sum_k alpha_k q_ik (1 - p_ik)^gamma (-log p_ik), q one-hot or soft (Lin et al., 2017; Cui et al., 2019).

    The class weight stays outside the power: it rescales a case, it does not change how easy the case looks.
    """

    soft_labels = True
    weights: Tensor

    def __init__(self, given: ObjectiveInput, gamma: float, beta: float) -> None:
        super().__init__(given)
        self.gamma = gamma
        self.register_buffer("weights", given.class_weights(beta), persistent=False)

    @full_precision
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features [B, D] against labels [B] or probabilities [B, C]."""
        log_p = self.scores(features).log_softmax(dim=1)  # [B, C]
        targets = labels if labels.is_floating_point() else functional.one_hot(labels, log_p.shape[1])
        hardness = (-torch.expm1(log_p)).clamp_min(_SMALLEST) ** self.gamma
        return (self.weights * targets * hardness * -log_p).sum() / len(labels)


@LOSSES.register(
    "focal",
    ranges={"gamma": GAMMA, "beta": BETA},
    source="Lin et al., 2017; Cui et al., 2019 (beta)",
)
def focal(given: ObjectiveInput, *, gamma: float = 2.0, beta: float = 0.0) -> Focal:
    """Softmax focal loss; `gamma` turns from easy cases, `beta` of the class weights (0: none)."""
    return Focal(given, gamma, beta)
