"""The contract of a fusion: what the branches saw becomes one vector per case."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from histotune.backbones import BackboneOutput
from histotune.registry import Registry


class Fusion(nn.Module):
    """Joins the outputs of named branches into one vector per case; the mapping's order has no meaning.

    A builder takes `widths: Mapping[str, Widths]` (by branch) and keyword parameters.

    Attributes:
        out_dim: width D of the joint vector.
    """

    out_dim: int

    def forward(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> Tensor:
        """Map {branch: tokens [B, T, D_b], pooled [B, D_b]} to [B, out_dim].

        Args:
            branches: output of every branch, also where its modality is absent (its values then have no meaning).
            present: {branch: bool [B]}; a case without a modality must not depend on that branch's values.
        """
        raise NotImplementedError


FUSIONS: Registry[Fusion] = Registry("fusion", "histotune.fusions")
