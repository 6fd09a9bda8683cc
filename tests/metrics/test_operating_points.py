"""A threshold keeps what was asked of it, beats all others that do, and is reported on patients that it never saw."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_curve

from histotune.ensembles.crossfit import calibration, parts_by_patient, reached, tune
from histotune.ensembles.diversity import diversity
from histotune.errors import ConfigError, StudyError
from histotune.metrics.calibration import fit_temperature, tempered
from histotune.metrics.operating_points import OperatingPoint, knowable
from histotune.metrics.scores import decide, score


def made_up(seed: int, cases: int = 400, patients: int = 40, skill: float = 1.5) -> tuple[np.ndarray, ...]:
    """Draw probabilities [n, 2] that know something, labels and patients, whose cases are alike."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(patients, size=cases)
    labels = (rng.random(cases) < 0.35).astype(np.int64)
    scores = rng.normal(size=cases) + skill * labels + rng.normal(size=patients)[owner] * 0.5
    positive = np.round(1 / (1 + np.exp(-scores)), 2)  # with ties
    return np.stack([1 - positive, positive], axis=1), labels, np.array([f"p{k}" for k in owner])


def at(threshold: float, probabilities: np.ndarray, labels: np.ndarray, positive: int = 1) -> tuple[float, float]:
    """Count sensitivity and specificity by hand."""
    called = decide(probabilities, positive=positive, threshold=threshold) == positive
    hits = labels == positive
    return float(called[hits].mean()), float((~called)[~hits].mean())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), asked=st.sampled_from([0.5, 0.8, 0.95]), positive=st.sampled_from([0, 1]))
def test_a_wanted_sensitivity_is_reached_with_the_best_specificity_of_the_roc_curve(
    seed: int, asked: float, positive: int
) -> None:
    probabilities, labels, _ = made_up(seed)
    chosen = OperatingPoint("sensitivity", asked).choose(probabilities, labels, positive=positive)
    sensitivity, specificity = at(chosen, probabilities, labels, positive)
    false, true, _ = roc_curve(labels == positive, probabilities[:, positive], drop_intermediate=False)
    assert sensitivity >= asked
    assert specificity == pytest.approx(1 - false[true >= asked - 1e-12].min())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), asked=st.sampled_from([0.5, 0.8, 0.95]))
def test_a_wanted_specificity_is_reached_with_the_best_sensitivity(seed: int, asked: float) -> None:
    probabilities, labels, _ = made_up(seed)
    sensitivity, specificity = at(
        OperatingPoint("specificity", asked).choose(probabilities, labels), probabilities, labels
    )
    false, true, _ = roc_curve(labels, probabilities[:, 1], drop_intermediate=False)
    assert specificity >= asked
    assert sensitivity == pytest.approx(true[1 - false >= asked - 1e-12].max())


@pytest.mark.parametrize("seed", range(5))
def test_youdens_point_is_the_best_of_the_roc_curve(seed: int) -> None:
    probabilities, labels, _ = made_up(seed)
    false, true, _ = roc_curve(labels, probabilities[:, 1], drop_intermediate=False)
    result = at(OperatingPoint("youden").choose(probabilities, labels), probabilities, labels)
    assert sum(result) - 1 == pytest.approx((true - false).max())


@pytest.mark.parametrize("ratio", [0.5, 1.0, 4.0])
def test_no_other_threshold_costs_less(ratio: float) -> None:
    probabilities, labels, _ = made_up(3)

    def cost(threshold: float) -> float:
        called = probabilities[:, 1] >= threshold
        return float(ratio * (~called & (labels == 1)).sum() + (called & (labels == 0)).sum())

    chosen = OperatingPoint("cost", ratio).choose(probabilities, labels)
    assert cost(chosen) == min(cost(threshold) for threshold in np.linspace(0, 1.001, 1200))


