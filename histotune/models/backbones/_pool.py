"""Tokens of a case -> one vector: mean, maximum, gated attention, or the k tokens of highest score."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from histotune.core.parameters import Allowed, Interval, OneOf

POOL_RANGES: Mapping[str, Allowed] = {
    "pool": OneOf("mean", "max", "attention", "top_k"),
    "hidden": Interval(1, 4096, whole=True),
    "k": Interval(1, 4096, whole=True),
}


class TokenPool(nn.Module):
    """Tokens [B, T, D] -> one vector [B, D], a weighted mean of them, or their maximum.

    Args:
        dim: width D of a token.
        kind: `mean`; `max`, feature by feature; `attention`, gated (Ilse et al., 2018): softmax of
            w (tanh(V x) * sigmoid(U x)); `top_k`: the same softmax among the k tokens of highest score alone.
        hidden: rows of V and of U; 0 takes `dim`.
        k: tokens that have a vote, with `top_k`.
    """

    def __init__(self, dim: int, kind: str, *, hidden: int = 0, k: int = 0) -> None:
        super().__init__()
        self.kind, self.k = kind, k
        scored = kind in ("attention", "top_k")
        self.hidden = nn.Linear(dim, 2 * (hidden or dim)) if scored else None
        self.score = nn.Linear(hidden or dim, 1) if scored else None

    def forward(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        """Map [B, T, D] to [B, D]; `there` (bool [B, T], None: all) leaves tokens out, and of none comes zero."""
        if self.kind == "max":
            return self._maximum(tokens, there)[0]
        if self.kind == "mean" and there is None:
            return tokens.mean(dim=1)
        return (self._shares(tokens, there)[:, :, None] * tokens).sum(dim=1)

    def weights(self, tokens: Tensor, there: Tensor | None = None) -> Tensor:
        """Return each token's share of the vector, [B, T] of sum 1, or 0 of no token; of a maximum, its features."""
        if self.kind != "max":
            return self._shares(tokens, there)
        places = self._maximum(tokens, there)[1]  # [B, D]
        won = torch.zeros(tokens.shape[:2], device=tokens.device)
        won.scatter_add_(1, places, torch.full(places.shape, 1 / tokens.shape[2], device=tokens.device))
        return won if there is None else won * there

    def _maximum(self, tokens: Tensor, there: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the greatest value of every feature and the place of its token, [B, D] each."""
        if there is None:
            values, places = tokens.max(dim=1)
            return values, places
        values, places = tokens.masked_fill(~there[:, :, None], torch.finfo(tokens.dtype).min).max(dim=1)
        return values.where(there.any(dim=1, keepdim=True), torch.zeros_like(values)), places

    def _shares(self, tokens: Tensor, there: Tensor | None) -> Tensor:
        """Return weights [B, T] of sum 1, or 0 of no token."""
        if self.hidden is None or self.score is None:
            every = torch.ones_like(tokens[:, :, 0]) if there is None else there.to(tokens.dtype)
            return every / every.sum(dim=1, keepdim=True).clamp_min(1)
        message, gate = self.hidden(tokens).chunk(2, dim=-1)
        scores = self.score(message.tanh() * gate.sigmoid()).squeeze(-1)  # [B, T]
        lowest = torch.finfo(scores.dtype).min
        if there is not None:
            scores = scores.masked_fill(~there, lowest)
        if self.kind == "top_k":
            best = scores.topk(min(self.k, scores.shape[1]), dim=1).indices
            voting = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)
            scores = scores.masked_fill(~voting, lowest)
        shares = scores.softmax(dim=1)
        return shares if there is None else shares * there
