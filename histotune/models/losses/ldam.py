"""LDAM: cosine margins that grow as classes get rarer, and class weights that wait."""

from __future__ import annotations

import torch
from torch import Tensor

from histotune.core.parameters import Interval
from histotune.data.imbalance import ldam_margins
from histotune.models.losses._base import BETA, INFERENCE_SCALE, LOSSES, SCALE, ObjectiveInput
from histotune.models.losses._cosine import CosineMargin


class Ldam(CosineMargin):
    """Cosine of the true class: cos(theta) - m_y with m_k = margin n_k^(-1/4) / max_j n_j^(-1/4).

    Deferred re-weighting: the class weights are 1 until `defer` of the training is done.
    """

    margins: Tensor
    later_weights: Tensor

    def __init__(self, given: ObjectiveInput, *, margin: float, defer: float, beta: float, **head: float) -> None:
        super().__init__(given, beta=0.0, **head)
        self.defer = defer
        margins = torch.from_numpy(ldam_margins(given.counts, margin)).float()
        self.register_buffer("margins", margins, persistent=False)
        self.register_buffer("later_weights", given.class_weights(beta), persistent=False)
        self.set_progress(0.0)

    def set_progress(self, fraction: float) -> None:
        """Weigh the classes from the fraction `defer` on."""
        self.weights = self.later_weights if fraction >= self.defer else torch.ones_like(self.later_weights)

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Lower the cosines [n, 1] by the margin of each case's class."""
        return cosine - self.margins[labels, None]


@LOSSES.register(
    "ldam",
    ranges={
        "scale": SCALE,
        "margin": Interval(0, 2),
        "defer": Interval(0, 1),
        "inference_scale": INFERENCE_SCALE,
        "beta": BETA,
    },
    source="Cao et al., 2019",
)
def ldam(
    given: ObjectiveInput,
    *,
    scale: float = 30.0,
    margin: float = 0.5,
    defer: float = 0.8,
    inference_scale: float = 0.0,
    beta: float = 0.9999,
) -> Ldam:
    """LDAM: rarer classes get wider cosine margins, up to `margin`; class weights after `defer` of the training."""
    return Ldam(given, margin=margin, defer=defer, beta=beta, scale=scale, inference_scale=inference_scale)
