"""Deals of whole sites are as even as they can be, those of patients stay what they were for their seed."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from histotune.data.grouping import _cost, _filled, by_group, deal

THIRDS, FIFTHS, USUAL = (1 / 3,) * 3, (0.2,) * 5, (0.6, 0.15, 0.25)


def uneven(rng: np.random.Generator, groups: int, classes: int) -> np.ndarray:
    """Cases of each class at each site: a few large sites, many small ones, some without a class."""
    counts = np.ceil(rng.lognormal(3, 1.2, (groups, classes))).astype(int)
    counts[rng.random(counts.shape) < 0.2] = 0
    return np.maximum(counts, np.eye(classes, dtype=int)[rng.integers(0, classes, groups)])


def shares_of(counts: np.ndarray) -> np.ndarray:
    return np.column_stack([counts / counts.sum(axis=0).clip(1), np.full(len(counts), 1 / len(counts))])


def cost_of(parts: np.ndarray, counts: np.ndarray, fractions: tuple[float, ...]) -> float:
    return float(_cost(_filled(parts, shares_of(counts), len(fractions)), np.array(fractions)[:, None]))


def least(counts: np.ndarray, fractions: tuple[float, ...]) -> float:
    """Try every deal there is."""
    every = np.array(list(itertools.product(range(len(fractions)), repeat=len(counts))))
    filled = np.stack([(every == part) @ shares_of(counts) for part in range(len(fractions))], axis=1)
    return float(_cost(filled, np.array(fractions)[:, None]).min())


@pytest.mark.parametrize(("fractions", "sites"), [(USUAL, 8), (THIRDS, 8), ((0.8, 0.2), 11), (FIFTHS, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_a_deal_of_few_sites_is_as_good_as_the_best_of_all(fractions: tuple[float, ...], sites: int, seed: int) -> None:
    rng = np.random.default_rng([seed, sites])
    counts = uneven(rng, sites, 2 + seed % 2)
    dealt = deal(counts, fractions, np.random.default_rng(seed), exchanged=True)
    assert cost_of(dealt, counts, fractions) <= 1.1 * least(counts, fractions) + 1e-3 + 1e-9


def solved(counts: np.ndarray, fractions: tuple[float, ...]) -> np.ndarray:
    """Deal by HiGHS: least sum of absolute distances from the targets."""
    shares, (groups, parts) = shares_of(counts), (len(counts), len(fractions))
    kinds, dealt = shares.shape[1], groups * parts
    rows: list[np.ndarray] = []
    low: list[float] = []
    high: list[float] = []
    for group in range(groups):
        row = np.zeros(dealt + parts * kinds)
        row[group * parts : (group + 1) * parts] = 1
        rows, low, high = [*rows, row], [*low, 1.0], [*high, 1.0]
    for part, kind in itertools.product(range(parts), range(kinds)):
        for sign in (-1, 1):
            row = np.zeros(dealt + parts * kinds)
            row[np.arange(groups) * parts + part] = shares[:, kind]
            row[dealt + part * kinds + kind] = sign
            bounds = (-np.inf, fractions[part]) if sign < 0 else (fractions[part], np.inf)
            rows, low, high = [*rows, row], [*low, bounds[0]], [*high, bounds[1]]
    cost = np.concatenate([np.zeros(dealt), np.repeat(1 / np.array(fractions), kinds)])
    whole = np.concatenate([np.ones(dealt), np.zeros(parts * kinds)])
    most = np.where(whole == 1, 1.0, np.inf)
    result = milp(
        cost, constraints=LinearConstraint(np.array(rows), low, high), integrality=whole, bounds=Bounds(0, most)
    )
    assert result.success
    return result.x[:dealt].reshape(groups, parts).argmax(axis=1)


def worst_share(parts: np.ndarray, counts: np.ndarray, fractions: tuple[float, ...]) -> float:
    filled = _filled(parts, shares_of(counts)[:, :-1], len(fractions))
    return float(np.abs(filled - np.array(fractions)[:, None]).max())


@pytest.mark.parametrize(("fractions", "sites"), [(USUAL, 16), (THIRDS, 14)])
def test_a_deal_of_sites_is_as_even_as_a_solvers(fractions: tuple[float, ...], sites: int) -> None:
    counts = uneven(np.random.default_rng(sites), sites, 2)
    dealt, known = deal(counts, fractions, np.random.default_rng(0), exchanged=True), solved(counts, fractions)
    assert cost_of(dealt, counts, fractions) <= 1.1 * cost_of(known, counts, fractions) + 1e-3
    assert worst_share(dealt, counts, fractions) <= worst_share(known, counts, fractions) + 0.02


def test_sites_are_dealt_otherwise_when_they_are_dealt_again() -> None:
    counts = uneven(np.random.default_rng(1), 24, 2)
    deals = [deal(counts, FIFTHS, np.random.default_rng(seed), exchanged=True) for seed in range(3)]
    together = {tuple((parts[:, None] == parts).ravel()) for parts in deals}
    assert len(together) > 1
    again = deal(counts, FIFTHS, np.random.default_rng(0), exchanged=True)
    assert np.array_equal(deals[0], again)


@pytest.mark.parametrize(
    ("fractions", "seed", "digest"), [(USUAL, [3], "bed44fe0349bb807"), (FIFTHS, [3, 1], "3d346be34d634407")]
)
def test_patients_are_dealt_as_ever(fractions: tuple[float, ...], seed: list[int], digest: str) -> None:
    rng = np.random.default_rng(5)
    owner = np.repeat(np.arange(60), np.ceil(rng.lognormal(2.5, 1, 60)).astype(int))
    labels = (rng.random(len(owner)) < rng.beta(1, 2, 60)[owner]).astype(np.int64)
    dealt = by_group(np.array([f"p{number:02d}" for number in owner]), labels, fractions, seed)
    assert hashlib.sha256(dealt.astype(np.int8).tobytes()).hexdigest()[:16] == digest
