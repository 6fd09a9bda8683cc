"""What strategies that weigh logits start from: every member's log-probabilities, centred over the classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from histotune.ensembles.average import LEAST

_STEPS = 200


def centred(probabilities: Tensor) -> Tensor:
    """Map probabilities [M, N, C] to log-probabilities whose mean over the classes is 0.

    A softmax does not see a number that is added to all logits of a case; a weight per class would.
    """
    logs = probabilities.clamp_min(LEAST).log()
    return logs - logs.mean(dim=2, keepdim=True)


def minimise(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    """Bring a smooth loss of a few numbers (float64) to its minimum by L-BFGS; deterministic."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=_STEPS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
