"""Greedy selection: members are added one by one, some of them several times, as long as the ensemble gets better."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from histotune.core.parameters import Interval, OneOf
from histotune.ensembles.strategies._base import ENSEMBLES
from histotune.ensembles.strategies._selection import METRICS, CandidatePool, select
from histotune.ensembles.strategies.weighted import Weighted

FEWEST = 5  # members of a bag, where there are as many
_SEED = 0


class Greedy(Weighted):
    """p proportional to sum_m v_m p_m, v_m how often member m was chosen (Caruana et al., 2004).

    The selection begins with the best members and adds, again and again, the one whose addition makes `metric` best
    on held-out cases. With many members somebody always helps by luck: so that is done `bags` times with a random
    `share` of them (five at least), and the weights are the mean. Cases that no member knows are left out.
    """

    selects = True

    def __init__(self, *, metric: str, rounds: int, start: int, bags: int, share: float) -> None:
        super().__init__()
        self._metric, self._rounds, self._start, self._bags, self._share = metric, rounds, start, bags, share

    def learn(self, probabilities: Tensor, present: Tensor, labels: Tensor) -> None:
        """Choose members on the cases that somebody knows; of none of those, all count alike."""
        members, known = len(probabilities), present.any(dim=0)
        if members == 1 or not known.any():
            self._weights = torch.full((members,), 1 / members, dtype=torch.float64)
            return
        there = known.numpy()
        pool = CandidatePool(
            probabilities.numpy()[:, there], present.numpy()[:, there], labels.numpy()[there], self._metric
        )
        size = min(members, max(FEWEST, math.ceil(self._share * members)))
        rng = np.random.default_rng([_SEED, members])
        drawn = [np.sort(rng.permutation(members)[:size]) for _ in range(self._bags if size < members else 1)]
        counts = np.stack([select(pool, bag, rounds=self._rounds, start=self._start) for bag in drawn])
        self._weights = torch.from_numpy((counts / counts.sum(axis=1, keepdims=True)).mean(axis=0))


@ENSEMBLES.register(
    "greedy",
    ranges={
        "metric": OneOf(*METRICS),
        "rounds": Interval(0, 1000, whole=True),
        "start": Interval(1, 1000, whole=True),
        "bags": Interval(1, 1000, whole=True),
        "share": Interval(0, 1, open_low=True),
    },
    source="Caruana et al., 2004",
)
def greedy(*, metric: str = "nll", rounds: int = 15, start: int = 5, bags: int = 5, share: float = 0.5) -> Greedy:
    """Members chosen one by one, with replacement, for the study's metric on held-out cases; bagged."""
    return Greedy(metric=metric, rounds=rounds, start=start, bags=bags, share=share)
