"""Mean of the members' probabilities."""

from __future__ import annotations

from torch import Tensor

from histotune.ensembles.strategies._base import ENSEMBLES, Ensemble, member_mean, normalised

MEANS = ("arithmetic", "geometric")
LEAST = 1e-12  # a probability below it counts as it in a geometric mean, so that one member cannot veto alone


class Average(Ensemble):
    """p_c = mean_k p_kc; or, geometric, p_c proportional to exp(mean_k log p_kc)."""

    def __init__(self, mean: str) -> None:
        if mean not in MEANS:
            raise ValueError(f"mean must be one of {', '.join(MEANS)}, got {mean!r}")
        self._geometric = mean == "geometric"

    def combine(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Map [M, N, C] to [N, C]."""
        if self._geometric:
            return member_mean(probabilities.clamp_min(LEAST).log(), present).softmax(dim=1)
        return normalised(member_mean(probabilities, present))

    def shares(self, members: int) -> list[float]:
        """Return the same for all."""
        return [1 / members] * members


@ENSEMBLES.register("average")
def average(*, mean: str = "arithmetic") -> Average:
    """Mean of the members' probabilities, `arithmetic` or `geometric`."""
    return Average(mean)
