"""Intervals by patient cover what they promise, and the fast path equals the plain one."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t

from histotune.errors import ConfigError, DataError
from histotune.metrics.bootstrap import (
    bootstrap_of_seeds,
    intervals,
    over_seeds,
    paired_bootstrap,
    paired_bootstrap_of_seeds,
    patient_bootstrap,
)
from histotune.metrics.intervals import ConfidenceInterval
from histotune.metrics.measured import Measured
from histotune.metrics.resampling import bounds
from histotune.metrics.scores import BINARY_ONLY, COSTS, METRICS, evaluate, range_of, score, softmax
from histotune.metrics.shares import wilson

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


def made_up(seed: int, patients: int = 15, classes: int = 2, each: int = 20, signal: float = 1.0) -> Sample:
    """Draw probabilities, labels and patients; every patient has a difficulty of its own."""
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(patients), each)
    labels = rng.integers(0, classes, len(member))
    signals = signal + rng.normal(size=patients)[member]
    logits = rng.normal(size=(len(member), classes)) + signals[:, None] * np.eye(classes)[labels]
    return softmax(np.round(logits, 1)), labels, np.char.add("p", member.astype(str))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", sorted(METRICS.keys() - COSTS))
def test_the_fast_path_equals_evaluating_every_replicate(name: str, classes: int) -> None:
    if name in BINARY_ONLY:
        classes = 2
    sample = made_up(1, patients=7, classes=classes, each=9)
    fast, plain = (Measured(m, *sample, 1, None) for m in (name, lambda p, y: score(name, p, y)))
    assert fast.value() == pytest.approx(plain.value(), abs=1e-12)
    for one, other in ((fast.replicate(300, 0), plain.replicate(300, 0)), (fast.without_each(), plain.without_each())):
        assert one == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize(("positive", "threshold"), [(0, None), (1, 0.3), (0, 0.7)])
def test_positive_class_and_threshold_reach_every_replicate(positive: int, threshold: float | None) -> None:
    probabilities, labels, patients = made_up(2)
    result = intervals(probabilities, labels, patients, positive=positive, threshold=threshold, replicates=50)
    whole = evaluate(probabilities, labels, positive=positive, threshold=threshold)
    assert {name: interval.value for name, interval in result.items()} == whole
    for name in ("sensitivity", "auroc"):
        fast = Measured(name, probabilities, labels, patients, positive, threshold)

        def plainly(p: np.ndarray, y: np.ndarray, name: str = name) -> float:
            return score(name, p, y, positive=positive, threshold=threshold)

        plain = Measured(plainly, probabilities, labels, patients, positive, threshold)
        assert fast.replicate(50, 0) == pytest.approx(plain.replicate(50, 0))


def test_bounds_are_of_the_replicates_that_are_known() -> None:
    values = np.random.default_rng(0).normal(size=(200, 3))
    values[:150, 1], values[:, 2] = np.nan, np.nan
    result = bounds(values, [0.025, 0.975])
    assert result[:, 0].tolist() == np.quantile(values[:, 0], [0.025, 0.975]).tolist()
    assert result[:, 1].tolist() == np.quantile(values[150:, 1], [0.025, 0.975]).tolist()
    assert np.isnan(result[:, 2]).all()


def test_a_seed_gives_its_interval_in_any_order_of_the_cases() -> None:
    probabilities, labels, patients = made_up(3)
    order = np.random.default_rng(0).permutation(len(labels))
    first = patient_bootstrap("auroc", probabilities, labels, patients, seed=5, replicates=200)
    again = patient_bootstrap("auroc", probabilities[order], labels[order], patients[order], seed=5, replicates=200)
    other = patient_bootstrap("auroc", probabilities, labels, patients, seed=6, replicates=200)
    assert (first.value, first.low, first.high) == pytest.approx((again.value, again.low, again.high))
    assert first != other


def test_patches_of_a_patient_are_not_counted_as_independent() -> None:
    probabilities, labels, patients = made_up(4, patients=12, each=80)
    by_patient = patient_bootstrap("accuracy", probabilities, labels, patients, replicates=500)
    by_patch = patient_bootstrap("accuracy", probabilities, labels, np.arange(len(labels)).astype(str), replicates=500)
    assert by_patient.high - by_patient.low > 2 * (by_patch.high - by_patch.low)


def test_one_patient_has_a_value_and_no_interval() -> None:
    probabilities, labels, _ = made_up(5)
    result = patient_bootstrap("auroc", probabilities, labels, np.full(len(labels), "p"))
    assert not math.isnan(result.value)
    assert math.isnan(result.low)
    assert math.isnan(result.high)


@pytest.mark.parametrize("name", ["sensitivity", "auroc", "mcc", "nll", "brier"])
def test_no_bound_lies_where_the_metric_cannot(name: str) -> None:
    labels, patients = np.tile([0, 1], 12), np.repeat(np.arange(4), 6)
    message = np.where(labels == 1, 0.9, 0.1)
    message[1] = 0.2
    result = patient_bootstrap(name, np.stack([1 - message, message], axis=1), labels, patients, replicates=200)
    least, most = range_of(name)
    assert least <= result.low <= result.value <= result.high <= most


def test_an_undefined_metric_has_no_interval() -> None:
    probabilities, labels, patients = made_up(6)
    result = patient_bootstrap("auroc", probabilities, np.zeros_like(labels), patients, replicates=50)
    assert all(math.isnan(x) for x in (result.value, result.low, result.high))


def test_a_model_does_not_differ_from_itself() -> None:
    probabilities, labels, patients = made_up(7)
    result = paired_bootstrap("auroc", probabilities, probabilities, labels, patients, replicates=100)
    assert (result.value, result.low, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_clear_and_changes_sign_with_the_order() -> None:
    probabilities, labels, patients = made_up(8, signal=2.0)
    guesses = softmax(np.random.default_rng(0).normal(size=probabilities.shape))
    gain = paired_bootstrap("auroc", probabilities, guesses, labels, patients, replicates=300)
    loss = paired_bootstrap("auroc", guesses, probabilities, labels, patients, replicates=300)
    assert gain.low > 0
    assert gain.p == pytest.approx(2 / 301)
    assert (loss.value, loss.low, loss.high, loss.p) == pytest.approx((-gain.value, -gain.high, -gain.low, gain.p))


def test_pairing_is_sharper_than_two_separate_intervals() -> None:
    probabilities, labels, patients = made_up(9)
    rng = np.random.default_rng(0)
    nearly = softmax(np.log(probabilities) + 0.1 * rng.normal(size=probabilities.shape))
    paired = paired_bootstrap("auroc", probabilities, nearly, labels, patients, replicates=300)
    alone = patient_bootstrap("auroc", probabilities, labels, patients, replicates=300)
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_what_makes_no_sense_is_refused() -> None:
    probabilities, labels, patients = made_up(0)
    with pytest.raises(DataError, match="one patient per case"):
        patient_bootstrap("auroc", probabilities, labels, patients[1:])
    with pytest.raises(DataError, match="same cases"):
        paired_bootstrap("auroc", probabilities, probabilities[1:], labels, patients)
    with pytest.raises(ConfigError, match="replicates=0"):
        patient_bootstrap("auroc", probabilities, labels, patients, replicates=0)
    with pytest.raises(ConfigError, match="level=95"):
        patient_bootstrap("auroc", probabilities, labels, patients, replicates=5, level=95)
    with pytest.raises(ConfigError, match="Did you mean 'auroc'"):
        patient_bootstrap("aurok", probabilities, labels, patients, replicates=5)


def test_two_thousand_replicates_take_seconds() -> None:
    probabilities, labels, patients = made_up(0, patients=36, each=43)
    start = time.process_time()
    result = patient_bootstrap("auroc", probabilities, labels, patients, replicates=2000)
    assert time.process_time() - start < 3
    assert isinstance(result, ConfidenceInterval)


def coverage(metric: str, studies: int, patients: int, replicates: int) -> float:
    """Return how often the 95 % interval holds the metric of a population of 4,000 patients."""
    truth = score(metric, *made_up(999, patients=4000)[:2])
    held = 0
    for seed in range(studies):
        result = patient_bootstrap(metric, *made_up(seed, patients=patients), replicates=replicates, seed=seed)
        held += result.low <= truth <= result.high
    return held / studies


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy"])
def test_intervals_cover_the_truth(metric: str) -> None:
    # 120 studies: the share has a standard error of 0.02; by patch it would be about 0.5.
    assert 0.87 <= coverage(metric, studies=120, patients=20, replicates=200) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("patients", [10, 20, 36])
@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "mcc", "average_precision", "nll", "positive_f1"])
def test_intervals_cover_the_truth_as_often_as_they_say(metric: str, patients: int) -> None:
    assert coverage(metric, studies=400, patients=patients, replicates=400) == pytest.approx(0.95, abs=0.04)


@pytest.mark.slow
def test_equal_models_are_called_different_one_time_in_twenty() -> None:
    called = 0
    for seed in range(500):
        probabilities, labels, patients = made_up(seed, patients=25)
        rng = np.random.default_rng(seed + 10_000)
        pair = [softmax(np.log(probabilities) + rng.normal(size=probabilities.shape)) for _ in range(2)]
        result = paired_bootstrap("auroc", pair[0], pair[1], labels, patients, replicates=300, seed=seed)
        called += result.low > 0 or result.high < 0
    assert called / 500 == pytest.approx(0.05, abs=0.03)


# --- several seeds


def two_models(
    seeds: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Probabilities of two models per seed, labels and patients of 120 cases; seeds differ in how good they are."""
    labels, patients = rng.integers(2, size=120), np.repeat(np.arange(30), 4).astype(str)
    sides: list[list[np.ndarray]] = [[], []]
    for quality, side in ((1.0, sides[0]), (0.4, sides[1])):
        for _ in range(seeds):
            score = 1 / (1 + np.exp(-(labels * 2 - 1) * rng.uniform(0, 2) * quality + rng.normal(size=120)))
            side.append(np.stack([1 - score, score], axis=1))
    return sides[0], sides[1], labels, patients


