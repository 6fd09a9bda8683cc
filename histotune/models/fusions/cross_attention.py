"""Cross-attention between branches' tokens, in one direction or in both."""

from __future__ import annotations

from collections.abc import Mapping

from histotune.core.parameters import YES_OR_NO
from histotune.models.backbones import Widths
from histotune.models.fusions._base import FUSIONS
from histotune.models.fusions._cross import SHARED_RANGES, CrossFusion, CrossOptions


@FUSIONS.register(
    "cross_attention",
    ranges={**SHARED_RANGES, "residual": YES_OR_NO},
    source="Vaswani et al., 2017 (attention); arXiv 2503.02849 (image and genes)",
)
def cross_attention(
    widths: Mapping[str, Widths],
    *,
    dim: int = 256,
    heads: int = 8,
    layers: int = 1,
    expansion: float = 0.0,
    dropout: float = 0.1,
    pool: str = "mean",
    direction: str = "both",
    residual: bool = True,
) -> CrossFusion:
    """Branches attend to each other's tokens; `direction` both, or `a->b`: a asks b and is passed on alone.

    With a single answering token and without `residual`, the asking branch has no influence: all weights are 1. The
    released code of arXiv 2503.02849 is of that kind.
    """
    options = CrossOptions(dim, heads, layers, expansion, dropout, pool, direction=direction, residual=residual)
    return CrossFusion("cross_attention", widths, options)
