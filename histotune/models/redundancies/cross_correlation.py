"""Cross-correlation between the features of two branches."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from histotune.models.redundancies._base import REDUNDANCIES, WEIGHT, Redundancy, centred

_FLAT = 1e-6  # length of a centred feature below which it counts as constant


class CrossCorrelation(Redundancy):
    """mean_{ab} corr(x_a, y_b)^2 over the batch: no feature of one branch should foretell one of the other linearly."""

    least_cases = 2

    def between(self, embeddings: Mapping[str, Tensor], pair: tuple[str, str], there: Tensor) -> Tensor:
        """Return the mean squared correlation, in [0, 1]; a constant feature correlates with nothing."""
        one, other = (functional.normalize(centred(embeddings[name], there), dim=0, eps=_FLAT) for name in pair)
        return (one.T @ other).square().mean()


@REDUNDANCIES.register(
    "cross_correlation", ranges={"weight": WEIGHT}, source="Zbontar et al., 2021 (Barlow Twins), between branches"
)
def cross_correlation(dims: Mapping[str, int], *, weight: float = 0.1) -> CrossCorrelation:
    """Mean squared correlation of each feature of one branch with each of the other, over the batch."""
    return CrossCorrelation("cross_correlation", dims, weight)
