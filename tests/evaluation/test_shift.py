"""Shift: next to nothing among patients of one source, plain to see where colours are others, always with a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from histotune.data.cohort import Cohort
from histotune.evaluation.shift import (
    COLOUR,
    EMBEDDING,
    STAIN,
    UNITS,
    Sample,
    _auroc,
    _mean_stains,
    compare,
    measure_shift,
    separability,
)
from histotune.exports.export import export_trial
from histotune.exports.model import Export, load
from histotune.storage.study_folder import StudyFolder


@pytest.fixture
def model(trained_study: StudyFolder, tmp_path: Path) -> Export:
    return load(export_trial(trained_study, 0, tmp_path / "export"))


def tinted(cohort: Cohort, rows: np.ndarray, tint: tuple[float, float, float] = (1, 1, 1)) -> Cohort:
    """Take some cases of a cohort through a coloured glass."""
    images = np.rint(np.asarray(cohort.arrays["image"][rows]) * np.array(tint)).astype(np.uint8)
    table = cohort.table.iloc[rows].reset_index(drop=True)
    return replace(cohort, table=table, arrays={"image": images}, present={"image": np.ones(len(rows), bool)})


def test_the_studys_own_cases_are_not_shifted(model: Export, small_cohort: Cohort, trained_study: StudyFolder) -> None:
    rows = np.flatnonzero(trained_study.split["part"] != "test")
    result = measure_shift(model, trained_study, {32: small_cohort}, {32: tinted(small_cohort, rows)})
    assert set(result) == {COLOUR, STAIN, EMBEDDING}
    assert result[COLOUR].value == result[STAIN].value == 0
    assert not any(one.shifted for one in result.values())


def test_a_tint_is_flagged_by_all_indicators(model: Export, small_cohort: Cohort, trained_study: StudyFolder) -> None:
    other = tinted(small_cohort, np.arange(len(small_cohort)), (1.0, 0.7, 0.85))
    result = measure_shift(model, trained_study, {32: small_cohort}, {32: other})
    assert all(one.shifted for one in result.values())
    assert result[COLOUR].value > 2 * result[COLOUR].own_high
    assert "SHIFTED" in str(result[COLOUR])


def test_few_patients_of_one_source_are_seldom_called_shifted() -> None:
    flags = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(26), 10)
        centres = rng.normal(0, 1, (26, 3))
        values = centres[patients] + rng.normal(0, 1, (260, 3))
        own, other = patients < 20, patients >= 20
        sides = [Sample(values[rows], patients[rows]) for rows in (own, other)]
        flags.append(compare(sides[0], sides[1], separability, "", rng).shifted)
    assert np.mean(flags) <= 0.2  # 6 % of 200 draws; nominally 5


def test_separability_is_a_half_for_one_source_and_one_for_two() -> None:
    rng = np.random.default_rng(0)
    one, other = (Sample(rng.normal(size=(400, 4)), np.arange(400) // 4) for _ in range(2))
    assert separability(one, other) == pytest.approx(0.5, abs=0.06)
    assert separability(one, Sample(other.values + 5, other.patients)) == pytest.approx(1.0)


def test_a_patient_is_never_on_both_sides_of_the_classifier() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 10)
    centres = 10 * rng.normal(size=(40, 4))  # whoever has seen a patient knows it again
    sides = [
        Sample(centres[patients[rows]] + rng.normal(size=(200, 4)), patients[rows])
        for rows in (slice(0, 200), slice(200, 400))
    ]
    assert separability(*sides) < 0.75


def test_one_patient_has_no_scale_and_says_so() -> None:
    one = Sample(np.zeros((5, 2)), np.zeros(5))
    result = compare(one, one, separability, UNITS[EMBEDDING], np.random.default_rng(0))
    assert not result.shifted
    assert "not known" in str(result)
    distance: Callable[[Sample, Sample], float] = lambda one, other: 2.0  # noqa: E731
    assert "too few patients in the study for a comparison" in str(
        compare(one, one, distance, "px", np.random.default_rng(0))
    )


def test_stains_are_found_in_a_mixture_of_known_densities() -> None:
    stains = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
    light = 256 * 10 ** -(np.array([0.5, 0.3]) @ stains) - 1
    result = _mean_stains(np.broadcast_to(np.rint(light).astype(np.uint8), (1, 4, 4, 3)))
    assert result[0] == pytest.approx([0.5, 0.3], abs=0.02)


def test_the_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    lower, higher = rng.integers(0, 9, 50), rng.integers(2, 12, 30)
    truth = np.repeat([0, 1], [50, 30])
    assert _auroc(lower, higher) == pytest.approx(roc_auc_score(truth, np.concatenate([lower, higher])))
