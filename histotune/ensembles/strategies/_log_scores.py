"""What strategies that weigh logits start from: every member's log-probabilities, centred over the classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from histotune.ensembles.strategies.average import LEAST

_STEPS = 500


def centred(probabilities: Tensor) -> Tensor:
    """Map probabilities [M, N, C] to log-probabilities whose mean over the classes is 0.

    A softmax does not see a number that is added to all logits of a case; a weight per class would.
    """
    logs = probabilities.clamp_min(LEAST).log()
    return logs - logs.mean(dim=2, keepdim=True)


def minimise(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    """Bring a smooth loss of a few numbers (float64) to its minimum by L-BFGS, in place; deterministic.

    SciPy's, because torch's optimisers import a compiler that takes seconds when a process makes the first one.
    """
    from scipy.optimize import minimize  # here: it costs every command a third of a second

    def evaluate(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        _put(parameters, numbers)
        value = loss()
        gradients = torch.autograd.grad(value, parameters)
        return float(value.detach()), torch.cat([gradient.flatten() for gradient in gradients]).numpy()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a few thousand numbers: others would wait for each other where cores are busy
    start = torch.cat([parameter.detach().flatten() for parameter in parameters]).numpy()
    tight = {"maxiter": _STEPS, "maxfun": 10 * _STEPS, "ftol": 1e-14, "gtol": 1e-9}
    try:
        _put(parameters, minimize(evaluate, start, jac=True, method="L-BFGS-B", options=tight).x)
    finally:
        torch.set_num_threads(threads)


def _put(parameters: list[Tensor], numbers: np.ndarray) -> None:
    parts = torch.from_numpy(numbers.copy()).split([parameter.numel() for parameter in parameters])
    with torch.no_grad():
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))