def test_one_seed_is_a_paired_bootstrap() -> None:
    firsts, seconds, labels, patients = two_models(1, np.random.default_rng(0))
    one = paired_bootstrap("auroc", firsts[0], seconds[0], labels, patients, replicates=200)
    assert paired_bootstrap_of_seeds("auroc", firsts, seconds, labels, patients, replicates=200) == one
    thrice = paired_bootstrap_of_seeds("auroc", firsts * 3, seconds * 3, labels, patients, replicates=200)
    assert [thrice.value, thrice.low, thrice.high, thrice.p] == pytest.approx([one.value, one.low, one.high, one.p])


def test_the_interval_over_seeds_adds_the_widths_of_patients_and_of_seeds() -> None:
    firsts, seconds, labels, patients = two_models(4, np.random.default_rng(1))
    result = paired_bootstrap_of_seeds("accuracy", firsts, seconds, labels, patients, replicates=4000)
    right = [[(p.argmax(axis=1) == labels) for p in side] for side in (firsts, seconds)]
    gains = np.array([one.astype(float) - other for one, other in zip(*right, strict=True)])  # [seeds, cases]
    of_patients = gains.mean(axis=0).reshape(30, 4).mean(axis=1)  # an accuracy is a mean, so both widths are known
    by_patient = t.ppf(0.975, 29) * of_patients.std(ddof=1) / np.sqrt(30)
    by_seed = t.ppf(0.975, 3) * gains.mean(axis=1).std(ddof=1) / np.sqrt(4)
    assert result.value == pytest.approx(gains.mean())
    assert result.high - result.low == pytest.approx(2 * np.hypot(by_patient, by_seed), rel=0.03)


