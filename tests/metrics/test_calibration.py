"""The temperature is the optimum that others find; a threshold serves the metric that it was chosen for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from histotune.ensembles.crossfit import temperature_of
from histotune.errors import ConfigError, DataError
from histotune.metrics.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    THRESHOLD_METRICS,
    apply_temperatures,
    choose_threshold,
    fit_temperature,
)
from histotune.metrics.operating_points import OperatingPoint
from histotune.metrics.scores import negative_log_likelihood, score, softmax


def made_up(seed: int, classes: int, n: int = 400, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw calibrated logits [n, C], then labels from them, then sharpen the logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    drawn = (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return logits * sharpness, np.minimum(drawn, classes - 1)


@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 8.0])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_one_that_minimising_the_likelihood_finds(
    seed: int, classes: int, sharpness: float
) -> None:
    logits, labels = made_up(seed, classes, sharpness=sharpness)

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(softmax(logits / np.exp(log_temperature)), labels)

    result = fit_temperature(logits, labels)
    other = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-10})
    assert result == pytest.approx(np.exp(other.x), rel=1e-4)
    assert loss(np.log(result)) <= min(loss(x) for x in np.log(np.geomspace(0.05, 20, 300))) + 1e-12


def test_a_model_that_is_n_times_too_sure_gets_n_times_the_temperature() -> None:
    logits, labels = made_up(0, 3)
    assert fit_temperature(7 * logits, labels) == pytest.approx(7 * fit_temperature(logits, labels), rel=1e-6)


@pytest.mark.parametrize("patients", [2, 5, 15, 60])
def test_few_separated_patients_do_not_make_a_model_sure(patients: int) -> None:
    labels = np.arange(patients) % 2
    logits = np.eye(2)[labels]
    result = fit_temperature(logits, labels, patients=np.arange(patients))
    assert 0.2 < result < 1
    assert result > fit_temperature(np.tile(logits, (20, 1)), np.tile(labels, 20), patients=np.arange(20 * patients))


def test_cases_of_a_patient_count_as_one_against_the_prior() -> None:
    logits, labels = made_up(5, 2, n=200, sharpness=6.0)
    apart = fit_temperature(logits, labels, patients=np.arange(200))
    alike = fit_temperature(logits, labels, patients=np.arange(200) % 10)
    assert 1 < alike < apart < fit_temperature(logits, labels)


def test_of_many_patients_the_prior_says_nothing() -> None:
    logits, labels = made_up(6, 3, n=4000, sharpness=3.0)
    expected = fit_temperature(logits, labels)
    assert fit_temperature(logits, labels, patients=np.arange(4000)) == pytest.approx(expected, rel=0.01)


def test_a_temperature_that_does_not_help_others_is_not_applied() -> None:
    kept, better = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        logits, labels = made_up(seed, 2, n=90)
        kept += temperature_of(logits, labels, rng.integers(0, 15, 90)) == 1.0
        better += temperature_of(5 * logits, labels, rng.integers(0, 15, 90)) > 1.5
    assert kept >= 30, "calibrated already"
    assert better >= 36, "far too sure"


def test_on_separated_cases_new_patients_are_not_worse_off() -> None:
    """As often as not a few validation cases are separated; the likelihood of others may not pay for it."""
    losses = []
    for seed in range(60):
        logits, labels = made_up(seed, 2, n=1015, sharpness=1.0)
        few = slice(0, 15)
        temperature = temperature_of(3 * logits[few], labels[few], np.arange(15))
        after = negative_log_likelihood(softmax(3 * logits[15:] / temperature), labels[15:])
        losses.append(after - negative_log_likelihood(softmax(3 * logits[15:]), labels[15:]))
    assert max(losses) < 0.02
    assert np.mean(losses) < 0


def test_calibrated_logits_stay_as_they_are() -> None:
    assert fit_temperature(*made_up(1, 3, n=20_000)) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("logits", "labels", "temperature"),
    [
        ([[4.0, 0.0], [0.0, 4.0]], [0, 1], LEAST_TEMPERATURE),  # all right: never sure enough
        ([[4.0, 0.0], [0.0, 4.0]], [1, 0], MOST_TEMPERATURE),  # all wrong: never unsure enough
        ([[2.0, 2.0], [2.0, 2.0]], [0, 1], 1.0),  # says nothing
        ([[1e6, -1e6], [1e6, -1e6], [1e6, -1e6]], [0, 0, 1], MOST_TEMPERATURE),
    ],
)
def test_extreme_logits_have_a_temperature_within_bounds(
    logits: list[list[float]], labels: list[int], temperature: float
) -> None:
    assert fit_temperature(np.array(logits), np.array(labels)) == temperature


@settings(deadline=None, max_examples=50)
@given(st.floats(-50, 50))
def test_a_shift_of_all_logits_of_a_case_does_not_matter(shift: float) -> None:
    logits, labels = made_up(2, 3, n=50)
    assert fit_temperature(logits + shift, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-6)


def test_temperatures_divide_member_by_member() -> None:
    tempered = apply_temperatures(np.ones((2, 3, 2), np.float32), [2.0, 4.0])
    assert np.array_equal(tempered[:, 0, 0], [0.5, 0.25])
    with pytest.raises(DataError, match="2 members need as many temperatures, got 1"):
        apply_temperatures(np.ones((2, 3, 2)), [1.0])


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("metric", THRESHOLD_METRICS)
def test_no_other_threshold_is_better_where_it_was_chosen(metric: str, positive: int) -> None:
    logits, labels = made_up(3, 2, n=120)
    probabilities = softmax(logits + np.array([0.0, 1.0]))
    chosen = choose_threshold(probabilities, labels, metric=metric, positive=positive)
    best = score(metric, probabilities, labels, positive=positive, threshold=chosen)
    others = (score(metric, probabilities, labels, positive=positive, threshold=t) for t in np.linspace(0, 1, 501))
    assert best >= max(others) - 1e-12


def test_where_calling_all_alike_is_best_it_is_chosen() -> None:
    scores = np.linspace(0.1, 0.9, 20)
    probabilities, labels = np.stack([1 - scores, scores], axis=1), np.array([1, 1, *[0] * 18])  # the wrong way round
    chosen = choose_threshold(probabilities, labels, metric="accuracy")
    assert chosen > 1
    assert score("accuracy", probabilities, labels, threshold=chosen) == 0.9
    with pytest.warns(UserWarning, match="better accuracy than calling all of them negative"):
        OperatingPoint("accuracy").choose(probabilities, labels)


def test_among_equal_thresholds_the_one_nearest_to_a_half_is_taken() -> None:
    scores = np.array([0.1, 0.2, 0.6, 0.9])
    probabilities = np.stack([1 - scores, scores], axis=1)
    assert choose_threshold(probabilities, np.array([0, 1, 0, 1])) == pytest.approx(0.75)  # as good as 0.15


def test_many_cases_are_thinned_and_still_near_the_optimum() -> None:
    logits, labels = made_up(4, 2, n=5000)
    probabilities = softmax(logits)
    chosen = score("accuracy", probabilities, labels, threshold=choose_threshold(probabilities, labels))
    assert chosen == pytest.approx(score("accuracy", probabilities, labels, threshold=0.5), abs=0.01)


def test_what_cannot_be_chosen_is_refused() -> None:
    logits, labels = made_up(0, 2)
    with pytest.raises(ConfigError, match="no threshold can be chosen by 'auroc'"):
        choose_threshold(softmax(logits), labels, metric="auroc")
    with pytest.raises(DataError, match="both classes"):
        choose_threshold(softmax(logits), np.zeros_like(labels))
    with pytest.raises(DataError, match="finite logits"):
        fit_temperature(np.full((2, 2), np.nan), np.array([0, 1]))
