"""Class-balanced sigmoid focal loss: one yes-or-no question for each class."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from histotune.models.losses._base import (
    BETA,
    GAMMA,
    LOSSES,
    LinearObjective,
    ObjectiveInput,
    each_class,
    full_precision,
)


class SigmoidFocal(LinearObjective):
    """mean_i alpha_yi sum_k (1 - p_ik)^gamma (-log p_ik), p_ik the sigmoid's probability of the right answer for k.

    The weight of the true class stands on all C terms of a case (Cui et al., 2019). 1 - p is a sigmoid itself, so its
    power is the exponential of gamma times a log-sigmoid, finite with its gradient wherever the logits are.
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
        logits, labels, shares = each_class(self.scores(features), labels)
        right = (2 * functional.one_hot(labels, logits.shape[1]) - 1) * logits  # [n, C], above 0: answered rightly
        hardness = (self.gamma * functional.logsigmoid(-right)).exp()
        cases = (hardness * -functional.logsigmoid(right)).sum(dim=1)
        return (shares * self.weights[labels] * cases).sum()


@LOSSES.register(
    "sigmoid_focal",
    ranges={"gamma": GAMMA, "beta": BETA},
    source="Lin et al., 2017; Cui et al., 2019 (beta)",
)
def sigmoid_focal(given: ObjectiveInput, *, gamma: float = 2.0, beta: float = 0.0) -> SigmoidFocal:
    """Sigmoid focal loss summed over classes; `gamma` turns from easy cases, `beta` of the class weights (0: none)."""
    return SigmoidFocal(given, gamma, beta)
