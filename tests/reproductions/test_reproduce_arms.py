"""A reproduction over several training parts, at thresholds of the validation part, on other data; what it costs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.core.registry import load_plugins
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort, read_labels
from histotune.ensembles.crossfit import temperature_of
from histotune.errors import ConfigError, DataError
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import bootstrap_of_seeds
from histotune.metrics.calibration import apply_temperatures, choose_threshold
from histotune.models.predictor import load_model
from histotune.reproductions.measure import check_elsewhere
from histotune.reproductions.papers import Scale, Setting
from histotune.reproductions.rows import move
from histotune.reproductions.run import Reproduced, reproduce
from histotune.storage.records import TrialRecord
from histotune.studies.create import prepare_cohort

PLUGIN = """
from histotune.reproductions.papers import (REPRODUCTIONS, ComparisonTable, Reproduction, Scale, Setting)

@REPRODUCTIONS.register("arms")
def arms() -> Reproduction:
    '''Two losses on made-up images.'''
    rows, scale = ("CE", "Focal"), {"small": Scale(epochs=1, trials=1, seeds=2, cases=150)}
    decided = ("sensitivity", "specificity", "balanced_accuracy")
    return Reproduction(
        title="Two losses", reference="CE", members=(), ensembles={}, costs=True,
        contenders={"CE": ("loss.name=cross_entropy",), "Focal": ("loss.name=focal",), "Other": ("loss.name=ldam",)},
        tables=(ComparisonTable("Decided at .5", rows, decided, "balanced_accuracy"),
                ComparisonTable("Moved", rows, decided, "balanced_accuracy", at_threshold=True),
                ComparisonTable("Ranking", rows, ("auroc",), "auroc"),
                ComparisonTable("Elsewhere", rows, ("auroc",), "auroc", elsewhere=True),
                ComparisonTable("One", ("CE", "Other"), ("auroc",), "auroc")),
        settings={"rare": Setting(SPACE, scale, imbalances=("natural", "90:10"), contenders=rows),
                  "plain": Setting(SPACE, scale, contenders=rows),
                  "other": Setting(SPACE, scale, contenders=rows, trained_as="plain", external="breakhis")},
    )
"""
SPACE = """
dataset: synthetic
options: {cases: 320, patients: 24, side: 16}
metric: auroc
image_size: 16
batch_size: 16
model: {branches: {image: {backbone: {name: alexnet, width: 4}}}}
loss: {choice: {cross_entropy: {}, focal: {}, ldam: {}}}
seed: {low: 0, high: 99, default: 1}
"""
MAGNIFICATIONS = (40, 100, 200, 400)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    (folder / "parts").mkdir()
    (folder / "space.yaml").write_text(SPACE)
    (folder / "parts" / "arms.py").write_text(PLUGIN.replace("SPACE", repr(str(folder / "space.yaml"))))
    load_plugins(folder / "parts")
    breakhis(folder / "breakhis")
    return folder


def breakhis(folder: Path, patients: int = 10) -> None:
    """Made-up images under the names of BreakHis; malignant ones are darker; patient 3 lacks a magnification."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for patient in range(patients):
        label = "BM"[patient % 2]
        for magnification in MAGNIFICATIONS[: 3 if patient == 3 else 4]:
            for number in range(1 + patient % 3):
                pixels = rng.integers(60, 255 - 60 * (label == "M"), (20, 30, 3), dtype=np.uint8)
                name = f"SOB_{label}_A-14-{1000 + patient}-{magnification}-{number:03d}.png"
                Image.fromarray(pixels).save(folder / name)


def run(home: Path, on: str, said: list[str] | None = None) -> Reproduced:
    external = home / "breakhis" if on == "other" else None
    hear = None if said is None else said.append
    return reproduce(
        "arms", on=on, said=hear, external_data=external, runs=home / "runs", cache=home / "cache", out=home / on
    )


@pytest.fixture(scope="module")
def rare(home: Path) -> Reproduced:
    return run(home, "rare")


@pytest.fixture(scope="module")
def plain(home: Path) -> Reproduced:
    return run(home, "plain")


@pytest.fixture(scope="module")
def other(home: Path, plain: Reproduced) -> Reproduced:
    return run(home, "other")


# --- several training parts


def test_every_training_part_is_a_study_with_the_same_test_part(rare: Reproduced) -> None:
    natural, thinned = rare.arms
    assert [arm.name for arm in rare.arms] == ["natural", "90:10"]
    assert thinned.store.folder.name == "arms-rare-patient-small-90-10"
    tables = [arm.store.split.set_index("id")["part"] for arm in rare.arms]
    for part in ("val", "test"):
        assert (tables[0] == part).equals(tables[1] == part)
    assert thinned.store.settings.training.startswith("90:10: ")
    assert all(len(arm.store.openings()) == 1 for arm in rare.arms)
    assert natural.measured.rows.keys() == thinned.measured.rows.keys() == {"CE", "Focal"}


