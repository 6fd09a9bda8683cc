"""A meta-learner: multinomial logistic regression on all members' scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from histotune.core.parameters import Interval
from histotune.ensembles.strategies._base import ENSEMBLES, Ensemble
from histotune.ensembles.strategies._log_scores import centred, minimise
from histotune.errors import DataError


class Stacking(Ensemble):
    """softmax(A x + b), x the centred log-probabilities of all members [M C] and, as 0 or 1, who is missing [M].

    A missing member's scores are 0. Fitted by cross-entropy plus `penalty` / N times the squared entries of A, which
    is scikit-learn's logistic regression with C = 1 / (2 penalty).
    """

    learns = True

    def __init__(self, *, penalty: float) -> None:
        self._penalty = penalty
        self._matrix: Tensor | None = None  # [C, M C + M]
        self._bias = torch.zeros(0, dtype=torch.float64)

    def learn(self, probabilities: Tensor, present: Tensor, labels: Tensor) -> None:
        """Fit C (M C + M + 1) numbers."""
        inputs = _inputs(probabilities, present)
        classes = probabilities.shape[2]
        matrix = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)

        def loss() -> Tensor:
            fit = functional.cross_entropy(inputs @ matrix.T + bias, labels)
            return fit + self._penalty / len(labels) * matrix.square().sum()

        minimise([matrix, bias], loss)
        self._matrix, self._bias = matrix.detach(), bias.detach()

    def combine(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Map [M, N, C] to [N, C]."""
        inputs = _inputs(probabilities, present)
        if self._matrix is None or self._matrix.shape[1] != inputs.shape[1]:
            raise DataError(f"stacking was not fitted to {len(probabilities)} members")
        matrix = self._matrix.to(inputs.device)
        return (inputs @ matrix.T + self._bias.to(inputs.device)).softmax(dim=1)

    def state(self) -> dict[str, Any]:
        """Return `matrix` [C][M C + M] and `bias` [C]."""
        return {} if self._matrix is None else {"matrix": self._matrix.tolist(), "bias": self._bias.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if state:
            self._matrix = torch.tensor(state["matrix"], dtype=torch.float64)
            self._bias = torch.tensor(state["bias"], dtype=torch.float64)


@ENSEMBLES.register("stacking", ranges={"penalty": Interval(0, 1000)}, source="Wolpert, 1992")
def stacking(*, penalty: float = 0.5) -> Stacking:
    """Logistic regression on the members' held-out scores and on who is missing (a meta-learner)."""
    return Stacking(penalty=penalty)


def _inputs(probabilities: Tensor, present: Tensor) -> Tensor:
    """Return [N, M C + M]."""
    mask = present[:, :, None].to(probabilities.dtype)
    scores = (centred(probabilities) * mask).permute(1, 0, 2).flatten(1)
    return torch.cat([scores, 1 - mask[:, :, 0].T], dim=1)
