"""Mean of the branches' pooled vectors, before one common head; which version 0.2 called `late`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from histotune.core.parameters import Interval, OneOf
from histotune.models.backbones import BackboneOutput, Widths
from histotune.models.fusions._base import FUSIONS, Fusion, common_width, linear_maps, only_present, several, shares


class MeanEmbedding(Fusion):
    """Mean of the branches' pooled vectors, each through a linear map of its own; absent branches have no share.

    Before a linear head alone that is the mean of logits that the branches would have, W sum_b s_b P_b x_b = sum_b s_b
    (W P_b) x_b; before a norm, a cosine or a distance it is not. `late` averages what the branches predict, always.
    """

    scores: Tensor

    def __init__(self, names: list[str], widths: Mapping[str, Widths], dim: int, *, learned: bool) -> None:
        super().__init__()
        self.names = names
        pooled = {name: widths[name].pooled for name in names}
        self.out_dim = common_width("mean_embedding", "pooled vectors", pooled, dim)
        self.embedding_dims = dict.fromkeys(names, self.out_dim)
        self.maps = linear_maps(pooled, dim)
        if learned:
            self.scores = nn.Parameter(torch.zeros(len(names)))
        else:
            self.register_buffer("scores", torch.zeros(len(names)), persistent=False)

    def embed(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map {branch: pooled [B, D_b]} to {branch: [B, out_dim]}."""
        return {name: self.maps[name](only_present(branches[name].pooled, present[name])) for name in self.names}

    def join(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted mean over the branches that are present, [B, out_dim]."""
        every = torch.stack([embeddings[name] for name in self.names], dim=1)  # [B, branches, D]
        there = torch.stack([present[name] for name in self.names], dim=1)
        weights = shares(self.scores.expand(every.shape[0], -1), there).to(every.dtype)  # [B, branches]
        return (weights[:, :, None] * every).sum(dim=1)


@FUSIONS.register("mean_embedding", ranges={"dim": Interval(0, 4096, whole=True), "weights": OneOf("mean", "learned")})
def mean_embedding(widths: Mapping[str, Widths], *, dim: int = 128, weights: str = "mean") -> MeanEmbedding:
    """Mean of the branches' pooled vectors, mapped to `dim` (0: as is), before one head; `weights` mean or learned."""
    return MeanEmbedding(several("mean_embedding", widths), widths, dim, learned=weights == "learned")
