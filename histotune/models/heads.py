"""What stands behind a vector per case: bottleneck or projection, norm, dropout, and the objective with its loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from histotune.core.config import HeadConfig, Spec
from histotune.models.bounded import bounded
from histotune.models.losses import LOSSES, Objective, ObjectiveInput

_LARGEST_LOG, _MARGIN = 10.0, 1.0  # bound of the logarithm of a variance, and how near to it that is felt


class Bottleneck(nn.Module):
    """z ~ N(mu(x), diag s(x)^2) in training, mu(x) afterwards; costs `weight` times its divergence from N(0, I).

    Alemi et al., 2017. Without a weight it lets everything through and costs nothing.
    """

    def __init__(self, given: int, width: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.code = nn.Linear(given, 2 * width) if weight else None

    def forward(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, given] to [B, width] and the cost, a float32 scalar."""
        if self.code is None:
            return joint, joint.new_zeros((), dtype=torch.float32)
        mean, log_variance = self.code(joint).float().chunk(2, dim=1)
        log_variance = bounded(log_variance, -_LARGEST_LOG, _LARGEST_LOG, _MARGIN)
        nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        if self.training:
            mean = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return mean, self.weight * nats


class Head(nn.Module):
    """vector [B, given] -> bottleneck -> projection, norm, dropout -> features -> objective.

    Args:
        config: of the head.
        loss: name and parameters of the objective.
        given: width of the vectors.
        counts: training cases of each class, [C].

    Attributes:
        least: the fewest cases that it trains on at once: 2 with batch norm, else 1.
    """

    def __init__(self, config: HeadConfig, loss: Spec, given: int, counts: Sequence[int]) -> None:
        super().__init__()
        width = config.feature_dim or given
        self.bottleneck = Bottleneck(given, width, config.bottleneck)
        self.head = nn.Sequential()
        if config.feature_dim and not config.bottleneck:
            self.head.append(nn.Linear(given, width))
        self.objective: Objective = LOSSES.build(loss.name, ObjectiveInput(width, tuple(counts)), **loss.params)
        self.head.extend(_after_projection(config, width, self.objective))
        self.least = 1 + any(isinstance(module, _BatchNorm) for module in self.modules())

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, given] to the features [B, D] that the objective sees, and the bottleneck's cost, a scalar."""
        passed, information = self.bottleneck(vectors)
        return self.head(passed), information

    def scores(self, vectors: Tensor) -> Tensor:
        """Map [B, given] to logits [B, C], float32."""
        return self.objective.scores(self(vectors)[0])


def _after_projection(config: HeadConfig, width: int, objective: Objective) -> list[nn.Module]:
    norm = objective.wanted_norm if config.feature_norm == "auto" else config.feature_norm
    layers: list[nn.Module] = []
    if norm != "none":
        layers.append(nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width))
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return layers
