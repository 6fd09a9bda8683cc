"""Attention from one branch's tokens to another's, with a temperature on each head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

COLDEST, HOTTEST = 0.05, 5.0
MODES = ("learnable", "fixed", "annealed")


class Temperature(nn.Module):
    """tau of every head, within [0.05, 5].

    Args:
        heads: how many.
        value: where a learnable one starts, what a fixed one is, where an annealed one ends.
        mode: `learnable`, `fixed`, or `annealed`: geometrically from `start` to `value` over the training.
        start: where an annealed one starts.
    """

    log_tau: Tensor

    def __init__(self, heads: int, value: float, mode: str, start: float) -> None:
        super().__init__()
        self.mode, self.ends = mode, (math.log(start), math.log(value))
        log_tau = torch.full((heads,), self.ends[0] if mode == "annealed" else self.ends[1])
        if mode == "learnable":
            self.log_tau = nn.Parameter(log_tau)
        else:
            self.register_buffer("log_tau", log_tau)  # saved: the best epoch's may lie on the way

    def forward(self) -> Tensor:
        """Return tau, [heads]."""
        return self.log_tau.exp().clamp(COLDEST, HOTTEST)

    def set_progress(self, fraction: float) -> None:
        """Go `fraction` of the way from start to end, where it is annealed."""
        if self.mode == "annealed":
            start, end = self.ends
            self.log_tau.fill_(start + fraction * (end - start))


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