def test_nothing_is_searched_where_there_is_no_choice(rare: Reproduced) -> None:
    """The space's default is cross-entropy with seed 1, which is trained anyway."""
    for arm in rare.arms:
        seeds = sorted((r.config()["loss"]["name"], r.config()["seed"]) for r in arm.store.trials())
        assert seeds == [("cross_entropy", 1), ("cross_entropy", 2), ("focal", 1), ("focal", 2)]
    assert "Nothing: each contender has one configuration" in rare.files[0].read_text()


def test_the_report_tells_the_arms_apart(rare: Reproduced) -> None:
    text, numbers = rare.files[0].read_text(), rare.files[1].read_text()
    for arm in ("natural", "90:10"):
        assert f"## {arm}: Decided at .5" in text
        assert f"\n{arm},Moved,Focal,sensitivity,2," in numbers
    assert ": One" not in text, "a table of one row compares nothing"
    assert text.count("## What the networks cost to use") == 1


def test_the_curve_shows_the_make_up_of_every_training_part(rare: Reproduced) -> None:
    (page,) = rare.files[3:]
    drawn = page.read_text()
    for arm in rare.arms:
        cases = (arm.store.split["part"] == "train").sum()
        counts = arm.store.settings.training_cases
        assert cases <= counts
        assert f"{arm.name}\\u003cbr\\u003e" in drawn
    assert "balanced accuracy,\\u003cbr\\u003ethreshold of validation" in drawn


def test_the_same_again_only_writes(home: Path, rare: Reproduced) -> None:
    before = {path: path.read_bytes() for path in rare.files}
    message: list[str] = []
    again = run(home, "rare", message)
    assert {path: path.read_bytes() for path in again.files} == before
    assert all(len(arm.store.openings()) == 1 for arm in again.arms)
    assert not any("min left" in line or "scoring" in line for line in message)


def test_a_budget_names_imbalances_of_its_setting() -> None:
    setting = Setting("idc_fusions", {"small": Scale(1, 1, 1, imbalances=("99:1",))}, imbalances=("natural", "90:10"))
    with pytest.raises(ConfigError, match="no such imbalance here: '99:1'"):
        setting.arms(setting.scale("small"))
    with pytest.raises(ConfigError, match="unknown imbalance '9010'"):
        Setting("idc_fusions", {}, imbalances=("9010",))


# --- thresholds of the validation part


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.9])
def test_a_moved_threshold_decides_alike_and_keeps_the_ranking(positive: int, threshold: float) -> None:
    rng = np.random.default_rng(1)
    p = rng.random(500)
    probabilities, labels = np.stack([1 - p, p], axis=1), rng.integers(0, 2, 500)
    moved = move(probabilities, threshold, positive)
    assert np.array_equal(metrics.decide(moved), metrics.decide(probabilities, positive=positive, threshold=threshold))
    assert moved.sum(axis=1) == pytest.approx(1)
    assert metrics.auroc(moved, labels, positive) == metrics.auroc(probabilities, labels, positive)


def test_each_training_decides_at_the_threshold_of_its_validation_part(plain: Reproduced) -> None:
    (arm,) = plain.arms
    for label, records in arm.trained.items():
        for place, record in enumerate(records):
            saved = record.predictions()
            temperature = temperature_of(saved.logits, saved.labels, saved.patients)
            p = metrics.softmax(apply_temperatures(saved.logits[None], [temperature])[0])
            threshold = choose_threshold(p, saved.labels)
            rows = np.flatnonzero(arm.store.split["part"] == "test")
            test, labels = scored(record, cohort_of(plain), rows), read_labels(cohort_of(plain))[rows]
            expected = metrics.evaluate(test, labels, threshold=threshold)
            for name in ("sensitivity", "specificity", "balanced_accuracy"):
                assert arm.measured.at_threshold[label].values[name][place] == pytest.approx(expected[name])
            assert arm.measured.rows[label].values["sensitivity"][place] == pytest.approx(
                metrics.score("sensitivity", test, labels)
            )


def cohort_of(result: Reproduced) -> Cohort:
    settings = result.arms[0].store.settings
    runs = result.arms[0].store.folder.parent
    return prepare_cohort(settings.dataset, settings.options, None, 16, Places.of(runs, runs.parent / "cache"))


def scored(record: TrialRecord, cohort: Cohort, rows: np.ndarray) -> np.ndarray:
    """Score cases with one training, at the temperature of its validation part."""
    saved = record.predictions()
    temperature = temperature_of(saved.logits, saved.labels, saved.patients)
    logits = load_model(record.folder).logits(np.asarray(cohort.arrays["image"][rows]))
    return metrics.softmax(apply_temperatures(logits[None], [temperature])[0])


# --- other data


def external(home: Path) -> tuple[Cohort, np.ndarray]:
    cohort = prepare_cohort("breakhis", {}, home / "breakhis", 16, Places.of(home / "runs", home / "cache"))
    return cohort, read_labels(cohort)


