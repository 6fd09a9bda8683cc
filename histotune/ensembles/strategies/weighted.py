"""Fixed weights: every member counts by how far above chance it is on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from histotune.ensembles.strategies._base import ENSEMBLES, Ensemble, normalised
from histotune.errors import DataError


class Weighted(Ensemble):
    """p proportional to sum_m v_m p_m, v_m the member's balanced accuracy above that of chance on held-out cases.

    The weights are those of the members alone and are not optimised together. Members at or below chance count
    nothing, unless all are: then all count alike.
    """

    learns = True

    def __init__(self) -> None:
        self._weights: Tensor | None = None  # [M]

    def learn(self, probabilities: Tensor, present: Tensor, labels: Tensor) -> None:
        """Measure every member on the cases that it knows."""
        classes = probabilities.shape[2]
        skills = []
        for scores, there in zip(probabilities, present, strict=True):
            truth = functional.one_hot(labels[there], classes)
            right = (scores[there].argmax(dim=1) == labels[there])[:, None] * truth
            recalls = right.sum(dim=0) / truth.sum(dim=0)
            skills.append(recalls[truth.sum(dim=0) > 0].double().mean().nan_to_num(0.0) - 1 / classes)
        weights = torch.stack(skills).clamp_min(0.0)
        self._weights = weights / weights.sum() if weights.sum() > 0 else torch.full_like(weights, 1 / len(weights))

    def combine(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Map [M, N, C] to [N, C]; where only members of weight 0 are there, they count alike."""
        if self._weights is None or len(self._weights) != len(probabilities):
            name = type(self).__name__.lower()
            raise DataError(f"{name} was not fitted to {len(probabilities)} members")
        weights = self._weights.to(probabilities.device)[:, None] * present
        weights = torch.where(weights.sum(dim=0) > 0, weights, present.to(weights.dtype))
        return normalised((weights[:, :, None] * probabilities).sum(dim=0))

    def shares(self, members: int) -> list[float]:
        """Return the weights."""
        return [] if self._weights is None else self._weights.tolist()

    def state(self) -> dict[str, Any]:
        """Return `weights` [M]."""
        return {} if self._weights is None else {"weights": self._weights.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if state:
            self._weights = torch.tensor(state["weights"], dtype=torch.float64)


@ENSEMBLES.register("weighted")
def weighted() -> Weighted:
    """Mean of the members' probabilities, each by its own balanced accuracy above chance on held-out cases."""
    return Weighted()
