"""The variational information bottleneck: the joint vector becomes a noisy code that pays for what it carries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LOUDEST = 10.0  # bound of the logarithm of a variance


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
        log_variance = log_variance.clamp(-_LOUDEST, _LOUDEST)
        nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        if self.training:
            mean = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return mean, self.weight * nats
