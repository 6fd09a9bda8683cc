"""Attention from one branch's tokens to another's, with a temperature on each head."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from histotune.models.bounded import bounded, unbounded

COLDEST, HOTTEST = 0.05, 5.0
_ENDS = (math.log(COLDEST), math.log(HOTTEST))
_MARGIN = 0.25  # of log tau at each end: tau is free between 0.064 and 3.9, and slower to move beyond
_LEAST, _LEAST_LOADED = 0.02, 1e-6  # distance of log tau from an end: where training begins; as it is loaded
MODES = ("learnable", "fixed", "annealed")


class Temperature(nn.Module):
    """tau of every head, within [0.05, 5].

    A learnable one is bounded smoothly: at an end it still has a gradient, and comes back.

    Args:
        heads: how many.
        value: where a learnable one starts, what a fixed one is, where an annealed one ends.
        mode: `learnable`, `fixed`, or `annealed`: geometrically from `start` to `value` over the training.
        start: where an annealed one starts.
    """

    log_tau: Tensor
    raw_log_tau: Tensor

    def __init__(self, heads: int, value: float, mode: str, start: float) -> None:
        super().__init__()
        self.mode, self.ends = mode, (math.log(start), math.log(value))
        log_tau = torch.full((heads,), self.ends[0] if mode == "annealed" else self.ends[1])
        if mode == "learnable":
            self.raw_log_tau = nn.Parameter(unbounded(log_tau, *_ENDS, _MARGIN, least=_LEAST))
        else:
            self.register_buffer("log_tau", log_tau)  # saved: the best epoch's may lie on the way

    def forward(self) -> Tensor:
        """Return tau, [heads]."""
        if self.mode == "learnable":
            return bounded(self.raw_log_tau, *_ENDS, _MARGIN).exp()
        return self.log_tau.exp().clamp(COLDEST, HOTTEST)

    def set_progress(self, fraction: float) -> None:
        """Go `fraction` of the way from start to end, where it is annealed."""
        if self.mode == "annealed":
            start, end = self.ends
            self.log_tau.fill_(start + fraction * (end - start))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take up weights of version 0.2 or earlier, too, where `log_tau` was learned and cut off at the ends."""
        if self.mode == "learnable" and f"{prefix}log_tau" in state_dict:
            log_tau = state_dict.pop(f"{prefix}log_tau")
            state_dict[f"{prefix}raw_log_tau"] = unbounded(log_tau, *_ENDS, _MARGIN, least=_LEAST_LOADED)
        super()._load_from_state_dict(state_dict, prefix, *args)


class CrossAttention(nn.Module):
    """softmax(Q K^T / (tau sqrt(d))) V with queries from one branch, keys and values from others.

    Vaswani et al., 2017, with a temperature: above 1 it spreads the attention, below 1 it sharpens it.
    """

    def __init__(self, dim: int, heads: int, dropout: float, temperature: Temperature) -> None:
        super().__init__()
        self.heads, self.dropout, self.temperature = heads, dropout, temperature
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, asking: Tensor, answering: Tensor, there: Tensor | None = None) -> Tensor:
        """Map tokens [B, Tq, D] that ask and [B, Tk, D] that answer to [B, Tq, D].

        Args:
            asking: one vector of each token that asks.
            answering: one vector of each token that answers.
            there: bool [B, Tk], at least one of each case: the others do not answer; None: all do.
        """
        query, key, value = self._split(asking, answering)
        dropout = self.dropout if self.training else 0.0
        mask = None if there is None else there[:, None, None]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        projected: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return projected

    def weights(
        self, asking: Tensor, answering: Tensor, temperature: float | None = None, there: Tensor | None = None
    ) -> Tensor:
        """Return the weight of each answering token for each asking one, [B, heads, Tq, Tk], rows of sum 1.

        `temperature` takes the place of every head's own; `there` is as `forward` takes it.
        """
        query, key, _ = self._split(asking, answering)
        if temperature is not None:
            query = query * (self.temperature() / temperature)[:, None, None]
        scores = query @ key.transpose(-2, -1) / math.sqrt(key.shape[-1])
        if there is not None:
            scores = scores.masked_fill(~there[:, None, None], -torch.inf)
        return scores.softmax(dim=-1)

    def _split(self, asking: Tensor, answering: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries over tau, keys and values, each [B, heads, T, D / heads]."""
        query = self.query(asking).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(answering).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query / self.temperature().to(query.dtype)[:, None, None], key, value
