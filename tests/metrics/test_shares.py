"""What few patients can show: exact where nobody is wrong, never more than their effective number allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from histotune.metrics.bootstrap import intervals, paired_bootstrap, patient_bootstrap
from histotune.metrics.measured import Measured
from histotune.metrics.scores import range_of
from histotune.metrics.shares import CaseShare, bounds, effective

SHARES = ("accuracy", "balanced_accuracy", "macro_recall", "recall", "sensitivity", "specificity", "precision")
FOLLOWING = ("macro_f1", "positive_f1", "macro_precision", "mcc", "auroc", "average_precision")


def perfect(patients: int, each: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities, labels and patients: `patients` of every class, all of whose cases are right."""
    labels = np.repeat(np.arange(classes), patients * each)
    return np.eye(classes)[labels] * 0.8 + 0.2 / classes, labels, np.repeat(np.arange(classes * patients), each)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_unequal_patients_are_worth_fewer_equal_ones(counts: list[int]) -> None:
    result = effective(np.array(counts))
    assert 1 - 1e-9 <= result <= len(counts) + 1e-9
    assert effective(np.array(counts) * 7) == pytest.approx(result)
    assert effective(np.full(len(counts), 3)) == pytest.approx(len(counts))


@pytest.mark.parametrize("patients", [1, 2, 5, 20])
@pytest.mark.parametrize("each", [1, 30])
def test_nobody_wrong_gives_the_exact_bound_of_as_many_patients(patients: int, each: int) -> None:
    exact = binomtest(patients, patients).proportion_ci(0.95, "exact").low
    probabilities, labels, owners = perfect(patients, each)
    for name in ("sensitivity", "specificity", "recall", "precision"):
        result = patient_bootstrap(name, probabilities, labels, owners, replicates=300)
        assert (result.value, result.high) == (1.0, 1.0)
        assert result.low == pytest.approx(exact), name
    everybody = binomtest(2 * patients, 2 * patients).proportion_ci(0.95, "exact").low
    assert patient_bootstrap("accuracy", probabilities, labels, owners).low == pytest.approx(everybody)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", [*SHARES, *FOLLOWING])
def test_a_perfect_model_of_few_patients_is_not_known_to_be_perfect(name: str, classes: int) -> None:
    if classes > 2 and name == "positive_f1":
        pytest.skip("it is of two classes")
    few, many = (patient_bootstrap(name, *perfect(patients, 5, classes), replicates=300) for patients in (3, 30))
    assert few.value == many.value == 1.0
    assert few.low < many.low < 1.0
    assert few.low < 0.9
    assert few.low >= range_of(name)[0]


@pytest.mark.parametrize("name", ["nll", "brier"])
def test_where_no_draw_differs_and_nothing_else_tells_the_interval_is_unknown(name: str) -> None:
    result = patient_bootstrap(name, *perfect(5, 4), replicates=100)
    assert math.isnan(result.low)
    assert math.isnan(result.high)
    assert str(result).endswith("(interval unknown)")


def test_the_ece_has_no_interval_but_a_difference_of_two_has() -> None:
    rng = np.random.default_rng(0)
    labels, owners = rng.integers(0, 2, 200), np.repeat(np.arange(20), 10)
    one, other = (rng.dirichlet([1, 1], 200) for _ in range(2))
    assert math.isnan(patient_bootstrap("ece", one, labels, owners).low)
    assert paired_bootstrap("ece", one, other, labels, owners).p > 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.sampled_from(SHARES))
def test_the_value_lies_in_its_interval_and_the_interval_in_the_range(seed: int, patients: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(patients), rng.integers(1, 9, patients))
    labels = rng.integers(0, 2, len(owners))
    probabilities = rng.dirichlet([1, 1], len(owners))
    result = patient_bootstrap(name, probabilities, labels, owners, replicates=60)
    if not math.isnan(result.low):
        assert range_of(name)[0] <= result.low <= result.value <= result.high <= range_of(name)[1]
        assert result.low < result.high


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=2, max_size=15))
def test_cases_count_at_least_as_their_effective_patients_and_at_most_one_each(drawn: list[tuple[int, float]]) -> None:
    cases = np.array([count for count, _ in drawn])
    share = CaseShare(np.array([round(count * part) for count, part in drawn]), cases)
    assert effective(cases) - 1e-9 <= share.independent() <= cases.sum() + 1e-9


def test_cases_that_are_all_alike_count_as_their_patients_and_independent_ones_as_cases() -> None:
    rng = np.random.default_rng(0)
    cases = np.full(200, 20)
    alike = CaseShare(20 * (rng.random(200) < 0.8), cases)
    assert alike.independent() == pytest.approx(200, rel=0.1)
    apart = CaseShare(rng.binomial(20, 0.8, 200), cases)
    assert apart.independent() == pytest.approx(4000, rel=0.25)


@pytest.mark.parametrize(("right", "cases"), [(1, 3), (7, 10), (30, 100)])
def test_bounds_are_the_score_interval_and_at_the_ends_the_exact_one(right: int, cases: int) -> None:
    known = binomtest(right, cases).proportion_ci(0.9, "wilson")
    assert bounds(right / cases, cases, 0.9) == pytest.approx((known.low, known.high))
    assert bounds(0.0, cases, 0.9) == pytest.approx((0.0, beta.ppf(0.95, 1, cases)))
    assert bounds(1.0, cases, 0.9) == pytest.approx((beta.ppf(0.05, cases, 1), 1.0))


def test_one_patient_with_most_cases_costs_certainty() -> None:
    rng = np.random.default_rng(3)
    ease = rng.normal(0, 1, 20)

    def width(sizes: np.ndarray) -> float:
        owners = np.repeat(np.arange(20), sizes)
        labels = rng.integers(0, 2, len(owners))
        hit = rng.random(len(owners)) < 1 / (1 + np.exp(-1 - ease[owners]))
        probabilities = np.eye(2)[np.where(hit, labels, 1 - labels)]
        found = patient_bootstrap("accuracy", probabilities, labels, owners, replicates=300)
        return found.high - found.low

    giant = np.full(20, 20)
    giant[0] = 20 * 19
    assert width(giant) > 1.5 * width(np.full(20, 38))


def test_the_class_with_the_fewest_patients_limits_a_mean_over_classes() -> None:
    labels = np.repeat([1, 0], [5, 100])
    owners, probabilities = np.arange(105), np.full((105, 2), 0.5)
    for name, expected in (("sensitivity", 5), ("specificity", 100), ("accuracy", 105), ("auroc", 5), ("mcc", 5)):
        assert Measured(name, probabilities, labels, owners, 1, None).effective == pytest.approx(expected)


def test_a_draw_without_a_positive_case_says_nothing_of_precision() -> None:
    labels = np.repeat([1, 0], [3, 4])
    probabilities = np.eye(2)[labels]
    drawn = Measured("precision", probabilities, labels, np.arange(7), 1, None).replicate(500, 0)
    assert set(drawn[~np.isnan(drawn)]) == {1.0}
    assert np.isnan(drawn).any()
    assert intervals(probabilities, labels, np.arange(7))["precision"].low == pytest.approx(0.025 ** (1 / 3))
