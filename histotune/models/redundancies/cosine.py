"""Squared cosine between the embeddings of a case."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from histotune.errors import ConfigError
from histotune.models.redundancies._base import REDUNDANCIES, WEIGHT, Redundancy

_SHORTEST = 1e-6  # an embedding below this length keeps a finite gradient


class Cosine(Redundancy):
    """mean_i cos(a_i, b_i)^2, for embeddings of one width."""

    def between(self, embeddings: Mapping[str, Tensor], pair: tuple[str, str], there: Tensor) -> Tensor:
        """Return the mean squared cosine, in [0, 1]."""
        one, other = (functional.normalize(embeddings[name], dim=1, eps=_SHORTEST) for name in pair)
        return (there * (one * other).sum(dim=1).square()).sum() / there.sum().clamp_min(1)


@REDUNDANCIES.register("cosine", ranges={"weight": WEIGHT})
def cosine(dims: Mapping[str, int], *, weight: float = 0.1) -> Cosine:
    """Mean squared cosine between two branches' embeddings of a case, which must be of one width."""
    if len(set(dims.values())) > 1:
        message = ", ".join(f"{name} {dim}" for name, dim in sorted(dims.items()))
        raise ConfigError(
            f"redundancy 'cosine' compares embeddings of one width, got {message}: take a fusion that projects them "
            "(late, mean_embedding, cross_attention or cmaf with a dim), or cross_correlation, hsic or club"
        )
    return Cosine("cosine", dims, weight)
