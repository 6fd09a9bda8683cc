"""AdamW, SGD or AdaGrad, warm-up and cosine per step, and the moving average of the weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from histotune.core.config import OptimizerConfig
from histotune.models.network import Model


def build_optimizer(model: Model, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimiser; weight decay leaves out biases and the scales of norms (vectors)."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=True)
    if config.name == "adagrad":
        return torch.optim.Adagrad(groups, lr=config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(config: OptimizerConfig, step: int, total: int) -> float:
    """Return the rate of step `step` (from 0) of `total`: linear warm-up from 0, then constant or half a cosine to 0.

    Loshchilov & Hutter, 2017, without restarts.
    """
    warmup = config.warmup_fraction * total
    if step + 1 < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1.0, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


class WeightAverage:
    """Exponential moving average of a model's weights and statistics (Polyak & Juditsky, 1992).

    The decay rises from 0.1 to `decay` as min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model: Model = copy.deepcopy(model)
        self.model.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
        for name in ours.keys() - set(floats):
            ours[name].copy_(theirs[name])
