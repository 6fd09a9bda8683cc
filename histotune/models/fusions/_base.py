"""The contract of a fusion: the branches' outputs become one vector per case."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from histotune.core.registry import Registry
from histotune.errors import ConfigError
from histotune.models.backbones import BackboneOutput, Widths
from histotune.models.heads import Head
from histotune.models.losses import Objective

AttentionMaps = Mapping[tuple[str, str], Tensor]
"""{(asking branch, answering branch): weights [B, heads, Tq, Tk]}; an asking token shares out 1 over all answers.

Tokens that are padding share out 0 and get 0.
"""


class Fusion(nn.Module):
    """Joins the outputs of named branches into one vector per case; the mapping's order has no meaning.

    It works in two steps: `embed` gives every branch one vector, perhaps with attention to the others; `join` makes
    one of them all. The vectors between the two are the input of auxiliary losses and analyses.
    A builder takes `widths: Mapping[str, Widths]` (by branch) and keyword parameters; it reads shapes, not
    numbers, since the check of a space builds it without any.

    Attributes:
        embedding_dims: width D_b of every branch's vector.
        out_dim: width D of the joint vector.
    """

    embedding_dims: Mapping[str, int]
    out_dim: int

    def embed(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map {branch: tokens [B, T, Dt], pooled [B, Dp]} to {branch: [B, D_b]}.

        Args:
            branches: output of every branch, also where its modality is absent (its values then have no meaning).
            present: {branch: bool [B]}; a case without a modality must not depend on that branch's values.
        """
        raise NotImplementedError

    def join(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Map {branch: [B, D_b]} as `embed` gives them to [B, out_dim]."""
        raise NotImplementedError

    def forward(self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor]) -> Tensor:
        """Map {branch: tokens [B, T, Dt], pooled [B, Dp]} to [B, out_dim]."""
        return self.join(self.embed(branches, present), present)

    def objective(self, build: Callable[[str, int], Head]) -> Objective | None:
        """Return the objective over the joint vector where branches decide for themselves; None: one common head.

        Args:
            build: is called with a branch and the width of its vector, and returns a head of the configuration over
                it, with a loss of its own.
        """
        return None

    def attention(
        self, branches: Mapping[str, BackboneOutput], present: Mapping[str, Tensor], temperature: float | None = None
    ) -> list[AttentionMaps]:
        """Return the attention weights, layer by layer; none where the fusion has no attention.

        With a `temperature`: the weights if a layer's heads had that one, after layers that keep their own.
        """
        return []

    def temperatures(self) -> list[dict[str, Tensor]]:
        """Return the temperatures [heads] of every branch that asks, layer by layer, as `attention` has the layers."""
        return []

    def set_progress(self, fraction: float) -> None:
        """Record that `fraction` of the training, in [0, 1], is done; an annealed fusion overrides it."""


def only_present(values: Tensor, present: Tensor) -> Tensor:
    """Replace the values [B, ...] of cases without this modality (bool [B]) by zeros, also where they are NaN."""
    return torch.where(present.view(-1, *[1] * (values.dim() - 1)), values, torch.zeros_like(values))


def unpadded(output: BackboneOutput, present: Tensor) -> Tensor:
    """Return which tokens of a branch take part in attention, bool [B, T].

    All of them, but no padding; a case without any of its own, or without the modality, keeps its first
    token: nothing then depends on how long the longest case of a batch is.
    """
    if output.there is None:
        return torch.ones(output.tokens.shape[:2], dtype=torch.bool, device=output.tokens.device)
    there = output.there & present[:, None]
    first = torch.arange(there.shape[1], device=there.device) == 0
    return there | (first & ~there.any(dim=1, keepdim=True))


def shares(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax of scores [B, N, ...] over the N branches, of which only those present (bool [B, N]) get a share."""
    absent = ~present.view(*present.shape, *[1] * (scores.dim() - 2))
    return scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(dim=1)


def several(fusion: str, widths: Mapping[str, Widths]) -> list[str]:
    """Return the names of at least two branches, sorted.

    Raises:
        ConfigError: there is one.
    """
    if len(widths) < 2:
        raise ConfigError(
            f"fusion {fusion!r} joins at least two branches, got {sorted(widths)}: add one to model.branches, or take "
            "the fusion 'none'"
        )
    return sorted(widths)


def common_width(fusion: str, what: str, widths: Mapping[str, int], dim: int) -> int:
    """Return `dim`, or where that is 0 the width that all branches have.

    Raises:
        ConfigError: it is 0 and their widths differ.
    """
    if not dim and len(set(widths.values())) > 1:
        message = ", ".join(f"{name} {width}" for name, width in sorted(widths.items()))
        raise ConfigError(
            f"fusion {fusion!r} with dim 0 keeps the branches' own {what}, whose widths differ and cannot be joined "
            f"({message}): set model.fusion.dim to project them, such as {max(widths.values())}"
        )
    return dim or next(iter(widths.values()))


def linear_maps(widths: Mapping[str, int], dim: int) -> nn.ModuleDict:
    """Return a linear map of every branch's pooled vector to `dim`; 0 passes them on as they are."""
    return nn.ModuleDict({name: nn.Linear(width, dim) if dim else nn.Identity() for name, width in widths.items()})


FUSIONS: Registry[Fusion] = Registry("fusion", "histotune.models.fusions")
