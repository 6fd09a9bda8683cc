"""SphereFace: a multiplicative margin on the angle to the true class, and its literal reading below 1."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from histotune.core.parameters import YES_OR_NO, Allowed, Interval
from histotune.models.losses._base import BETA, INFERENCE_SCALE, LOSSES, SCALE, ObjectiveInput
from histotune.models.losses._cosine import EDGE, CosineMargin

_SHARED: Mapping[str, Allowed] = {
    "scale": SCALE,
    "feature_norm": YES_OR_NO,
    "inference_scale": INFERENCE_SCALE,
    "beta": BETA,
}


class SphereFace(CosineMargin):
    """Cosine of the true class: (-1)^k cos(m theta) - 2k with k = floor(m theta / pi), for any real m."""

    def __init__(self, given: ObjectiveInput, *, margin: float, feature_norm: bool, **head: float) -> None:
        super().__init__(given, **head)
        self.margin = margin
        self.feature_norm = feature_norm

    def length(self, features: Tensor) -> Tensor | float:
        """Return the lengths [B, 1] of the features, or 1 when they are normed."""
        return 1.0 if self.feature_norm else torch.linalg.vector_norm(features, dim=1, keepdim=True)

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Map cosines [n, 1] to the continued cosines of the multiplied angles, [n, 1]."""
        angle = self.margin * cosine.clamp(-1 + EDGE, 1 - EDGE).acos()
        turns = (angle.detach() / math.pi).floor()
        return (1 - 2 * (turns % 2)) * angle.cos() - 2 * turns


@LOSSES.register("sphereface", ranges={**_SHARED, "margin": Interval(1, 4)}, source="Liu et al., 2017")
def sphereface(
    given: ObjectiveInput,
    *,
    scale: float = 30.0,
    margin: float = 1.35,
    feature_norm: bool = True,
    inference_scale: float = 0.0,
    beta: float = 0.0,
) -> SphereFace:
    """SphereFace: the true class's angle times `margin` >= 1; without `feature_norm`, A-Softmax as published."""
    return SphereFace(
        given, margin=margin, feature_norm=feature_norm, scale=scale, inference_scale=inference_scale, beta=beta
    )


@LOSSES.register(
    "sphereface_reproduction",
    ranges={**_SHARED, "margin": Interval(0, 1, open_low=True, open_high=True)},
    source="CFAL, IEEE JBHI, doi 10.1109/JBHI.2023.3336372, taken literally",
)
def sphereface_reproduction(
    given: ObjectiveInput,
    *,
    scale: float = 30.0,
    margin: float = 0.35,
    feature_norm: bool = True,
    inference_scale: float = 0.0,
    beta: float = 0.0,
) -> SphereFace:
    """SphereFace with `margin` < 1, as a paper prints it: it helps the true class; for a reproduction only."""
    return SphereFace(
        given, margin=margin, feature_norm=feature_norm, scale=scale, inference_scale=inference_scale, beta=beta
    )
