"""Columns of a table as tokens: each of G groups has a linear map of its own, so that attention can tell them apart."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from histotune.core.parameters import Interval, OneOf
from histotune.errors import ConfigError
from histotune.models.backbones._base import BACKBONES, Backbone, BackboneInput, BackboneOutput, Widths, row_width
from histotune.models.backbones._pool import TokenPool

_ACTIVATIONS = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU}


class Chunks(nn.Module):
    """Neighbouring columns, `size` at a time, each chunk through a linear map of its own; initialised as `nn.Linear`.

    A chunk's bias is what a learned embedding of its token would be.
    """

    def __init__(self, count: int, size: int, dim: int) -> None:
        super().__init__()
        bound = size**-0.5
        self.weight = nn.Parameter(torch.empty(count, size, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, dim).uniform_(-bound, bound))

    def forward(self, columns: Tensor) -> Tensor:
        """Map [B, count * size] to [B, count, dim]."""
        chunks = columns.unflatten(1, self.weight.shape[:2])
        return torch.einsum("bcs,csd->bcd", chunks, self.weight) + self.bias


class GeneTokens(Backbone):
    """A token for every chunk of columns; chunks differ by one column at most, and the larger ones come first."""

    dense = True

    def __init__(self, columns: int, tokens: int, dim: int, pool: str, layers: nn.Module) -> None:
        super().__init__()
        size, larger = divmod(columns, tokens)
        self.split = [larger * (size + 1), (tokens - larger) * size]  # columns
        groups = [(larger, size + 1), (tokens - larger, size)]
        self.sizes = [columns for count, columns in groups for _ in range(count)]  # of every token
        self.chunks = nn.ModuleList(Chunks(count, size, dim) for count, size in groups if count)
        self.layers = layers
        self.pool = TokenPool(dim, pool)
        self.widths = Widths(token=dim, pooled=dim)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of which features every token is: from the first up to, not with, the second."""
        stops = list(itertools.accumulate(self.sizes))
        return list(zip([0, *stops[:-1]], stops, strict=True))

    def forward(self, batch: Tensor) -> BackboneOutput:
        """Map tables [B, F] to tokens [B, G, dim] and pooled [B, dim]."""
        parts = [part for part in batch.split(self.split, dim=1) if part.shape[1]]
        mapped = [chunks(part) for chunks, part in zip(self.chunks, parts, strict=True)]
        tokens = self.layers(torch.cat(mapped, dim=1))
        return BackboneOutput(tokens, self.pool(tokens))


@BACKBONES.register(
    "gene_tokens",
    kinds=("table",),
    ranges={
        "tokens": Interval(1, 4096, whole=True),
        "dim": Interval(1, 4096, whole=True),
        "dropout": Interval(0, 1, open_high=True),
        "activation": OneOf(*_ACTIVATIONS),
        "pool": OneOf("mean", "attention"),
    },
    source="arXiv 2503.02849 (genes as keys and values of an attention; one token in its released code)",
)
def gene_tokens(
    given: BackboneInput,
    *,
    tokens: int = 16,
    dim: int = 256,
    dropout: float = 0.25,
    activation: str = "relu",
    pool: str = "mean",
) -> GeneTokens:
    """Columns of a table cut into `tokens` equal chunks, each through a linear map of its own, for cross-attention.

    Args:
        given: number of columns; a number that `tokens` does not divide makes the first chunks one column larger.
        tokens: chunks, such as 1, 16, 32 or 64. With 1, attention over it has no choice: its weight is always 1.
        dim: width of a token.
        dropout: of the tokens' features.
        activation: after the norm of every token; `none` leaves a token linear up to its norm.
        pool: how tokens become one vector, `mean` or gated `attention`.

    Raises:
        ConfigError: there are fewer columns than tokens.
    """
    columns = row_width("gene_tokens", given)
    if tokens > columns:
        raise ConfigError(
            f"backbone 'gene_tokens' cannot cut {columns} columns into {tokens} tokens: set tokens to {columns} at most"
        )
    layers = nn.Sequential(nn.LayerNorm(dim), _ACTIVATIONS[activation](), nn.Dropout(dropout))
    return GeneTokens(columns, tokens, dim, pool, layers)
