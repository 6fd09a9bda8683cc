"""Concatenation: the branches' pooled vectors side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from histotune.core.parameters import Interval
from histotune.models.backbones import BackboneOutput, Widths
from histotune.models.fusions._base import FUSIONS, Fusion, linear_maps, only_present, several


class Concat(Fusion):
    """The pooled vectors in the order of the branches' names; zeros stand for that of an absent one."""

    def __init__(self, names: list[str], widths: Mapping[str, Widths], dim: int) -> None:
        super().__init__()
        self.names = names
        pooled = {name: widths[name].pooled for name in names}
        self.maps = linear_maps(pooled, dim)
        self.embedding_dims = {name: dim or pooled[name] for name in names}
        self.out_dim = sum(self.embedding_dims.values())

    def embed(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map {branch: pooled [B, D_b]} to {branch: [B, D_b]}."""
        return {name: self.maps[name](only_present(branches[name].pooled, present[name])) for name in self.names}

    def join(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return [B, sum of the D_b]."""
        return torch.cat([embeddings[name] for name in self.names], dim=1)


@FUSIONS.register("concat", ranges={"dim": Interval(0, 4096, whole=True)})
def concat(widths: Mapping[str, Widths], *, dim: int = 0) -> Concat:
    """The branches' pooled vectors side by side, each mapped to `dim` (0: as it is)."""
    return Concat(several("concat", widths), widths, dim)