def test_p_is_the_level_at_which_the_interval_reaches_zero() -> None:
    firsts, seconds, labels, patients = two_models(4, np.random.default_rng(5))
    result = paired_bootstrap_of_seeds("auroc", firsts, seconds, labels, patients, replicates=500)
    assert 0.05 < result.p < 0.9
    at_p = paired_bootstrap_of_seeds("auroc", firsts, seconds, labels, patients, level=1 - result.p, replicates=500)
    assert min(abs(at_p.low), abs(at_p.high)) < 0.05 * (result.high - result.low), (
        "the shape is that of the 95 % interval"
    )
    other = paired_bootstrap_of_seeds("auroc", seconds, firsts, labels, patients, replicates=500)
    assert [other.value, other.low, other.high, other.p] == pytest.approx(
        [-result.value, -result.high, -result.low, result.p]
    )


def test_the_same_models_do_not_differ() -> None:
    firsts, _, labels, patients = two_models(3, np.random.default_rng(2))
    same = paired_bootstrap_of_seeds("macro_f1", firsts, firsts, labels, patients, replicates=100)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_seeds_must_pair() -> None:
    firsts, seconds, labels, patients = two_models(2, np.random.default_rng(3))
    with pytest.raises(DataError, match="the same cases"):
        paired_bootstrap_of_seeds("auroc", firsts, seconds[:1], labels, patients)
    with pytest.raises(DataError, match="the same cases"):
        paired_bootstrap_of_seeds("auroc", [], [], labels, patients)


