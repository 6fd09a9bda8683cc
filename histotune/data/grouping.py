"""Split whole patients, or sites, into parts whose sizes and classes come as near to their targets as possible.

Pairs of groups change places as long as that brings a split nearer to its targets: what single moves cannot do.

Sites are few and unequal. Site-preserved cross-validation (Howard et al., Nature Communications 2021, doi
10.1038/s41467-021-24698-1) has a commercial solver assign them. Moves and exchanges from many starts find the very best
split of few sites; of more, they come as near to it as SciPy's `milp`. The result is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from histotune.data.cohort import Cohort
from histotune.errors import DataError

_STARTS = 24
_SWEEPS = 6
_AS_GOOD = (1.1, 1e-3)  # times and plus the least cost: no difference that matters
_MANY = 1000  # patients of one case each, from which on they are divided by class only
SWEEPS = 20
GroupingCost = Callable[[np.ndarray, np.ndarray], np.ndarray]


def whole_groups(cohort: Cohort, protocol: str) -> np.ndarray:
    """Return what is never cut in two by a protocol, str [N]: the site of each case under `site`, else its patient.

    Raises:
        DataError: a case has no site, or a patient has two.
    """
    patients, sites = cohort.table["patient"].to_numpy(str), cohort.table["site"].to_numpy(str)
    if protocol != "site":
        return patients
    if (sites == "").any():
        raise DataError(f"split 'site': {(sites == '').sum()} of {len(sites)} cases have no site; split by 'patient'")
    pairs = np.unique(np.stack([patients, sites], axis=1), axis=0)
    if len(pairs) > len(np.unique(patients)):
        names, count = np.unique(pairs[:, 0], return_counts=True)
        twice = str(names[count > 1][0])
        where = ", ".join(pairs[pairs[:, 0] == twice, 1])
        raise DataError(f"split 'site': patient {twice!r} stands at several sites ({where}): correct the column 'site'")
    return sites


def group_name(protocol: str) -> str:
    """Return the word for what is never cut in two by a protocol."""
    return "site" if protocol == "site" else "patient"


def by_group(
    groups: np.ndarray, labels: np.ndarray, fractions: Sequence[float], seed: Sequence[int], name: str = "patient"
) -> np.ndarray:
    """Assign whole groups of cases, patients or sites [N], to parts. Returns part numbers [N]."""
    names, owner = np.unique(groups, return_inverse=True)
    if len(names) == len(labels) >= _MANY:  # every case its own patient: the same balance, without a step per case
        return by_case(labels, fractions, seed)
    classes = int(labels.max()) + 1
    counts = np.bincount(owner * classes + labels, minlength=len(names) * classes).reshape(len(names), classes)
    if len(names) < len(fractions):
        some = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        raise DataError(
            f"{len(names)} {name}{'s' if len(names) > 1 else ''} ({some}): a split by {name} into {len(fractions)} "
            f"parts needs at least {len(fractions)}; check the {name} column or the folder layout"
        )
    return deal(counts, fractions, np.random.default_rng(seed), exchanged=name == "site")[owner]


def by_case(labels: np.ndarray, fractions: Sequence[float], seed: Sequence[int]) -> np.ndarray:
    """Assign the cases of each class at random, whatever their patients. Returns part numbers [N].

    A class of as many cases as there are parts, or more, is in every part.
    """
    rng = np.random.default_rng(seed)
    parts = np.full(len(labels), -1)
    last = len(fractions) - 1
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.rint(np.cumsum(fractions)[:last] * len(rows)).astype(int)
        if len(rows) > last:
            for at in range(last):
                least = cuts[at - 1] + 1 if at else 1
                cuts[at] = max(least, min(cuts[at], len(rows) - last + at))
        for part, dealt in enumerate(np.split(rows, cuts)):
            parts[dealt] = part
    return parts


def deal(
    counts: np.ndarray, fractions: Sequence[float], rng: np.random.Generator, *, exchanged: bool = False
) -> np.ndarray:
    """Choose a part for every patient.

    Several times, patients are dealt at random, a large one before a small one, each to the part that lacks most of
    what it brings; then single patients move as long as that helps. The best split wins; where pairs are `exchanged`,
    one of those that are as good for any purpose, so that sites are dealt otherwise when they are dealt again.
    What is balanced: the cases of each class and the number of patients, each as a share of its total. A part without
    a class costs more than any imbalance.

    Args:
        counts: int [patients, classes].
        fractions: of each part; they sum to 1.
        rng: decides the order; the same state gives the same split.
        exchanged: whether pairs also change places: for sites, which are few and unequal.

    Returns:
        part numbers, int64 [patients].
    """
    totals = np.maximum(counts.sum(axis=0), 1)
    shares = np.column_stack([counts / totals, np.full(len(counts), 1 / len(counts))])  # [patients, classes + 1]
    targets = np.asarray(fractions)[:, None]  # [parts, 1]
    deals, costs = [], []
    for _ in range(_STARTS):
        parts = _improve(_greedy(shares, targets, rng), shares, targets, rng)
        if exchanged:
            parts = exchange(parts, shares, targets, _cost)
        deals.append(parts)
        costs.append(float(_cost(_filled(parts, shares, len(targets)), targets)))
    good = (
        np.flatnonzero(np.array(costs) <= _AS_GOOD[0] * min(costs) + _AS_GOOD[1])
        if exchanged
        else [int(np.argmin(costs))]
    )
    return deals[rng.choice(good)] if exchanged else deals[good[0]]


def exchange(parts: np.ndarray, shares: np.ndarray, targets: np.ndarray, cost: GroupingCost) -> np.ndarray:
    """Let single groups move and pairs change places, always the best change of a group, until none helps.

    Args:
        parts: int64 [groups], the part of each.
        shares: float [groups, K], what each brings of every total.
        targets: float [parts, 1].
        cost: maps what one part holds, [..., 1, K], and its target, [1, 1], to [...]; a split costs their sum.
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


