"""Greedy selection chooses whom a brute-force search would choose, whatever the metric and whoever is missing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from histotune.ensembles.strategies import ENSEMBLES
from histotune.ensembles.strategies._selection import METRICS, CandidatePool, _auroc, select
from histotune.errors import ConfigError
from histotune.metrics import scores as metrics


def drawn(seed: int, members: int = 4, cases: int = 30, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw probabilities [members, cases, classes] that know something, and labels of every class."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=cases - classes)])
    logits = rng.normal(size=(members, cases, classes)) + rng.uniform(0, 1.5, (members, 1, 1)) * np.eye(classes)[labels]
    return metrics.softmax(2 * logits), labels


def mean_value(
    metric: str, probabilities: np.ndarray, present: np.ndarray, labels: np.ndarray, who: list[int]
) -> float:
    """Measure the mean of members by `metrics`; where none of them is there, the mean of all who are."""
    counts = np.bincount(who, minlength=len(probabilities))[:, None] * present
    counts = np.where(counts.sum(axis=0) > 0, counts, present)
    joined = (counts[:, :, None] * probabilities).sum(axis=0) / counts.sum(axis=0)[:, None]
    value = metrics.direction(metric) * metrics.score(metric, joined, labels)
    return -np.inf if np.isnan(value) else value


def brute_force(
    metric: str, probabilities: np.ndarray, present: np.ndarray, labels: np.ndarray, rounds: int, start: int
) -> np.ndarray:
    """Select as the paper says, every ensemble measured anew."""

    def value(who: list[int]) -> float:
        return mean_value(metric, probabilities, present, labels, who)

    everybody = range(len(probabilities))
    who, best, best_value = list[int](), list[int](), -np.inf
    for member in sorted(everybody, key=lambda m: -value([m]))[:start]:
        if value([*who, member]) <= best_value + 1e-12:
            break
        who.append(member)
        best, best_value = list(who), value(who)
    for _ in range(rounds):
        who.append(max(everybody, key=lambda m: value([*who, m])))
        if value(who) > best_value + 1e-12:
            best, best_value = list(who), value(who)
    return np.bincount(best, minlength=len(probabilities))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("missing", [False, True])
def test_it_chooses_what_brute_force_chooses(metric: str, classes: int, missing: bool) -> None:
    for seed in range(3):
        probabilities, labels = drawn(seed, classes=classes)
        present = np.random.default_rng(seed).random(probabilities.shape[:2]) < (0.7 if missing else 1.0)
        present[0] |= ~present.any(axis=0)
        pool = CandidatePool(probabilities, present, labels, metric)
        result = select(pool, np.arange(4), rounds=6, start=2)
        expected = brute_force(metric, probabilities, present, labels, rounds=6, start=2)
        values = [
            mean_value(metric, probabilities, present, labels, np.repeat(np.arange(4), counts).tolist())
            for counts in (result, expected)
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-12)
        if metric == "nll":  # without ties, and so the very same members
            assert result.tolist() == expected.tolist()


def selected(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Measure what greedy selection makes of members that have seen every case."""
    members, present = np.arange(len(probabilities)), np.ones(probabilities.shape[:2], bool)
    counts = select(CandidatePool(probabilities, present, labels, "nll"), members, rounds=8, start=3)
    return mean_value("nll", probabilities, present, labels, np.repeat(members, counts).tolist())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_it_is_never_worse_than_the_best_member_alone(seed: int) -> None:
    probabilities, labels = drawn(seed)
    alone = [metrics.score("nll", one, labels) for one in probabilities]
    assert selected(probabilities, labels) >= -min(alone) - 1e-12


def test_it_nearly_always_finds_the_best_of_all_small_ensembles() -> None:
    behind = []
    for seed in range(60):  # a step at a time may miss it, so that this is no law
        probabilities, labels = drawn(seed, members=3)
        present = np.ones(probabilities.shape[:2], bool)
        best = max(
            mean_value("nll", probabilities, present, labels, list(who))
            for size in range(1, 6)
            for who in itertools.combinations_with_replacement(range(3), size)
        )
        behind.append(best - selected(probabilities, labels))
    assert np.mean(np.array(behind) < 1e-3) >= 0.95
    assert max(behind) < 0.02


def test_weights_are_shares_of_what_the_bags_chose() -> None:
    probabilities, labels = drawn(0, members=12, cases=200)
    ensemble = ENSEMBLES.build("greedy", bags=4, rounds=5)
    ensemble.fit(np.log(probabilities), labels)
    weights = np.array(ensemble.state()["weights"])
    assert weights.sum() == pytest.approx(1.0)
    assert 0 < np.count_nonzero(weights) < 12
    assert ensemble.shares(12) == weights.tolist()
    joined = np.einsum("m,mnc->nc", weights, probabilities)
    assert ensemble.predict(np.log(probabilities)) == pytest.approx(joined / joined.sum(axis=1, keepdims=True))


def test_a_member_that_knows_nothing_is_left_out() -> None:
    probabilities, labels = drawn(1, members=3, cases=400)
    probabilities[1] = np.random.default_rng(2).dirichlet(np.ones(2), size=400)
    ensemble = ENSEMBLES.build("greedy", metric="nll")
    ensemble.fit(np.log(probabilities), labels)
    assert ensemble.state()["weights"][1] < 0.15


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_without_cases_is_no_obstacle(classes: int) -> None:
    probabilities, labels = drawn(3, classes=classes)
    for metric in METRICS:
        ensemble = ENSEMBLES.build("greedy", metric=metric)
        ensemble.fit(np.log(probabilities), np.minimum(labels, classes - 2))
        assert np.isfinite(ensemble.predict(np.log(probabilities))).all()


def test_an_auroc_of_many_cases_is_scikit_learns() -> None:
    probabilities, labels = drawn(5, members=1, cases=20_000)
    order = np.argsort(labels, kind="stable")
    sums = 3 * probabilities[0, order, 1]
    result = _auroc(sums, 3, int((labels == 0).sum()))
    assert result == pytest.approx(roc_auc_score(labels, probabilities[0, :, 1]), abs=1e-6)


@pytest.mark.parametrize("metric", ["nll", "balanced_accuracy", "auroc"])
def test_sums_of_many_cases_measure_what_metrics_measures(metric: str) -> None:
    probabilities, labels = drawn(6, cases=6000)
    present = np.ones(probabilities.shape[:2], bool)
    pool = CandidatePool(probabilities, present, labels, metric)
    total = pool.nobody()
    pool.add(total, 2)
    result, expected = pool.value(total, 1), mean_value(metric, probabilities, present, labels, [1, 2])
    assert result == pytest.approx(expected, abs=2e-5)


def test_a_metric_that_needs_a_positive_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="'metric' of ensemble 'greedy' must be one of"):
        ENSEMBLES.build("greedy", metric="sensitivity")


@pytest.mark.slow
def test_fifty_members_over_83256_predictions_are_selected_in_two_seconds() -> None:
    import time

    from greedy_selection import drawn as large

    logits, labels = large(50, 83_256)
    for metric in ("nll", "auroc", "balanced_accuracy"):
        began = time.process_time()  # others may be at work
        ENSEMBLES.build("greedy", metric=metric).fit(logits, labels)
        assert time.process_time() - began < 2.0
