"""The most confident member decides."""

from __future__ import annotations

from torch import Tensor

from histotune.ensembles.strategies._base import ENSEMBLES, Ensemble, normalised


class Max(Ensemble):
    """p_c proportional to max_k p_kc: the predicted class is that of the single most confident member.

    Without calibration the most confident member is whichever is least calibrated; hence the tempered logits.
    """

    def combine(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Map [M, N, C] to [N, C]."""
        return normalised((probabilities * present[:, :, None]).amax(dim=0))


@ENSEMBLES.register("max")
def max_() -> Max:
    """Highest probability of each class over the members, renormalised."""
    return Max()