def _greedy(shares: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    parts = np.zeros(len(shares), np.int64)
    filled = np.zeros((len(targets), shares.shape[1]))
    size = shares.max(axis=1) * np.exp(rng.normal(0, 0.5, len(shares)))  # noise, so that starts differ
    for patient in np.argsort(-size, kind="stable"):
        parts[patient] = np.argmin(_costs_of(shares[patient], filled, targets))
        filled[parts[patient]] += shares[patient]
    return parts


def _improve(parts: np.ndarray, shares: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    filled = _filled(parts, shares, len(targets))
    for _ in range(_SWEEPS):
        before = parts.copy()
        for patient in rng.permutation(len(parts)):
            filled[parts[patient]] -= shares[patient]
            parts[patient] = np.argmin(_costs_of(shares[patient], filled, targets))
            filled[parts[patient]] += shares[patient]
        if (parts == before).all():
            break
    return parts


def _filled(parts: np.ndarray, shares: np.ndarray, number: int) -> np.ndarray:
    return np.stack([shares[parts == part].sum(axis=0) for part in range(number)])  # [parts, classes + 1]


def _costs_of(share: np.ndarray, filled: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cost of every part that one more patient could go to, [parts]."""
    options = filled[None] + np.eye(len(filled))[:, :, None] * share  # [options, parts, classes + 1]
    costs: np.ndarray = _cost(options, targets)
    return costs


def _cost(filled: np.ndarray, targets: np.ndarray) -> Any:
    """Relative squared distance from the targets, and 10 for every class that a part lacks; [...]."""
    distance = ((filled - targets) ** 2 / targets).sum(axis=(-1, -2))
    lacking = (filled < 1e-12).sum(axis=(-1, -2))
    return distance + 10.0 * lacking


def _move(
    group: int,
    parts: np.ndarray,
    shares: np.ndarray,
    filled: np.ndarray,
    targets: np.ndarray,
    cost: GroupingCost,
    costs: np.ndarray,
) -> tuple[float, int, int]:
    """Return what the best move of a group saves (negative), to which part, and -1: nobody comes back."""
    own = int(parts[group])
    left = float(cost((filled[own] - shares[group]).clip(0)[None], targets[own][None])) - costs[own]
    gains = np.array([cost((filled[part] + shares[group])[None], targets[part][None]) for part in range(len(targets))])
    gains = gains.ravel() - costs + left
    gains[own] = 0.0
    part = int(gains.argmin())
    return float(gains[part]), part, -1


def _swap(
    group: int,
    parts: np.ndarray,
    shares: np.ndarray,
    filled: np.ndarray,
    targets: np.ndarray,
    cost: GroupingCost,
    costs: np.ndarray,
) -> tuple[float, int, int]:
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