def test_the_own_interval_of_one_seed_is_a_patient_bootstrap() -> None:
    firsts, _, labels, patients = two_models(3, np.random.default_rng(4))
    one = patient_bootstrap("auroc", firsts[0], labels, patients, replicates=300)
    assert bootstrap_of_seeds("auroc", firsts[:1], labels, patients, replicates=300) == one
    several = bootstrap_of_seeds("auroc", firsts, labels, patients, replicates=300)
    assert several.value == pytest.approx(np.mean([score("auroc", p, labels) for p in firsts]))
    assert several.low < several.value < several.high
    with pytest.raises(DataError, match="at least one training"):
        bootstrap_of_seeds("auroc", [], labels, patients)


# --- strata


@pytest.mark.parametrize("name", ["balanced_accuracy", "auroc", "average_precision", "brier"])
def test_a_stratified_metric_is_the_mean_over_strata_in_every_replicate(name: str) -> None:
    probabilities, labels, patients = made_up(5, patients=12, each=24)
    strata = np.tile(np.repeat(["40x", "100x"], [16, 8]), 12)
    keep = ~((patients == "p3") & (strata == "100x"))  # not everybody is in every stratum
    cases = probabilities[keep], labels[keep], patients[keep]
    result = over_seeds(name, [cases[0]], *cases[1:], strata=strata[keep], replicates=200)

    names, member = np.unique(cases[2], return_inverse=True)

    def by_hand(times: np.ndarray) -> float:
        rows = np.repeat(np.arange(len(member)), times[member])
        parts = [rows[strata[keep][rows] == stratum] for stratum in ("40x", "100x")]
        return float(np.mean([score(name, cases[0][part], cases[1][part]) for part in parts]))

    drawn = np.random.default_rng(0).integers(len(names), size=(200, len(names)))
    values = [by_hand(np.bincount(row, minlength=len(names))) for row in drawn]
    assert result.values == pytest.approx(by_hand(np.ones(12, np.int64)))
    assert result.drawn[0] == pytest.approx(values)
    without = [by_hand(1 - row) for row in np.eye(12, dtype=np.int64)]
    assert result.without[0] == pytest.approx(without)
    equal = result.effective
    tail = norm.cdf(np.sqrt(equal / (equal - 1)) * t.ppf(0.025, equal - 1))  # expanded percentiles
    widths = np.abs(np.quantile(values, [tail, 1 - tail]) - result.values[0])
    jackknife = float(t.ppf(0.975, equal - 1) * np.sqrt(11 * np.var(without)))
    widths = widths * max(1.0, jackknife / float(widths.mean()))
    shown = dataclasses.replace(result, floors=()).interval()
    assert [shown.value - shown.low, shown.high - shown.value] == pytest.approx(widths, abs=1e-9)


def test_one_stratum_is_none() -> None:
    firsts, seconds, labels, patients = two_models(2, np.random.default_rng(6))
    plain = paired_bootstrap_of_seeds("auroc", firsts, seconds, labels, patients, replicates=100)
    one = np.full(len(labels), "all")
    assert paired_bootstrap_of_seeds("auroc", firsts, seconds, labels, patients, strata=one, replicates=100) == plain
    with pytest.raises(DataError, match="one stratum: 3 strata"):
        paired_bootstrap_of_seeds("auroc", firsts, seconds, labels, patients, strata=one[:3], replicates=100)


@pytest.mark.parametrize("n", [1, 5, 20, 279])
def test_the_score_interval_of_a_share_is_scipys(n: int) -> None:
    counts = np.unique(np.linspace(0, n, 20).round().astype(int))
    known = [binomtest(int(count), n).proportion_ci(0.95, "wilson") for count in counts]
    low, high = wilson(counts / n, n)
    assert low == pytest.approx([one.low for one in known], abs=1e-12)
    assert high == pytest.approx([one.high for one in known], abs=1e-12)
