"""The contract of a redundancy term: what the branches' embeddings share becomes a loss."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from histotune.core.parameters import Interval
from histotune.core.registry import Registry
from histotune.errors import ConfigError

WEIGHT = Interval(0)


class Redundancy(nn.Module):
    """`weight` times the mean over all pairs of branches of `between`; a subclass writes `between`.

    A builder takes `dims: Mapping[str, int]`, the width of every branch's embedding, and keyword parameters.

    Attributes:
        least_cases: in a batch, for the term to mean anything; with fewer of them it is 0.

    Raises:
        ConfigError: there is one branch.
    """

    least_cases: int = 1

    def __init__(self, name: str, dims: Mapping[str, int], weight: float) -> None:
        super().__init__()
        if len(dims) < 2:
            raise ConfigError(
                f"redundancy {name!r} is what two branches share, and there is one, {sorted(dims)}: set "
                "model.redundancy to none, or add a branch"
            )
        self.weight = weight
        self.pairs = list(itertools.combinations(sorted(dims), 2))

    def forward(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Map {branch: [B, D_b]} and who has which modality {branch: bool [B]} to a scalar, float32 (or float64)."""
        with torch.autocast(next(iter(embeddings.values())).device.type, enabled=False):
            exact = {name: e if e.dtype == torch.float64 else e.float() for name, e in embeddings.items()}
            terms = []
            for one, other in self.pairs:
                there = (present[one] & present[other]).to(exact[one].dtype)  # [B]
                terms.append(self.between(exact, (one, other), there))
            return self.weight * torch.stack(terms).mean()

    def between(self, embeddings: Mapping[str, Tensor], pair: tuple[str, str], there: Tensor) -> Tensor:
        """Return the term of one pair, a scalar, over the cases where `there` [B] is 1; the others are finite."""
        raise NotImplementedError


def centred(values: Tensor, there: Tensor) -> Tensor:
    """Subtract the mean of the cases that are there from values [B, D]; the others become 0."""
    mean = (there[:, None] * values).sum(dim=0) / there.sum().clamp_min(1)
    return there[:, None] * (values - mean)


REDUNDANCIES: Registry[Redundancy] = Registry("redundancy", "histotune.models.redundancies")


def build_redundancy(name: str, params: Mapping[str, Any], dims: Mapping[str, int], branches: int) -> Redundancy:
    """Build the term of a model; where the fusion uses only one of its several branches, nothing is shared.

    So a space may search over fusions and `none` together with redundancies. For a model of one branch it is an error.

    Args:
        dims: width of the embedding of every branch that the fusion uses.
        branches: of the model.

    Raises:
        ConfigError: an unknown name or parameter, or a term for a model of one branch.
    """
    REDUNDANCIES.check(name, params)
    if len(dims) == 1 and branches > 1:
        return REDUNDANCIES.build("none", dims)
    return REDUNDANCIES.build(name, dims, **params)