def test_what_is_reached_by_calling_all_alike_is_refused_and_says_what_can_be() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])  # the lowest is a positive
    labels = np.array([1, 0, 0, 1, 0, 1])
    probabilities = np.stack([1 - scores, scores], axis=1)
    with (
        pytest.warns(UserWarning, match="3 positive cases"),
        pytest.raises(
            StudyError, match=r"sensitivity of 0.95 is reached only by calling every case positive; 0.667 .*0.667"
        ),
    ):
        OperatingPoint("sensitivity", 0.95).choose(probabilities, labels)
    with pytest.raises(StudyError, match="nothing is better than calling all of them alike"):
        OperatingPoint("cost", 1000).choose(probabilities, labels)
    with pytest.raises(StudyError, match="same probability"), pytest.warns(UserWarning, match="3 positive"):
        OperatingPoint("sensitivity", 0.5).choose(np.full((6, 2), 0.5), labels)
    with pytest.raises(StudyError, match="0 positive and 6 negative"):
        OperatingPoint("youden").choose(probabilities, np.zeros(6, np.int64))


def test_too_few_positives_to_tell_are_warned_of() -> None:
    probabilities, labels, _ = made_up(0)
    some = np.r_[np.flatnonzero(labels == 1)[:10], np.flatnonzero(labels == 0)]
    with pytest.warns(
        UserWarning, match=r"10 positive cases are too few to confirm a sensitivity of 0.95.* 0.74 .*at least 59"
    ):
        OperatingPoint("sensitivity", 0.95).choose(probabilities[some], labels[some])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OperatingPoint("sensitivity", 0.95).choose(probabilities, labels)
    assert knowable(58) < 0.95 <= knowable(59)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sensitvity=0.9", "Did you mean 'sensitivity'"),
        ("sensitivity", "write it as 'sensitivity=0.95'"),
        ("youden=0.5", "write it as 'youden'"),
        ("sensitivity=95", "lies between 0 and 1"),
        ("cost=0:1", "two positive numbers"),
        ("cost=1:0", "FN:FP"),
        ("cost=-1:-1", "FN:FP"),
        ("sensitivity=0.9:2", "no number"),
        ("cost=much", "'much' is no number"),
    ],
)
def test_what_is_no_operating_point_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        OperatingPoint.parse(text)


def test_a_point_is_written_as_it_is_read() -> None:
    for text in ("sensitivity=0.95", "specificity=0.9", "youden", "cost=2.5:1", "mcc"):
        assert str(OperatingPoint.parse(text)) == text


# --- described on patients that chose neither temperature nor threshold


def test_parts_keep_patients_whole_and_both_classes_in_what_is_learned_from() -> None:
    _, labels, patients = made_up(1, cases=60, patients=6)
    parts = parts_by_patient(patients, labels)
    assert parts is not None
    assert all(len(np.unique(parts[patients == name])) == 1 for name in np.unique(patients))
    assert all(len(np.unique(labels[parts != part])) == 2 for part in np.unique(parts))
    lonely = np.where(labels == 1, "p0", patients)
    assert parts_by_patient(lonely, labels) is None
    assert parts_by_patient(np.full(60, "p0"), labels) is None


def test_what_is_reached_is_that_of_thresholds_that_others_chose() -> None:
    raw, labels, patients = made_up(2)
    raw = tempered(np.clip(raw, 0.01, 0.99), 0.4)  # too sure, so that a temperature helps
    parts, point = parts_by_patient(patients, labels), OperatingPoint("sensitivity", 0.9)
    assert parts is not None
    tuned = tune(raw, labels, patients, parts, point)
    called = np.zeros(len(labels), bool)
    for part in np.unique(parts):
        others, own = parts != part, parts == part
        temperature = fit_temperature(
            np.log(raw[others]), labels[others], patients=patients[others], least=0.1, most=10.0
        )
        probabilities = tempered(raw[own], temperature)
        assert tuned.crossfitted[own] == pytest.approx(probabilities)
        threshold = point.choose(tempered(raw[others], temperature), labels[others])
        called[own] = probabilities[:, 1] >= threshold
    result = reached(tuned, point, labels, patients, "validation part", positive=1, replicates=200)
    assert result.sensitivity.value == pytest.approx(called[labels == 1].mean())
    assert result.specificity.value == pytest.approx(1 - called[labels == 0].mean())
    assert result.sensitivity.low < result.sensitivity.value < result.sensitivity.high
    assert "validation part, 40 patients, cross-fitted" in result.fitted_on
    assert at(result.threshold, tuned.probabilities, labels)[0] >= 0.9, "chosen on all cases, it keeps its word there"


