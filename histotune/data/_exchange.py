"""Pairs of groups change places as long as that brings a deal nearer to its targets: what single moves cannot do.

Sites are few and unequal. Site-preserved cross-validation (Howard et al., Nature Communications 2021, doi
10.1038/s41467-021-24698-1) has a commercial solver deal them. Moves and exchanges from many starts find the very best
deal of few sites, and of more they are as near to it as SciPy's `milp` (tests/test_deal.py), the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SWEEPS = 20
Cost = Callable[[np.ndarray, np.ndarray], np.ndarray]


def exchange(parts: np.ndarray, shares: np.ndarray, targets: np.ndarray, cost: Cost) -> np.ndarray:
    """Let single groups move and pairs change places, always the best change of a group, until none helps.

    Args:
        parts: int64 [groups], the part of each.
        shares: float [groups, K], what each brings of every total.
        targets: float [parts, 1].
        cost: maps what one part holds, [..., 1, K], and its target, [1, 1], to [...]; a deal costs their sum.
    """
    parts, number = parts.copy(), len(targets)
    filled = np.stack([shares[parts == part].sum(axis=0) for part in range(number)])  # [parts, K]
    for _ in range(SWEEPS):
        changed = False
        for group in range(len(parts)):
            costs = np.array([float(cost(filled[part][None], targets[part][None])) for part in range(number)])
            best = min(
                _move(group, parts, shares, filled, targets, cost, costs),
                _swap(group, parts, shares, filled, targets, cost, costs),
            )
            if best[0] < -1e-12:
                own = int(parts[group])
                _, part, other = best
                if other >= 0:
                    parts[other] = own
                parts[group] = part
                for at in (own, part):
                    filled[at] = shares[parts == at].sum(axis=0)
                changed = True
        if not changed:
            break
    return parts


def _move(
    group: int, parts: np.ndarray, shares: np.ndarray, filled: np.ndarray, targets: np.ndarray, cost: Cost,
    costs: np.ndarray,
) -> tuple[float, int, int]:  # fmt: skip
    """Return what the best move of a group saves (negative), to which part, and -1: nobody comes back."""
    own = int(parts[group])
    left = float(cost((filled[own] - shares[group]).clip(0)[None], targets[own][None])) - costs[own]
    gains = np.array([cost((filled[part] + shares[group])[None], targets[part][None]) for part in range(len(targets))])
    gains = gains.ravel() - costs + left
    gains[own] = 0.0
    part = int(gains.argmin())
    return float(gains[part]), part, -1


def _swap(
    group: int, parts: np.ndarray, shares: np.ndarray, filled: np.ndarray, targets: np.ndarray, cost: Cost,
    costs: np.ndarray,
) -> tuple[float, int, int]:  # fmt: skip
    """Return what the best exchange of a group with another saves (negative), for which part, and with whom."""
    own, others = int(parts[group]), np.flatnonzero(parts != parts[group])
    if not len(others):
        return 0.0, own, -1
    there, difference = parts[others], shares[others] - shares[group]
    here = cost((filled[own] + difference).clip(0)[:, None], targets[own][None])
    after = cost((filled[there] - difference).clip(0)[:, None], targets[there][:, None])
    gains = here + after - costs[own] - costs[there]
    at = int(gains.argmin())
    return float(gains[at]), int(there[at]), int(others[at])
