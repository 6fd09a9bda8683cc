"""The contract of a backbone: one modality's batch becomes tokens and a pooled vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from histotune.core.registry import Registry
from histotune.errors import ConfigError


class BackboneOutput(NamedTuple):
    """tokens [B, T, Dt] (image positions, patches, gene groups) and pooled [B, Dp].

    `pooled` is computed from this very tensor `tokens`, so that gradients of it reach the tokens.
    Where cases have different numbers of tokens, `there` (bool [B, T]) is False for padding; None: nothing is padded.
    """

    tokens: Tensor
    pooled: Tensor
    there: Tensor | None = None

    def part(self, cases: slice) -> BackboneOutput:
        """Return the output of some of the cases."""
        there = None if self.there is None else self.there[cases]
        return BackboneOutput(self.tokens[cases], self.pooled[cases], there)


class Widths(NamedTuple):
    """Widths that a backbone promises: of one token and of the pooled vector."""

    token: int
    pooled: int


@dataclass(frozen=True)
class BackboneInput:
    """What the program provides to build a backbone: the shape of one case of its modality.

    Args:
        shape: (channels, height, width) for images, (features,) for tables, and of one instance for bags and graphs.
        kind: kind of the modality, such as `image`.
    """

    shape: tuple[int, ...]
    kind: str = "image"


class Backbone(nn.Module):
    """Maps a batch of one modality to tokens and a pooled vector.

    Image batches arrive as float [B, C, H, W], tables as float [B, F], bags and graphs as `Bag`; all standardised by
    what was fitted on the training part. A case without the modality has any finite values.

    Attributes:
        widths: (Dt, Dp), known as soon as the backbone is built.
        grid: rows and columns of the image positions that the tokens are, row by row; None where a backbone's tokens
            are no positions, or where their order is unknown.
        convolutional: whether a token sees its surroundings through convolutions only.
        dense: whether nearly all its work is dense convolutions or matrix products, so that bfloat16 also pays on a
            CPU that has it; depthwise convolutions get slower there.
    """

    widths: Widths
    grid: tuple[int, int] | None = None
    convolutional: bool = False
    dense: bool = False

    def forward(self, batch: Any) -> BackboneOutput:
        """Map a batch of the modality to tokens [B, T, Dt] and pooled [B, Dp]."""
        raise NotImplementedError

    def last_mixing(self) -> tuple[nn.Module, int] | None:
        """Return the layer after which the positions last reach a class token, and how many tokens precede them.

        Its output is [B, preceding + T, D]. Where `pooled` is read from class tokens alone, no position of `tokens`
        reaches it any more, and a saliency map is taken there. None where there is no such layer, or nobody knows it.
        """
        return None


BACKBONES: Registry[Backbone] = Registry("backbone", "histotune.models.backbones")
IMAGES = ("image",)  # what a backbone reads unless it names other kinds


def build_backbone(name: str, modality: str, given: BackboneInput, **params: Any) -> Backbone:
    """Build a backbone for a modality.

    Raises:
        ConfigError: unknown name or parameter, or a backbone for another kind of modality; offers those that fit.
    """
    check_kind(name, modality, given.kind)
    return BACKBONES.build(name, given, **params)


def check_kind(name: str, modality: str, kind: str) -> None:
    """Check that a backbone reads modalities of this kind.

    Raises:
        ConfigError: it does not, or the name is unknown; offers those that do.
    """
    kinds = BACKBONES.entry(name).kinds or IMAGES
    if kind not in kinds:
        raise ConfigError(
            f"backbone {name!r} reads {' or '.join(kinds)}, but modality {modality!r} is of kind {kind}: choose "
            f"one of {', '.join(reading(kind))}"
        )


def reading(kind: str) -> list[str]:
    """Return the names of all backbones that read a kind of modality, sorted."""
    return [name for name in BACKBONES.names() if kind in (BACKBONES.entry(name).kinds or IMAGES)]


def row_width(name: str, given: BackboneInput) -> int:
    """Return the number of features of a case of a table, or of an instance.

    Raises:
        ConfigError: it is no row of features.
    """
    if len(given.shape) != 1 or given.shape[0] < 1:
        raise ConfigError(f"backbone {name!r} reads rows of features (features,), got shape {given.shape}")
    return given.shape[0]