def test_a_sensitivity_is_not_reported_better_than_it_comes_true() -> None:
    """Over many draws, what is reported is on average what new patients see; what chose the threshold is above it."""
    reported, tuned_on, true = [], [], []
    point = OperatingPoint("sensitivity", 0.9)
    for seed in range(60):
        raw, labels, patients = made_up(seed, cases=130, patients=20)
        fresh, fresh_labels, _ = made_up(seed + 10_000, cases=4000, patients=400)
        tuned = tune(raw, labels, patients, parts_by_patient(patients, labels), point, bounds=None)
        assert tuned.called is not None
        assert tuned.threshold is not None
        reported.append(tuned.called[labels == 1].mean())
        tuned_on.append(at(tuned.threshold, raw, labels)[0])
        true.append(at(tuned.threshold, fresh, fresh_labels)[0])
    assert abs(np.mean(reported) - np.mean(true)) < 0.01
    assert np.mean(tuned_on) - np.mean(true) > 0.01


def test_few_patients_are_described_on_themselves_and_that_is_said() -> None:
    raw, labels, _ = made_up(2)
    point, patients = OperatingPoint("youden"), np.full(len(labels), "p")
    tuned = tune(raw, labels, patients, None, point)
    result = reached(tuned, point, labels, patients, "validation part", positive=1, replicates=20)
    assert "too few patients" in result.fitted_on
    assert np.isnan(result.sensitivity.low)


def test_calibration_is_measured_as_scikit_learn_does() -> None:
    raw, labels, patients = made_up(4)
    sharp = tempered(np.clip(raw, 0.01, 0.99), 0.25)
    tuned = tune(sharp, labels, patients, parts_by_patient(patients, labels), None)
    result = calibration(tuned.temperature, sharp, tuned.probabilities, labels)
    for side, probabilities in (("before", sharp), ("after", tuned.probabilities)):
        assert result["brier"][side] == pytest.approx(brier_score_loss(labels, probabilities[:, 1]))
        assert result["nll"][side] == pytest.approx(log_loss(labels, probabilities))
        assert result["ece"][side] == score("ece", probabilities, labels)
    assert result["nll"]["after"] < result["nll"]["before"]


# --- diversity


def test_diversity_is_what_counting_by_hand_gives() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(3), size=(4, 50)), rng.integers(0, 3, 50)
    present = rng.random((4, 50)) < 0.8
    result = diversity(probabilities, labels, present)
    for one in range(4):
        for other in range(4):
            both = present[one] & present[other]
            a, b = (probabilities[k].argmax(axis=1)[both] for k in (one, other))
            wrong = (a != labels[both]), (b != labels[both])
            assert result["disagreement"][one][other] == pytest.approx((a != b).mean())
            assert result["double_fault"][one][other] == pytest.approx((wrong[0] & wrong[1]).mean())
            assert result["error_correlation"][one][other] == pytest.approx(np.corrcoef(*wrong)[0, 1])
    pairs = [result["disagreement"][a][b] for a in range(4) for b in range(a)]
    assert result["mean_disagreement"] == pytest.approx(np.mean(pairs))


def test_members_that_never_err_have_no_correlation_of_errors() -> None:
    result = diversity(np.eye(2)[np.zeros((2, 5), int)], np.zeros(5, int), np.ones((2, 5), bool))
    assert result["mean_disagreement"] == 0.0
    assert np.isnan(result["mean_error_correlation"])
