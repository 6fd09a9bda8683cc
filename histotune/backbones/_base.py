"""The contract of a backbone: one modality's batch becomes tokens and a pooled vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from histotune.registry import Registry


class BackboneOutput(NamedTuple):
    """tokens [B, T, Dt] (image positions, patches, gene groups) and pooled [B, Dp].

    What `pooled` knows of the positions it has from this very tensor `tokens`, so that a gradient finds the way back.
    """

    tokens: Tensor
    pooled: Tensor


class Widths(NamedTuple):
    """Widths that a backbone promises: of one token and of the pooled vector."""

    token: int
    pooled: int


@dataclass(frozen=True)
class BackboneInput:
    """What the program provides to build a backbone: the shape of one case of its modality.

    Args:
        shape: (channels, height, width) for images, (features,) for tables.
    """

    shape: tuple[int, ...]


class Backbone(nn.Module):
    """Maps a batch of one modality to tokens and a pooled vector.

    Image batches arrive as float [B, C, H, W], standardised by the training part's channel statistics.

    Attributes:
        widths: (Dt, Dp), known as soon as the backbone is built.
        grid: rows and columns of the image positions that the tokens are, row by row; None where a backbone's tokens
            are no positions, or where it does not know which.
        convolutional: whether a token sees its surroundings through convolutions only.
        dense: whether nearly all its work is dense convolutions or matrix products, so that bfloat16 also pays on a
            CPU that has it; depthwise convolutions get slower there.
    """

    widths: Widths
    grid: tuple[int, int] | None = None
    convolutional: bool = False
    dense: bool = False

    def forward(self, batch: Tensor) -> BackboneOutput:
        """Map [B, ...] to tokens [B, T, Dt] and pooled [B, Dp]."""
        raise NotImplementedError


BACKBONES: Registry[Backbone] = Registry("backbone", "histotune.backbones")
