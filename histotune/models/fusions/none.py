"""No fusion: one branch's pooled vector is the joint vector."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from histotune.errors import ConfigError, suggest
from histotune.models.backbones import BackboneOutput, Widths
from histotune.models.fusions._base import FUSIONS, Fusion, only_present


class NoFusion(Fusion):
    """Passes the pooled vector of one branch on and leaves others out; a case without that modality becomes zeros."""

    def __init__(self, branch: str, width: int) -> None:
        super().__init__()
        self.branch = branch
        self.embedding_dims = {branch: width}
        self.out_dim = width

    def embed(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map {branch: pooled [B, D]} to {branch: [B, D]}."""
        return {self.branch: only_present(branches[self.branch].pooled, present[self.branch])}

    def join(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return the only embedding, [B, D]."""
        return embeddings[self.branch]


@FUSIONS.register("none")
def none(widths: Mapping[str, Widths], *, branch: str = "") -> NoFusion:
    """One branch, nothing to join; of several, the one called `branch`: the others are no part of the network."""
    if branch and branch not in widths:
        raise ConfigError(f"fusion 'none': there is no branch {branch!r}. {suggest(branch, sorted(widths))}")
    if not branch and len(widths) != 1:
        raise ConfigError(
            f"fusion 'none' takes one branch, got {sorted(widths)}: choose a fusion that joins them, or set "
            "model.fusion.branch to the one to keep"
        )
    kept = branch or next(iter(widths))
    return NoFusion(kept, widths[kept].pooled)
