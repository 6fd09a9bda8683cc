"""CMAF, after the abstract: cross-attention both ways with a temperature, and a gate between the branches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from histotune.models.backbones import Widths
from histotune.models.fusions._base import FUSIONS, shares
from histotune.models.fusions._cross import SHARED_RANGES, TEMPERATURE_RANGES, CrossFusion, CrossOptions


class Cmaf(CrossFusion):
    """Cross-attention in all directions; the joint vector is a mixture of the branches, feature by feature.

    z = sum_b g_b z_b with g = softmax over the branches of W [z_1; ...; z_N]: for two branches a sigmoid,
    z = g z_1 + (1 - g) z_2. The paper's equations are not public: this is built after its abstract.
    """

    def __init__(self, widths: Mapping[str, Widths], options: CrossOptions) -> None:
        super().__init__("cmaf", widths, options)
        self.gate = nn.Linear(self.out_dim, self.out_dim)
        self.out_dim //= len(self.asking)

    def join(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return the mixture of the branches that are present, [B, D]."""
        every = torch.stack([embeddings[name] for name in self.asking], dim=1)  # [B, branches, D]
        there = torch.stack([present[name] for name in self.asking], dim=1)
        gates = shares(self.gate(every.flatten(1)).view_as(every), there)
        return (gates * every).sum(dim=1)


@FUSIONS.register(
    "cmaf",
    ranges={**SHARED_RANGES, **TEMPERATURE_RANGES},
    source="after the abstract of CMAF-Net, doi 10.1038/s41598-025-32794-1; its equations are not public",
)
def cmaf(
    widths: Mapping[str, Widths],
    *,
    dim: int = 256,
    heads: int = 8,
    layers: int = 1,
    expansion: float = 2.0,
    dropout: float = 0.1,
    pool: str = "mean",
    temperature: float = 1.0,
    temperature_mode: str = "learnable",
    start_temperature: float = 2.0,
) -> Cmaf:
    """CMAF after the abstract: cross-attention both ways at a `temperature` per head, and a gate over the branches."""
    options = CrossOptions(
        dim,
        heads,
        layers,
        expansion,
        dropout,
        pool,
        temperature=temperature,
        temperature_mode=temperature_mode,
        start_temperature=start_temperature,
    )
    return Cmaf(widths, options)
