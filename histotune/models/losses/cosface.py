"""CosFace: an additive margin on the cosine to the true class."""

from __future__ import annotations

from torch import Tensor

from histotune.core.parameters import Interval
from histotune.models.losses._base import BETA, INFERENCE_SCALE, LOSSES, SCALE, ObjectiveInput
from histotune.models.losses._cosine import CosineMargin


class CosFace(CosineMargin):
    """Cosine of the true class: cos(theta) - m."""

    def __init__(self, given: ObjectiveInput, *, margin: float, **head: float) -> None:
        super().__init__(given, **head)
        self.margin = margin

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Lower the cosines [n, 1] by the margin."""
        return cosine - self.margin


@LOSSES.register(
    "cosface",
    ranges={"scale": SCALE, "margin": Interval(0, 2), "inference_scale": INFERENCE_SCALE, "beta": BETA},
    source="Wang et al., 2018",
)
def cosface(
    given: ObjectiveInput, *, scale: float = 20.0, margin: float = 0.35, inference_scale: float = 0.0, beta: float = 0.0
) -> CosFace:
    """CosFace: softmax of `scale` times cosines, the true class's cosine lowered by `margin`."""
    return CosFace(given, margin=margin, scale=scale, inference_scale=inference_scale, beta=beta)
