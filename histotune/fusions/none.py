"""No fusion: the one branch's pooled vector is the joint vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from histotune.backbones import BackboneOutput, Widths
from histotune.errors import ConfigError
from histotune.fusions._base import FUSIONS, Fusion


class NoFusion(Fusion):
    """Passes the pooled vector of the only branch on; a case without that modality becomes zeros."""

    def __init__(self, branch: str, width: int) -> None:
        super().__init__()
        self.branch = branch
        self.out_dim = width

    def forward(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> Tensor:
        """Map {branch: pooled [B, D]} to [B, D]."""
        pooled = branches[self.branch].pooled
        return torch.where(present[self.branch][:, None], pooled, torch.zeros_like(pooled))


@FUSIONS.register("none")
def none(widths: Mapping[str, Widths]) -> NoFusion:
    """One branch, nothing to join."""
    if len(widths) != 1:
        raise ConfigError(f"fusion 'none' takes one branch, got {sorted(widths)}: choose a fusion that joins them")
    (branch,) = widths
    return NoFusion(branch, widths[branch].pooled)
