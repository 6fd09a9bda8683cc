"""Reliability and net benefit are what scikit-learn, or counting by hand, finds; bands resample patients."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from histotune.errors import StudyError
from histotune.metrics.bootstrap import patient_bootstrap
from histotune.metrics.scores import score
from histotune.reporting import figures
from histotune.reporting.figures._calibrated import band
from histotune.reporting.figures.decision_curve import THRESHOLDS, DecisionCurves, net_benefit
from histotune.reporting.figures.reliability import curve
from histotune.storage.study_folder import StudyFolder


def made_up(cases: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw probabilities [n, 2] that come true, labels and 30 patients."""
    rng = np.random.default_rng(0)
    positive = rng.beta(0.8, 1.5, cases)
    labels = (rng.random(cases) < positive).astype(np.int64)
    return np.stack([1 - positive, positive], axis=1), labels, rng.integers(30, size=cases).astype(str)


def test_a_reliability_curve_is_scikit_learns() -> None:
    probabilities, labels, patients = made_up()
    result = curve("", probabilities, labels, patients, positive=1, bins=10)
    seen, message = calibration_curve(labels, probabilities[:, 1], n_bins=10, strategy="quantile")
    assert result.counts.tolist() == [60] * 10
    assert result.predicted == pytest.approx(message, abs=0.002)
    assert result.observed == pytest.approx(seen, abs=0.02)
    assert result.ece == score("ece", probabilities, labels)
    assert (result.low <= result.observed).all()
    assert (result.observed <= result.high).all()


def test_equal_probabilities_stay_in_one_bin() -> None:
    scores = np.repeat([0.2, 0.7], 50)
    probabilities = np.stack([1 - scores, scores], axis=1)
    labels = (np.arange(100) % 10 < np.where(np.arange(100) < 50, 2, 7)).astype(np.int64)
    result = curve("", probabilities, labels, np.arange(100).astype(str), positive=1, bins=10)
    assert result.counts.tolist() == [50, 50]
    assert result.predicted == pytest.approx([0.2, 0.7])
    assert result.observed == pytest.approx([0.2, 0.7])


def test_of_more_classes_the_predicted_one_is_asked() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 200)
    labels = np.random.default_rng(1).integers(3, size=200)
    result = curve("", probabilities, labels, np.arange(200).astype(str), positive=1, bins=4)
    assert result.counts @ result.observed / 200 == pytest.approx(score("accuracy", probabilities, labels))


def test_net_benefit_is_that_of_vickers_and_elkin() -> None:
    probabilities, labels, _ = made_up()
    hits, called = labels == 1, probabilities[:, [1]] >= THRESHOLDS
    result = net_benefit(called, hits, THRESHOLDS)
    for at in (4, 29, 79):
        threshold = THRESHOLDS[at]
        true, false = (called[:, at] & hits).sum(), (called[:, at] & ~hits).sum()
        assert result[at] == pytest.approx(true / 600 - false / 600 * threshold / (1 - threshold))
    everybody = net_benefit(np.ones_like(called), hits, THRESHOLDS)
    assert everybody[round(hits.mean() * 100) - 1] == pytest.approx(0, abs=0.01), "zero at the prevalence"


def test_a_band_is_the_bootstrap_over_patients() -> None:
    probabilities, labels, patients = made_up()
    right = (probabilities.argmax(axis=1) == labels).astype(float)
    low, high = band(patients, np.column_stack([right, np.ones(600)]), lambda s: s[:, :1] / s[:, 1:])
    other = patient_bootstrap("accuracy", probabilities, labels, patients, replicates=2000)
    assert low[0] == pytest.approx(other.low, abs=0.01)
    assert high[0] == pytest.approx(other.high, abs=0.01)


def test_curves_of_a_study_are_of_held_out_cases(trained_study: StudyFolder) -> None:
    saved = trained_study.trials()[0].predictions()
    shown = figures.compute("reliability", trained_study, of=0)
    assert [one.name for one in shown.curves] == ["as trained", "after temperature scaling"]
    assert shown.curves[0].ece == pytest.approx(trained_study.trials()[0].metrics["ece"])
    assert all(one.counts.sum() == len(saved.labels) for one in shown.curves)
    worth = figures.compute("decision_curve", trained_study, of=0)
    assert worth.prevalence == pytest.approx((saved.labels == 1).mean())
    assert worth.patients == len(np.unique(saved.patients))


def test_a_decision_is_of_two_classes() -> None:
    class Three:
        """A study of three classes, as far as the figure asks."""

        class settings:
            name, classes, positive = "crc", ("a", "b", "c"), 1

    with pytest.raises(StudyError, match="two classes, treat or not, and study 'crc' has 3: a, b, c"):
        DecisionCurves("best").compute(Three())  # type: ignore[arg-type]
