"""Deal whole patients into parts so that sizes and classes come as near to their targets as the patients allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_STARTS = 24
_SWEEPS = 6


def deal(counts: np.ndarray, fractions: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Choose a part for every patient.

    Several times, patients are dealt at random, a large one before a small one, each to the part that lacks most of
    what it brings; then single patients move as long as that helps. The best deal wins.
    What is balanced: the cases of each class and the number of patients, each as a share of its total. A part without
    a class costs more than any imbalance.

    Args:
        counts: int [patients, classes].
        fractions: of each part; they sum to 1.
        rng: decides the order; the same state gives the same deal.

    Returns:
        part numbers, int64 [patients].
    """
    totals = np.maximum(counts.sum(axis=0), 1)
    shares = np.column_stack([counts / totals, np.full(len(counts), 1 / len(counts))])  # [patients, classes + 1]
    targets = np.asarray(fractions)[:, None]  # [parts, 1]
    best, best_cost = np.zeros(len(counts), np.int64), np.inf
    for _ in range(_STARTS):
        parts = _improve(_greedy(shares, targets, rng), shares, targets, rng)
        cost = float(_cost(_filled(parts, shares, len(targets)), targets))
        if cost < best_cost:
            best, best_cost = parts, cost
    return best


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
