"""ArcFace: an additive margin on the angle to the true class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from histotune.core.parameters import Interval
from histotune.models.losses._base import BETA, INFERENCE_SCALE, LOSSES, SCALE, ObjectiveInput
from histotune.models.losses._cosine import EDGE, CosineMargin


class ArcFace(CosineMargin):
    """Cosine of the true class: cos(theta + m); where theta + m passes pi, cos(theta) - m sin(m), which still falls."""

    def __init__(self, given: ObjectiveInput, *, margin: float, **head: float) -> None:
        super().__init__(given, **head)
        self.margin = margin

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Map cosines [n, 1] to cosines of the widened angles, [n, 1]."""
        inside = cosine.clamp(-1 + EDGE, 1 - EDGE)
        sine = ((1 - inside) * (1 + inside)).sqrt()
        widened = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), widened, cosine - self.margin * math.sin(self.margin))


@LOSSES.register(
    "arcface",
    ranges={
        "scale": SCALE,
        "margin": Interval(0, math.pi / 2, unit="radians"),
        "inference_scale": INFERENCE_SCALE,
        "beta": BETA,
    },
    source="Deng et al., 2019",
)
def arcface(
    given: ObjectiveInput, *, scale: float = 30.0, margin: float = 0.5, inference_scale: float = 0.0, beta: float = 0.0
) -> ArcFace:
    """ArcFace: softmax of `scale` times cosines, the true class's angle widened by `margin` (radians)."""
    return ArcFace(given, margin=margin, scale=scale, inference_scale=inference_scale, beta=beta)
