"""A long-tailed training part has the published profile, the same cases for the same seed, and touches nothing else."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from histotune.api import train
from histotune.cli.app import app
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.data.imbalance import LONG_TAIL, by_patient, check_imbalance, long_tail, sample, thin
from histotune.data.splits import split
from histotune.errors import ConfigError, StudyError
from histotune.ingest.datasets.crc import CLASSES
from histotune.space import load_space
from histotune.studies.create import StudyRequest, begin
from histotune.study import open_study

CRC = np.array([10407, 10566, 11512, 11557, 8896, 13536, 8763, 10446, 14317])  # of NCT-CRC-HE-100K, in class order
ADI, TUM = 0, 8


def test_the_published_tail_of_nct_crc() -> None:
    """58,000 images, 19.0 % of the largest class and 5.2 % of the rarest; the exponential form gives 5.5 %."""
    kept = long_tail(CRC, rarest=ADI)
    assert kept.sum() == pytest.approx(58_000, abs=5)
    assert kept.argmax() == TUM
    assert kept.argmin() == ADI
    assert kept[TUM] / kept.sum() == pytest.approx(0.190, abs=0.0005)
    assert kept[ADI] / kept.sum() == pytest.approx(0.052, abs=0.004)
    assert (kept <= CRC).all()


def test_the_profile_is_exponential() -> None:
    ratios = np.diff(np.log(np.sort(long_tail(np.full(9, 100_000)))))
    assert ratios == pytest.approx(np.full(8, ratios[0]), abs=1e-4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=2, max_size=12))
def test_classes_keep_their_order_and_none_is_lost(counts: list[int]) -> None:
    before = np.array(counts)
    after = long_tail(before)
    assert (after >= 1).all()
    assert (after <= before).all()
    assert after.sum() <= np.rint(0.58 * before.sum()) + len(counts)
    order = np.argsort(-before, kind="stable")
    assert (np.diff(after[order]) <= 0).all()


def test_a_class_with_too_few_cases_shrinks_the_others_not_the_profile() -> None:
    plenty, few = long_tail(np.array([1000, 1000, 1000])), long_tail(np.array([1000, 1000, 20]))
    assert few[2] == 20
    assert few / few.sum() == pytest.approx(plenty / plenty.sum(), abs=0.02)


def test_the_seed_decides_which_cases_stay_not_how_many() -> None:
    labels = np.repeat(np.arange(9), 200)
    rows = np.flatnonzero(np.arange(len(labels)) % 3)
    about: dict[str, Any] = {"patients": np.arange(len(labels))}
    first, again, other = (thin(rows, labels, CLASSES, LONG_TAIL, seed=seed, **about) for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.bincount(labels[first]), np.bincount(labels[other]))
    assert np.array_equal(first, np.sort(first))
    assert set(first) < set(rows)


def crc_like(classes: tuple[str, ...] = CLASSES, rarest: str = "ADI") -> tuple[Cohort, np.ndarray]:
    labels = np.repeat(np.arange(len(classes)), CRC[: len(classes)] // 50)
    ids = [f"i{n:05d}" for n in range(len(labels))]
    parts = np.where(np.arange(len(labels)) % 10 == 0, "test", "train")
    table = pd.DataFrame({"id": ids, "patient": ids, "site": "", "content": ids, "x": -1, "y": -1, "part": parts})
    facts = {"patients_known": False, "long_tail_rarest": rarest}
    return Cohort("own", table, classes, {}, {}, "d", Path(), facts=facts), labels


def test_only_the_training_part_is_thinned() -> None:
    cohort, labels = crc_like()
    natural, thinned = (split(cohort, labels, "given", imbalance=name) for name in ("natural", LONG_TAIL))
    assert np.array_equal(natural.val, thinned.val)
    assert np.array_equal(natural.test, thinned.test)
    assert set(thinned.train) < set(natural.train)
    assert len(thinned.train) / len(natural.train) == pytest.approx(0.58, abs=0.005)
    assert np.bincount(labels[thinned.train]).argmin() == ADI
    assert natural.training == ""
    assert thinned.training.startswith(f"long_tail: {len(thinned.train):,} of {len(natural.train):,} cases, 3.4 to 1 (")


def test_a_rarest_class_that_the_data_lack_means_nothing() -> None:
    cohort, labels = crc_like(rarest="elsewhere")
    assert np.bincount(labels[split(cohort, labels, "given", imbalance=LONG_TAIL).train]).argmin() == 6  # NORM


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'long_tail'"):
        check_imbalance("longtail")


# --- a ratio of negatives to positives


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 9), st.data())
def test_every_beginning_of_the_order_holds_the_same_share_of_each_patient(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    patients = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = by_patient(patients, np.random.default_rng(seed))
    assert np.array_equal(np.sort(order), np.arange(len(patients)))
    length = data.draw(st.integers(0, len(order)))
    taken = np.bincount(patients[order[:length]], minlength=len(counts))
    place = taken / np.array(counts)  # the cut that all patients share lies between these shares
    assert (place - 1 / np.array(counts)).max() <= place.min() + 1 / np.array(counts).min()
    for count, held in zip(counts, taken, strict=True):
        assert abs(held - count * length / len(order)) <= 1 + count * len(counts) / len(order)


def two_classes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    patients = rng.integers(0, 40, size=6000).astype(str)
    return (rng.random(6000) < 0.3).astype(np.int64), patients


@pytest.mark.parametrize(("name", "share"), [("80:20", 0.2), ("90:10", 0.1), ("95:5", 0.05), ("99:1", 0.01)])
def test_a_ratio_keeps_all_negatives_and_thins_each_patient_alike(name: str, share: float) -> None:
    labels, patients = two_classes()
    rows = np.arange(500, 6000)
    kept = thin(rows, labels, ("no", "yes"), name, seed=1, patients=patients)
    positives = kept[labels[kept] == 1]
    assert np.array_equal(kept[labels[kept] == 0], rows[labels[rows] == 0])
    assert len(positives) / len(kept) == pytest.approx(share, abs=2e-4)
    before = {p: ((patients == p) & (labels == 1))[rows].sum() for p in np.unique(patients)}
    part = len(positives) / sum(before.values())
    assert all(abs((patients[positives] == p).sum() - part * n) <= 1 for p, n in before.items())
    again = [thin(rows, labels, ("no", "yes"), name, seed=seed, patients=patients) for seed in (1, 2)]
    assert np.array_equal(kept, again[0])
    assert not np.array_equal(kept, again[1])


def test_a_rarer_ratio_keeps_some_of_what_a_commoner_one_keeps() -> None:
    labels, patients = two_classes()
    parts = [
        thin(np.arange(6000), labels, ("no", "yes"), name, seed=1, patients=patients)
        for name in ("natural", "80:20", "90:10", "95:5", "99:1")
    ]
    assert all(set(rarer) < set(commoner) for commoner, rarer in itertools.pairwise(parts))


def test_the_other_class_may_be_the_positive_one() -> None:
    labels, patients = two_classes()
    mirrored = thin(np.arange(6000), 1 - labels, ("yes", "no"), "90:10", seed=1, patients=patients, positive=0)
    assert np.array_equal(mirrored, thin(np.arange(6000), labels, ("no", "yes"), "90:10", seed=1, patients=patients))


def test_a_ratio_that_cannot_be_is_refused() -> None:
    labels, patients = two_classes()
    with pytest.raises(ConfigError, match=r"50:50 asks for 4,\d{3} 'yes' beside 4,\d{3} 'no', and .* 2.\d to 1: take"):
        thin(np.arange(6000), labels, ("no", "yes"), "50:50", seed=1, patients=patients)
    with pytest.raises(ConfigError, match="90:10 is for two classes, and there are 9: take 'long_tail'"):
        thin(np.arange(6000), labels, CLASSES, "90:10", seed=1, patients=patients)
    for name in ("90:0", "90-10", "90:10:1", "0:1", "-9:1"):
        with pytest.raises(ConfigError, match=f"unknown imbalance '{name}': it is no ratio"):
            check_imbalance(name)


def test_a_ratio_touches_the_training_part_only(small_cohort: Cohort, small_labels: np.ndarray) -> None:
    natural, rare = (split(small_cohort, small_labels, "patient", imbalance=name) for name in ("natural", "95:5"))
    assert np.array_equal(natural.val, rare.val)
    assert np.array_equal(natural.test, rare.test)
    assert set(rare.train) < set(natural.train)
    assert rare.training.startswith(f"95:5: {len(rare.train)} of {len(natural.train)} cases, 1")


# --- as a user asks for it

SPACE = """
dataset: synthetic
options: {cases: 240, patients: 24, side: 32}
image_size: 16
epochs: 1
model: {branches: {image: {backbone: {name: alexnet, width: 4}}}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A space over few small images."""
    path = tmp_path / "small.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Any]:
    return {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}


def test_a_study_keeps_its_imbalance_and_refuses_another(small: Path, places: dict[str, Any]) -> None:
    train(small, [], imbalance="long_tail", **places)
    result = open_study("small", runs=places["runs"]).store
    counts = json.loads((next(result.singles.iterdir()) / "model.json").read_text())["counts"]
    parts = result.split["part"].value_counts()
    assert result.settings.imbalance == "long_tail"
    assert sum(counts) == parts["train"]
    assert max(counts) / min(counts) == pytest.approx(5.9, abs=0.3)  # two classes: r = 2 / 1.71 - 1
    assert f"{sum(counts)} of " in result.settings.training
    assert parts[""] > 0
    again = train(small, ["loss.name=focal"], **places)
    assert json.loads((again.folder / "model.json").read_text())["counts"] == counts
    with pytest.raises(StudyError, match="began with another imbalance: 'long_tail' then, 'natural' now"):
        train(small, [], imbalance="natural", **places)
    with pytest.raises(StudyError, match="began with another seed: 0 then, 3 now"):
        train(small, [], seed=3, **places)


def test_studies_from_before_there_was_a_choice_are_natural(small: Path, places: dict[str, Any]) -> None:
    train(small, [], **places)
    path = places["runs"] / "small" / "study.json"
    saved = json.loads(path.read_text())
    del saved["imbalance"], saved["training"]
    path.write_text(json.dumps(saved))
    assert open_study("small", runs=places["runs"]).settings.imbalance == "natural"


def test_the_command_line_takes_it_from_option_and_space_and_prints_the_counts(
    small: Path, places: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "tail.yaml").write_text("extends: small.yaml\nimbalance: long_tail\n")
    where = ["--runs", str(places["runs"]), "--cache", str(places["cache"])]
    calls = ([str(small), "--imbalance", "long_tail"], [str(tmp_path / "tail.yaml")])
    for call in calls:
        answer = CliRunner().invoke(app, ["train", *call, *where])
        assert answer.exit_code == 0, answer.output
        assert "Training set long_tail: " in answer.output
        assert "to 1 (" in answer.output
    wrong = CliRunner().invoke(app, ["search", str(small), "--imbalance", "longtail", *where])
    assert wrong.exit_code == 2
    assert "Did you mean 'long_tail'" in wrong.stderr


def test_a_space_may_say_a_ratio(tmp_path: Path) -> None:
    (tmp_path / "rare.yaml").write_text("dataset: synthetic\nimbalance: 90:10\n")  # YAML 1.1 reads this as 5,410
    assert load_space(tmp_path / "rare.yaml").imbalance == "90:10"


def test_an_unknown_name_in_a_space_is_refused_before_anything_is_prepared(small: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("extends: small.yaml\nimbalance: tail\n")
    with pytest.raises(ConfigError, match=f"unknown imbalance 'tail'.*'{LONG_TAIL}'"):
        train(tmp_path / "odd.yaml", runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# --- a limit to the training part


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=6), st.integers(6, 400), st.integers(0, 5))
def test_a_limited_part_keeps_the_proportions_of_its_classes(counts: list[int], most: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = (
        np.flatnonzero(np.arange(len(labels)) % 7 != 3)
        if len(labels) > 60 and min(counts) > 7
        else np.arange(len(labels))
    )
    before = np.bincount(labels[rows], minlength=len(counts))
    kept = sample(rows, labels, len(counts), most, seed=seed)
    after = np.bincount(labels[kept], minlength=len(counts))
    assert set(kept) <= set(rows)
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= most + len(counts)
    assert (after >= 1).all()
    if len(rows) > most:
        assert np.abs(after - before * most / len(rows)).max() <= 1
        assert np.array_equal(kept, sample(rows, labels, len(counts), most, seed=seed))
    else:
        assert np.array_equal(kept, rows)


def test_a_limited_part_leaves_the_others_as_they_are(small_cohort: Cohort, small_labels: np.ndarray) -> None:
    whole = split(small_cohort, small_labels, "patient")
    few = split(small_cohort, small_labels, "patient", training_cases=50)
    assert np.array_equal(few.val, whole.val)
    assert np.array_equal(few.test, whole.test)
    assert set(few.train) < set(whole.train)
    assert 48 <= len(few.train) <= 50
    assert few.training == f"{len(few.train)} of {len(whole.train)} cases at random, in the proportions of the classes"
    assert np.array_equal(split(small_cohort, small_labels, "patient", training_cases=0).train, whole.train)
    both = split(small_cohort, small_labels, "patient", imbalance=LONG_TAIL, training_cases=50).training
    assert both.startswith("long_tail: ")
    assert "at random" in both


def test_a_limit_below_one_case_of_each_class_is_refused() -> None:
    for most in (1, -5):
        with pytest.raises(ConfigError, match="training_cases must be 0 for all, or at least 2"):
            sample(np.arange(4), np.array([0, 1, 0, 1]), 2, most, seed=0)


def test_a_study_keeps_its_limit(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        "dataset: synthetic\noptions: {cases: 240, patients: 24, side: 16}\nimage_size: 16\n"
    )
    space, places = load_space(tmp_path / "small.yaml"), Places.of(tmp_path / "runs", tmp_path / "cache")
    store, cohorts = begin(StudyRequest(space, training_cases=60), None, places)
    assert 58 <= len(store.training_data(cohorts[16]).train) <= 60
    assert begin(StudyRequest(space), None, places)[0].settings.training_cases == 60, (
        "who asks nothing gets what there is"
    )
    with pytest.raises(StudyError, match="began with another number of training cases: 60 then, 50 now"):
        begin(StudyRequest(space, training_cases=50), None, places)
