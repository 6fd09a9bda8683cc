"""Adaptive class-balanced focal loss, after the abstract: margins, focus and weights that follow each class."""

from __future__ import annotations

import torch
from torch import Tensor

from histotune.core.parameters import Interval
from histotune.data.imbalance import ldam_margins
from histotune.models.losses._base import (
    BETA,
    GAMMA,
    INFERENCE_SCALE,
    LOSSES,
    SCALE,
    ObjectiveInput,
    each_class,
    full_precision,
)
from histotune.models.losses._cosine import CosineMargin

_SMALLEST = 1e-6  # of 1 - p before it is raised to gamma: below gamma = 1 its gradient would be infinite at p = 1
_UNKNOWN = 0.5  # how well a class is known before anything was seen


class Acbfl(CosineMargin):
    """mean_i a_y (1 - p_i)^gamma_y (-log p_i), p the softmax of s (cos - margin), the margin LDAM's of the true class.

    With P_k, a running mean of the probability that class k's cases give to it without a margin: gamma_k = gamma
    (1 + kappa (1 - P_k)) and a_k in proportion to alpha_k (1 + eta (1 - P_k)), of sum C, alpha_k the class weights. A
    class that is not yet known is so focused on and weighed up. The paper's equations are not public: this is built
    after its abstract. Without margin, kappa and eta it is class-balanced focal loss, without gamma, beta and eta LDAM.
    """

    margins: Tensor
    known: Tensor
    seen: Tensor

    def __init__(
        self,
        given: ObjectiveInput,
        *,
        margin: float,
        gamma: float,
        kappa: float,
        eta: float,
        momentum: float,
        **head: float,
    ) -> None:
        super().__init__(given, **head)
        self.gamma, self.kappa, self.eta, self.momentum = gamma, kappa, eta, momentum
        self.register_buffer("margins", torch.from_numpy(ldam_margins(given.counts, margin)).float(), persistent=False)
        self.register_buffer("known", torch.full((given.classes,), _UNKNOWN))  # [C], P; saved with the weights
        self.register_buffer("seen", torch.zeros(2, given.classes), persistent=False)  # cases, and sums of p over them

    @full_precision
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features [B, D] against labels [B] or probabilities [B, C]; P stays as it is."""
        cosines, labels, shares = each_class(self.cosines(features), labels)
        own = cosines.gather(1, labels[:, None]) - self.margins[labels, None]
        log_p = (self.scale * cosines.scatter(1, labels[:, None], own)).log_softmax(dim=1)
        log_p = log_p.gather(1, labels[:, None])[:, 0]  # [n]
        difficulty = 1 - self.known
        weights = self.weights * (1 + self.eta * difficulty)
        weights = weights * (self.weights.sum() / weights.sum())  # of sum C again
        focus = self.gamma * (1 + self.kappa * difficulty)
        hardness = (-torch.expm1(log_p)).clamp_min(_SMALLEST) ** focus[labels]
        return (shares * weights[labels] * hardness * -log_p).sum()

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor) -> None:
        """Add the cases of a batch, or of a piece of it, to what the step has seen."""
        self.seen += self._count(features, labels)

    @torch.no_grad()
    def adapt(self) -> None:
        """Bring P up to date; a class that the step has not seen stays as it was."""
        cases, sums = self.seen
        result = sums / torch.where(cases > 0, cases, 1)
        self.known.lerp_(result, (1 - self.momentum) * (cases > 0).to(result.dtype))
        self.seen.zero_()

    @full_precision
    def _count(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return [2, C]: cases of each class, and the sum of the probabilities that they give to it."""
        cosines, labels, shares = each_class(self.cosines(features), labels)
        p = (self.scale * cosines).softmax(dim=1).gather(1, labels[:, None])[:, 0]  # [n]
        cases = shares * len(features)
        return torch.zeros_like(self.seen).index_add_(1, labels, torch.stack([cases, cases * p]).to(self.seen.dtype))


@LOSSES.register(
    "acbfl",
    ranges={
        "scale": SCALE,
        "margin": Interval(0, 2),
        "gamma": GAMMA,
        "kappa": Interval(0),
        "eta": Interval(0),
        "momentum": Interval(0, 1, open_high=True),
        "inference_scale": INFERENCE_SCALE,
        "beta": BETA,
    },
    source="after the abstract of CMAF-Net, doi 10.1038/s41598-025-32794-1; its equations are not public",
)
def acbfl(
    given: ObjectiveInput,
    *,
    scale: float = 16.0,
    margin: float = 0.5,
    gamma: float = 2.0,
    kappa: float = 1.0,
    eta: float = 0.5,
    momentum: float = 0.99,
    inference_scale: float = 0.0,
    beta: float = 0.999,
) -> Acbfl:
    """Adaptive class-balanced focal loss after the abstract: `kappa` and `eta` favour classes not yet learned."""
    return Acbfl(
        given,
        margin=margin,
        gamma=gamma,
        kappa=kappa,
        eta=eta,
        momentum=momentum,
        scale=scale,
        inference_scale=inference_scale,
        beta=beta,
    )
