"""Laws of a split: nobody on both sides, everybody somewhere, the same for the same seed, every class everywhere."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.data.cohort import Cohort, read_labels
from histotune.data.splits import FRACTIONS, PROTOCOLS, Split, describe_change, split
from histotune.errors import ConfigError, DataError
from histotune.storage.study_folder import StudyFolder


def cohort_of(patients: list[str], *, parts: list[str] | None = None, known: bool = True, name: str = "own") -> Cohort:
    """A cohort without images."""
    table = pd.DataFrame({"id": [f"i{n:05d}" for n in range(len(patients))], "patient": patients, "site": ""})
    table = table.assign(content=table["id"].map(lambda i: i[::-1]), x=-1, y=-1, part=parts or "")
    return Cohort(name, table, ("a", "b"), {}, {}, "d", Path(), facts={"patients_known": known})


def uneven(seed: int, patients: int = 40) -> tuple[Cohort, np.ndarray]:
    """Patients with 1 to some hundred cases, and each with its own share of the second class."""
    rng = np.random.default_rng(seed)
    counts = np.ceil(rng.lognormal(2.5, 1.0, patients)).astype(int)
    owner = np.repeat(np.arange(patients), counts)
    labels = (rng.random(len(owner)) < rng.beta(1, 2, patients)[owner]).astype(np.int64)
    return cohort_of([f"p{n}" for n in owner]), labels


def rows_of(result: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return result.train, result.val, result.test


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("protocol", ["patient", "patient_70_30", "patch_random_70_30"])
def test_parts_are_disjoint_complete_sorted_and_hold_every_class(protocol: str, seed: int) -> None:
    cohort, labels = uneven(seed)
    result = split(cohort, labels, protocol, seed=seed)
    together = np.concatenate(rows_of(result))
    assert np.array_equal(np.sort(together), np.arange(len(cohort)))
    for rows in rows_of(result):
        assert np.array_equal(rows, np.sort(rows))
        assert set(labels[rows]) == {0, 1}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("protocol", ["patient", "patient_70_30"])
def test_no_patient_stands_on_two_sides(protocol: str, seed: int) -> None:
    cohort, labels = uneven(seed)
    result = split(cohort, labels, protocol, seed=seed)
    patients = cohort.table["patient"]
    for one, other in itertools.combinations(rows_of(result), 2):
        assert not set(patients[one]) & set(patients[other])
    assert not result.leaky


@pytest.mark.parametrize("protocol", ["patient", "patch_random_70_30"])
def test_the_seed_decides(protocol: str) -> None:
    cohort, labels = uneven(0)
    first, again, other = (split(cohort, labels, protocol, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(rows_of(first), rows_of(again), strict=True))
    assert not np.array_equal(first.test, other.test)


@pytest.mark.parametrize("seed", range(8))
def test_sizes_classes_and_patients_come_near_their_fractions(seed: int) -> None:
    cohort, labels = uneven(seed, patients=100)
    result = split(cohort, labels, "patient", seed=seed)
    patients = cohort.table["patient"]
    for rows, fraction in zip(rows_of(result), FRACTIONS, strict=True):
        assert len(rows) / len(cohort) == pytest.approx(fraction, abs=0.02)
        assert labels[rows].mean() == pytest.approx(labels.mean(), abs=0.03)
        assert patients[rows].nunique() / 100 == pytest.approx(fraction, abs=0.04)


@pytest.mark.parametrize("seed", range(8))
def test_a_huge_patient_does_not_wreck_the_fractions(seed: int) -> None:
    cohort, labels = uneven(seed)
    others = len(cohort)
    patients = [*cohort.table["patient"], *["huge"] * others]  # half of all cases are one patient's
    labels = np.concatenate([labels, np.arange(others) % 2])
    result = split(cohort_of(patients), labels, "patient", seed=seed)
    sizes = [len(rows) / len(labels) for rows in rows_of(result)]
    assert sizes == pytest.approx(FRACTIONS, abs=0.06)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any), min_size=3, max_size=6), st.integers(0, 9))
def test_a_split_is_found_whenever_there_is_one(counts: list[tuple[int, int]], seed: int) -> None:
    held = np.array(counts)
    possible = any(
        all((held[np.array(parts) == part].sum(axis=0) > 0).all() for part in range(3))
        for parts in itertools.product(range(3), repeat=len(counts))
    )
    patients = [f"p{n}" for n, pair in enumerate(counts) for _ in range(sum(pair))]
    labels = np.array([label for pair in counts for label, n in enumerate(pair) for _ in range(n)], dtype=np.int64)
    if possible:
        result = split(cohort_of(patients), labels, "patient", seed=seed)
        assert all(set(labels[rows]) == {0, 1} for rows in rows_of(result))
    else:
        with pytest.raises(DataError, match="lacks a class"):
            split(cohort_of(patients), labels, "patient", seed=seed)


def test_one_patient_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"1 patient \(p1\): a split by patient into 3 parts needs at least 3"):
        split(cohort_of(["p1"] * 6), np.array([0, 1] * 3), "patient")


def test_a_class_of_two_patients_cannot_be_in_three_parts() -> None:
    patients = [f"p{n}" for n in range(10)]
    with pytest.raises(DataError, match=r"lacks a class \(a: \d+, b: 0\)"):
        split(cohort_of(patients), np.array([1, 1] + [0] * 8), "patient")


def test_unknown_protocols_and_odd_fractions_are_refused() -> None:
    cohort, labels = uneven(0)
    with pytest.raises(ConfigError, match="Did you mean 'patient'"):
        split(cohort, labels, "patients")
    with pytest.raises(ConfigError, match="sum to 1"):
        split(cohort, labels, "patient", fractions=(0.5, 0.5, 0.5))


def test_the_leaky_protocol_says_so_in_name_and_flag() -> None:
    cohort, labels = uneven(0)
    result = split(cohort, labels, "patch_random_70_30")
    assert result.leaky
    assert "leaky" in PROTOCOLS["patch_random_70_30"]
    for label in (0, 1):
        share = (labels[result.test] == label).sum() / (labels == label).sum()
        assert share == pytest.approx(0.3, abs=0.01)


def test_unknown_patients_make_every_split_leaky() -> None:
    cohort = cohort_of([f"i{n}" for n in range(60)], known=False)
    assert split(cohort, np.arange(60) % 2, "patient").leaky


def test_a_hundred_thousand_cases_of_unknown_patients_are_split_in_seconds() -> None:
    labels = np.random.default_rng(0).choice(3, 100_000, p=[0.9, 0.0999, 0.0001]).astype(np.int64)
    cohort = cohort_of([f"i{n:06d}" for n in range(len(labels))], known=False)
    began = time.perf_counter()
    result = split(cohort, labels, "patient", seed=1)
    assert time.perf_counter() - began < 20
    for label in range(3):
        shares = [(labels[rows] == label).sum() / (labels == label).sum() for rows in rows_of(result)]
        assert shares == pytest.approx(FRACTIONS, abs=0.5 / (labels == label).sum() + 1e-9)


@pytest.mark.parametrize("rare", [3, 4, 5, 6, 7, 11])
def test_a_rare_class_of_unknown_patients_is_in_every_part(rare: int) -> None:
    labels = np.array([0] * 1200 + [1] * rare)
    result = split(cohort_of([f"i{n:04d}" for n in range(len(labels))], known=False), labels, "patient")
    assert all((labels[rows] == 1).any() for rows in rows_of(result))


def test_the_source_may_prescribe_how_much_validates() -> None:
    cohort = cohort_of([f"i{n:04d}" for n in range(2400)], parts=["train"] * 2000 + ["test"] * 400, known=False)
    cohort = dataclasses.replace(cohort, facts={"validation_share": 0.15})
    result = split(cohort, np.arange(2400) % 2, "given")
    assert [len(rows) for rows in rows_of(result)] == [1700, 300, 400]


def test_given_parts_are_taken_as_they_are() -> None:
    parts = ["train", "train", "val", "val", "test", "test", "", ""]
    result = split(cohort_of(list("aabbccdd"), parts=parts), np.array([0, 1] * 4), "given")
    assert [list(rows) for rows in rows_of(result)] == [[0, 1], [2, 3], [4, 5]]  # no part: left out


def test_a_missing_validation_part_is_drawn_from_the_training_patients() -> None:
    patients = [f"p{n // 4}" for n in range(80)]
    parts = ["train"] * 60 + ["test"] * 20
    result = split(cohort_of(patients, parts=parts), np.arange(80) % 2, "given", seed=3)
    assert list(result.test) == list(range(60, 80))
    assert len(result.val) == 12
    assert not {patients[row] for row in result.train} & {patients[row] for row in result.val}


def test_given_parts_that_share_a_patient_are_refused() -> None:
    parts = ["train", "train", "val", "val", "test", "test"]
    with pytest.raises(DataError, match=r"1 patients in more than one part \(a\)"):
        split(cohort_of(list("aabbca"), parts=parts), np.array([0, 1] * 3), "given")


def test_given_needs_marked_cases() -> None:
    with pytest.raises(DataError, match="no case of 40 is marked train and test"):
        split(cohort_of([f"p{n}" for n in range(40)]), np.arange(40) % 2, "given")


def test_the_official_lists_are_for_idc_only() -> None:
    cohort, labels = uneven(0)
    with pytest.raises(ConfigError, match="for dataset 'idc'"):
        split(cohort, labels, "official_patient")


def test_the_official_lists_on_the_real_patches(idc_cohort: Cohort) -> None:
    cohort = idc_cohort
    result = split(cohort, read_labels(cohort), "official_patient")
    patients = cohort.table["patient"]
    assert [patients[rows].nunique() for rows in rows_of(result)] == [67, 22, 36]
    # 4,246 / 1,082 / 1,564 in the index; the rest are strips of less than half a patch
    assert [len(rows) for rows in rows_of(result)] == [4_245, 1_073, 1_562]
    by_patient = split(cohort, read_labels(cohort), "patient")
    for rows, fraction in zip(rows_of(by_patient), FRACTIONS, strict=True):
        assert len(rows) / len(cohort) == pytest.approx(fraction, abs=0.01)


def test_unchanged_data_have_no_change_to_describe(small_study: StudyFolder, small_cohort: Cohort) -> None:
    assert describe_change(small_study.split, small_cohort, small_cohort.digest) is None


def changed(cohort: Cohort, table: pd.DataFrame) -> Cohort:
    return Cohort(cohort.name, table.reset_index(drop=True), cohort.classes, {}, {}, "other", Path())


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("added", "1 cases were added (zzz)"),
        ("removed", "2 cases were removed (case-000000, case-000001)"),
        ("pixels", "5 cases have other content (case-000000, case-000001, case-000002, ...)"),
        ("patient", "1 cases have another patient (case-000003)"),
        ("order", "the order of the cases differs"),
        ("labels", "labels, sites, prescribed parts or options differ"),
    ],
)
def test_every_change_is_said(small_study: StudyFolder, small_cohort: Cohort, what: str, said: str) -> None:
    table = small_cohort.table.copy()
    if what == "added":
        table = pd.concat([table, table[:1].assign(id="zzz")])
    elif what == "removed":
        table = table[2:]
    elif what == "pixels":
        table.loc[:4, "content"] = "0"
    elif what == "patient":
        table.loc[3, "patient"] = "somebody else"
    elif what == "order":
        table = table[::-1]
    answer = describe_change(small_study.split, changed(small_cohort, table), small_cohort.digest)
    assert answer is not None
    assert said in answer
