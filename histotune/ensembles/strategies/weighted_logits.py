"""Loosely coupled members: a weight for every member and class, fitted to held-out logits; no network is trained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from histotune.core.parameters import Interval
from histotune.ensembles.strategies._base import ENSEMBLES, Ensemble
from histotune.ensembles.strategies._log_scores import centred, minimise
from histotune.errors import DataError

APART = 0.1  # share by which the two columns of two classes begin apart
SOFT = 0.05  # |w| is taken as sqrt(w^2 + .05^2): without a kink at 0 the fit has one way down
_EVERY = 6  # members up to which all subsets are taken; beyond, each case draws some
_DRAWS = 32
_SEED = 0


class WeightedLogits(Ensemble):
    """softmax(sum_m w_m z_m + b), z_m the centred log-probabilities of member m; WLB of arXiv 2509.03408, WL without b.

    Where members are missing, the sum of those that are there is multiplied, class by class, by the sum of all s_m over
    the sum of the s_m of those that are there, s_m = sqrt(w_m^2 + .05^2), so that one member alone speaks as loudly as
    all together would. (With the weights themselves in place of s, as one would read the paper, weights of both signs
    may sum to 0, and what is made up grows without bound.) `fit` minimises the expected cross-entropy when every member
    that is there is withheld with probability `dropout` (one at least stays), plus `shrink` times the squared distance
    of the weights from 1/M: with few members the expectation is a sum over all subsets, so that nothing is left to
    chance. All weights begin at 1/M; of two classes, whose centred scores mirror each other, one column begins a little
    above and one below: descent never leaves equal columns, where the expectation often has a saddle.
    """

    learns = True

    def __init__(self, *, bias: bool, dropout: float, shrink: float) -> None:
        self._with_bias, self._dropout, self._shrink = bias, dropout, shrink
        self._weights: Tensor | None = None  # [M, C]
        self._bias = torch.zeros(0, dtype=torch.float64)  # [C]

    def learn(self, probabilities: Tensor, present: Tensor, labels: Tensor) -> None:
        """Fit (M + 1) C numbers, or M C without a bias."""
        members, _, classes = probabilities.shape
        scores = centred(probabilities)
        weights = torch.full((members, classes), 1 / members, dtype=torch.float64)
        if classes == 2:
            weights *= 1 + APART * torch.tensor([1.0, -1.0], dtype=torch.float64)
        weights.requires_grad_()
        bias = torch.zeros(classes, dtype=torch.float64, requires_grad=self._with_bias)
        masks, chances = _withheld(present | ~present.any(dim=0), self._dropout)  # [S, M, N], [S, N]
        every = labels.repeat(len(masks))  # [S N]

        def loss() -> Tensor:
            logits = _weighted(scores, masks, weights, bias)  # [S, N, C]
            losses = functional.cross_entropy(logits.flatten(0, 1), every, reduction="none").view_as(chances)
            expected = (losses * chances).sum(dim=0).mean()
            return expected + self._shrink * (weights - 1 / members).square().sum()

        minimise([weights, bias] if self._with_bias else [weights], loss)
        self._weights, self._bias = weights.detach(), bias.detach()

    def combine(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Map [M, N, C] to [N, C]."""
        if self._weights is None or len(self._weights) != len(probabilities):
            known = 0 if self._weights is None else len(self._weights)
            raise DataError(f"weighted_logits was fitted to {known} members, and {len(probabilities)} are given")
        weights = self._weights.to(probabilities.device)
        return _weighted(centred(probabilities), present, weights, self._bias.to(weights.device)).softmax(dim=1)

    def state(self) -> dict[str, Any]:
        """Return `weights` [M][C] and `bias` [C]."""
        return {} if self._weights is None else {"weights": self._weights.tolist(), "bias": self._bias.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if state:
            self._weights = torch.tensor(state["weights"], dtype=torch.float64)
            self._bias = torch.tensor(state["bias"], dtype=torch.float64)


@ENSEMBLES.register(
    "weighted_logits",
    ranges={"dropout": Interval(0, 1, open_high=True), "shrink": Interval(0, 100)},
    source="arXiv 2509.03408 (WL and WLB)",
)
def weighted_logits(*, bias: bool = True, dropout: float = 0.3, shrink: float = 1e-3) -> WeightedLogits:
    """A weight per member and class on held-out logits (WLB; `bias` false is WL); missing members are made up for."""
    return WeightedLogits(bias=bias, dropout=dropout, shrink=shrink)


def _weighted(scores: Tensor, present: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Return the logits [..., N, C] of scores [M, N, C], bool [..., M, N], weights [M, C] and bias [C]."""
    mask = present.to(scores.dtype)
    sizes = (weights.square() + SOFT**2).sqrt()
    made_up = sizes.sum(dim=0) / torch.einsum("...mn,mc->...nc", mask, sizes)
    return torch.einsum("...mn,mc,mnc->...nc", mask, weights, scores) * made_up + bias


def _withheld(present: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """Return masks [S, M, N] of who is left and how likely each is for a case, [S, N], which sums to 1 over S."""
    members = len(present)
    if not dropout:
        return present[None], torch.ones(1, present.shape[1], dtype=torch.float64)
    if members <= _EVERY:
        subsets = torch.tensor(list(itertools.product([False, True], repeat=members))[1:])  # [S, M], never empty
    else:
        draws = torch.rand(_DRAWS, members, generator=torch.Generator().manual_seed(_SEED)) >= dropout
        subsets = torch.cat([torch.ones(1, members, dtype=torch.bool), draws[draws.any(dim=1)]])
    masks = subsets[:, :, None] & present
    if members <= _EVERY:
        # a subset of those that are there is counted once: in that subset which names no one who is missing
        own = (subsets[:, :, None] & ~present).any(dim=1).logical_not()
        kept = masks.sum(dim=1)
        chance = (1 - dropout) ** kept * dropout ** (present.sum(dim=0) - kept) * own
    else:
        chance = masks.any(dim=1).double()
    return masks | ~masks.any(dim=1, keepdim=True), chance / chance.sum(dim=0)