def test_other_data_are_measured_by_magnification_and_patient(home: Path, other: Reproduced) -> None:
    cohort, labels = external(home)
    arms = {arm.name: arm.measured for arm in other.arms}
    levels = [f"{name}, {level}" for name in ("40x", "100x", "200x", "400x", "mean") for level in LEVELS]
    assert list(arms) == levels
    patients = cohort.table["patient"].to_numpy(str)
    strata = np.array([case.split("_")[1] for case in cohort.table["id"]])
    record = other.arms[0].trained["Focal"][0]
    p = scored(record, cohort, np.arange(len(cohort)))
    result: dict[str, list[float]] = {level: [] for level in LEVELS}
    for name in ("40x", "100x", "200x", "400x"):
        rows = strata == name
        names = np.unique(patients[rows])
        means = np.array([p[rows & (patients == one)].mean(axis=0) for one in names])
        theirs = np.array([labels[rows & (patients == one)][0] for one in names])
        expected = {LEVELS[0]: metrics.auroc(p[rows], labels[rows]), LEVELS[1]: metrics.auroc(means, theirs)}
        for level in LEVELS:
            measured = arms[f"{name}, {level}"]
            assert measured.rows["Focal"].values["auroc"][0] == pytest.approx(expected[level])
            assert (measured.cases["test"], measured.patients["test"]) == (rows.sum(), len(names))
            result[level].append(expected[level])
    for level in LEVELS:
        assert arms[f"mean, {level}"].rows["Focal"].values["auroc"][0] == pytest.approx(np.mean(result[level]))
    assert arms["400x, by image"].patients["test"] == 9


LEVELS = ("by image", "by patient")


def test_the_mean_over_magnifications_draws_patients_not_images(home: Path, other: Reproduced) -> None:
    cohort, labels = external(home)
    strata = np.array([case.split("_")[1] for case in cohort.table["id"]])
    records = other.arms[0].trained["CE"]
    every = [scored(record, cohort, np.arange(len(cohort))) for record in records]
    expected = bootstrap_of_seeds("auroc", every, labels, cohort.table["patient"].to_numpy(str), strata=strata)
    result = {arm.name: arm.measured for arm in other.arms}["mean, by image"].rows["CE"].intervals["auroc"]
    assert (result.value, result.low, result.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_the_trainings_of_another_setting_are_measured_and_its_seal_stays_closed(
    plain: Reproduced, other: Reproduced
) -> None:
    assert {arm.store.folder for arm in other.arms} == {plain.arms[0].store.folder}
    assert len(other.arms[0].store.trials()) == 4
    assert len(other.arms[0].store.openings()) == 1, "that of the other setting"
    head = other.files[0].read_text().split("## ")[0]
    assert "of which nothing was trained on or fitted to" in head
    assert "opened" not in head
    assert [table.title for table, _ in other.arms[0].tables] == ["Elsewhere"]
    assert "Elsewhere" not in plain.files[0].read_text()


def test_data_of_the_study_are_no_other_data(home: Path, plain: Reproduced) -> None:
    cohort = cohort_of(plain)
    with pytest.raises(DataError, match="of 320 images of 'synthetic' stand in study"):
        check_elsewhere(plain.arms[0].store, cohort, read_labels(cohort))


def test_a_patient_of_two_labels_is_refused_before_anything_is_trained(home: Path, tmp_path: Path) -> None:
    breakhis(tmp_path / "mixed")
    first = sorted((tmp_path / "mixed").glob("SOB_B_A-14-1000-40-*"))[0]
    first.rename(first.with_name(first.name.replace("SOB_B", "SOB_M")))
    where = {"runs": tmp_path / "runs", "cache": tmp_path / "cache", "out": tmp_path}
    with pytest.raises(DataError, match="patient '14-1000' has images of both classes"):
        reproduce("arms", on="other", external_data=tmp_path / "mixed", **where)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()
    for file in (tmp_path / "mixed").iterdir():
        file.rename(re.sub(r"-\d+(-\d+\.png)", r"\1", str(file)))
    with pytest.raises(DataError, match="lacks 40, 100, 200 or 400 for its magnification"):
        reproduce("arms", on="other", external_data=tmp_path / "mixed", **where)  # type: ignore[arg-type]


# --- what it costs


def test_what_networks_cost_stands_in_the_report(plain: Reproduced) -> None:
    (arm,) = plain.arms
    costs = arm.measured.efficiencies
    assert costs.keys() == {"CE", "Focal"}
    assert costs["CE"].parameters == arm.trained["CE"][0].metrics["parameters"]
    text = plain.files[0].read_text().split("## What the networks cost to use")[1].split("##")[0]
    assert f"| CE | {costs['CE'].parameters:,} | {costs['CE'].flops / 1e6:.1f} |" in text
