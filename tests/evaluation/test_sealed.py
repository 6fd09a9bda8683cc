"""The seal law: test labels are read once everything else is ready, on the record, beside what the model must beat."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_studies import reread

from histotune.cli.evaluate import _show as show
from histotune.core import files
from histotune.data.cohort import Cohort
from histotune.data.splits import Split
from histotune.ensembles.merge import merge
from histotune.errors import DataError, HistotuneError, StudyError
from histotune.evaluation.external import correspondence, evaluate_external
from histotune.evaluation.sealed import _patients_note, evaluate
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.model import Export, load
from histotune.metrics import scores as metrics
from histotune.models.predictor import SYMMETRIES
from histotune.storage.study_folder import StudyFolder

REPLICATES = 50


@pytest.fixture
def model(trained_study: StudyFolder, tmp_path: Path) -> Export:
    merged = merge(trained_study, top=2, replicates=20)
    return load(export_ensemble(trained_study, merged, tmp_path / "export"))


@pytest.fixture
def stranger(small_cohort: Cohort) -> Cohort:
    """The same images turned around, so that no image is one of the study's."""
    turned = np.ascontiguousarray(small_cohort.arrays["image"][:60, ::-1])
    table = small_cohort.table.iloc[:60].assign(content=[f"turned{row}" for row in range(60)])
    present = {"image": np.ones(60, bool)}
    return replace(
        small_cohort, name="elsewhere", table=table, arrays={"image": turned}, present=present, digest="0" * 16
    )


def test_it_measures_the_sealed_cases(
    model: Export, small_cohort: Cohort, trained_study: StudyFolder, small_split: Split, small_labels: np.ndarray
) -> None:
    result = evaluate(model, {32: small_cohort}, trained_study, command="test", replicates=REPLICATES)
    probabilities = model.probabilities({32: small_cohort.arrays["image"][small_split.test]})
    labels = small_labels[small_split.test]
    expected = metrics.evaluate(probabilities, labels)
    assert {name: interval.value for name, interval in result.metrics.items()} == pytest.approx(expected)
    at_threshold = metrics.evaluate(probabilities, labels, threshold=model.threshold)
    assert {name: interval.value for name, interval in result.at_threshold.items()} == pytest.approx(at_threshold)
    assert result.cases == len(labels) == np.sum(result.confusion)
    assert result.confusion == metrics.confusion_matrix(metrics.decide(probabilities), labels, 2).tolist()
    assert result.synthetic
    assert not result.leaky


def test_every_member_scores_every_case_once(
    model: Export, small_cohort: Cohort, trained_study: StudyFolder, small_split: Split
) -> None:
    seen: list[list[int]] = [[] for _ in model.members]
    views = [SYMMETRIES if member.predictor.config.tta else 1 for member in model.members]

    def count(which: int, inputs: tuple[Any, ...]) -> None:
        seen[which].append(len(next(iter(inputs[0].values()))))

    for which, member in enumerate(model.members):
        network = member.predictor.model
        network.register_forward_pre_hook(lambda _, inputs, which=which: count(which, inputs))
    evaluate(model, {32: small_cohort}, trained_study, command="test", replicates=REPLICATES)
    assert [sum(counts) for counts in seen] == [len(small_split.test) * each for each in views]


def test_the_screen_names_baselines_and_the_sealed_test_set(
    model: Export, small_cohort: Cohort, trained_study: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    show(evaluate(model, {32: small_cohort}, trained_study, command="test", replicates=REPLICATES))
    shown = capsys.readouterr().out
    assert "baseline majority_class" in shown
    assert "on the sealed test set of" in " ".join(shown.split())
    assert "control" not in shown


def test_a_test_part_of_other_patients_is_honest_where_the_rest_is_not(
    model: Export, small_cohort: Cohort, trained_study: StudyFolder
) -> None:
    path = trained_study.folder / "study.json"
    text = json.loads(path.read_text(encoding="utf-8"))
    leaky = text | {"leaky": True, "protocol": "given"}
    for apart, protocol in ((True, "given"), (False, "given"), (True, "patch_random_70_30")):
        facts = text["facts"] | {"patients_known": False, "test_of_other_patients": apart}
        files.write_json(path, leaky | {"facts": facts, "protocol": protocol})
        reread(trained_study)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the second opening
            result = evaluate(model, {32: small_cohort}, trained_study, command="test", replicates=REPLICATES)
        assert result.leaky == (not (apart and protocol == "given"))
    assert "narrower" in _patients_note(trained_study.settings)


def test_intervals_hold_their_value(model: Export, small_cohort: Cohort, trained_study: StudyFolder) -> None:
    result = evaluate(model, {32: small_cohort}, trained_study, command="test", replicates=200)
    interval = result.metrics["accuracy"]
    assert interval.low <= interval.value <= interval.high
    assert interval.low < interval.high


def test_controls_and_members_stand_beside_it(model: Export, small_cohort: Cohort, trained_study: StudyFolder) -> None:
    result = evaluate(model, {32: small_cohort}, trained_study, command="test", replicates=REPLICATES)
    assert set(result.beside) == {"best member", "uniform mean", "control majority_class", "control color_histogram"}
    assert set(result.gains) == set(result.beside)
    assert result.beside["control majority_class"]["balanced_accuracy"].value == 0.5
    gain = result.gains["control majority_class"].value
    assert gain == pytest.approx(result.metrics["balanced_accuracy"].value - 0.5)


def test_a_single_model_has_no_members_beside_it(
    small_cohort: Cohort, trained_study: StudyFolder, tmp_path: Path
) -> None:
    single = load(export_trial(trained_study, 0, tmp_path / "single"))
    result = evaluate(single, {32: small_cohort}, trained_study, command="test", replicates=REPLICATES)
    assert set(result.beside) == {"control majority_class", "control color_histogram"}


def test_every_opening_is_on_record_and_the_second_warns(
    model: Export, small_cohort: Cohort, trained_study: StudyFolder
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = evaluate(model, {32: small_cohort}, trained_study, command="first", replicates=REPLICATES)
    with pytest.warns(UserWarning, match=r"was opened 1 time before, .* 1 of them for this model"):
        second = evaluate(model, {32: small_cohort}, trained_study, command="second", replicates=REPLICATES)
    assert (first.openings_before, second.openings_before) == (0, 1)
    openings = trained_study.openings()
    assert [opening["command"] for opening in openings] == ["first", "second"]
    assert {opening["subject"] for opening in openings} == {model.digest}
    kept = json.loads((trained_study.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert [one["command"] for one in kept] == ["first", "second"]
    assert kept[0]["digest"] == model.digest
    assert kept[0]["metrics"]["auroc"]["value"] == pytest.approx(first.metrics["auroc"].value, nan_ok=True)


def test_a_failure_before_the_labels_are_needed_leaves_the_seal_closed(
    model: Export, small_cohort: Cohort, trained_study: StudyFolder
) -> None:
    changed = replace(small_cohort, digest="f" * 16)
    with pytest.raises(StudyError, match="restore the data that it began with"):
        evaluate(model, {32: changed}, trained_study, command="test")
    assert trained_study.openings() == []


def test_another_studys_export_is_refused(model: Export, small_cohort: Cohort, trained_study: StudyFolder) -> None:
    path = trained_study.folder / "study.json"
    created = trained_study.settings.created
    path.write_text(path.read_text(encoding="utf-8").replace(created, "2031-01-01T00:00:00+00:00"), encoding="utf-8")
    reread(trained_study)
    with pytest.raises(StudyError, match="may be among the test patients there"):
        evaluate(model, {32: small_cohort}, trained_study, command="test")
    assert trained_study.openings() == []


def test_a_size_that_was_not_prepared_is_named(model: Export, small_cohort: Cohort, trained_study: StudyFolder) -> None:
    with pytest.raises(StudyError, match="no cohort was prepared at 32 px"):
        evaluate(model, {64: small_cohort}, trained_study, command="test")


def test_an_external_cohort_is_measured_apart(
    model: Export, stranger: Cohort, trained_study: StudyFolder, small_labels: np.ndarray
) -> None:
    labels = small_labels[:60]
    result = evaluate_external(model, {32: stranger}, labels, replicates=REPLICATES)
    expected = metrics.evaluate(model.probabilities({32: stranger.arrays["image"]}), labels)
    assert result.part == "external cohort"
    assert {name: interval.value for name, interval in result.metrics.items()} == pytest.approx(expected)
    assert trained_study.openings() == []
    assert not (trained_study.folder / "evaluation.json").exists()


@pytest.mark.parametrize(("classes", "note"), [(("malignant", "benign"), ""), (("yes", "no"), "'yes' is 'malignant'")])
def test_classes_are_matched_by_name_else_as_the_user_says(
    model: Export, stranger: Cohort, small_labels: np.ndarray, classes: tuple[str, str], note: str
) -> None:
    same = evaluate_external(model, {32: stranger}, small_labels[:60], replicates=REPLICATES)
    renamed = replace(stranger, classes=classes, positive=0)
    given = {"yes": "malignant", "no": "benign"} if note else None
    result = evaluate_external(model, {32: renamed}, 1 - small_labels[:60], class_map=given, replicates=REPLICATES)
    assert result.metrics["auroc"].value == pytest.approx(same.metrics["auroc"].value)
    assert note in result.note
    assert bool(note) == bool(result.note)


def test_other_classes_are_refused(model: Export, stranger: Cohort) -> None:
    three = replace(stranger, classes=("a", "b", "c"))
    with pytest.raises(DataError, match=r"classes of 'elsewhere' \(a, b, c\)"):
        evaluate_external(model, {32: three}, np.zeros(60, np.int64))


@pytest.mark.parametrize("digest", ["same", "other"])
def test_nobody_walks_around_the_seal(
    model: Export, small_cohort: Cohort, small_labels: np.ndarray, digest: str
) -> None:
    disguised = small_cohort if digest == "same" else replace(small_cohort, digest="0" * 16)
    with pytest.raises(HistotuneError, match="it is evaluated on its sealed test set"):
        evaluate_external(model, {32: disguised}, small_labels)


def test_cases_that_the_study_left_out_are_an_external_cohort(
    model: Export, small_cohort: Cohort, small_labels: np.ndarray, trained_study: StudyFolder
) -> None:
    table = trained_study.split
    table.loc[:59, "part"] = ""  # as patients are who stand in none of the published lists
    files.write_text(trained_study.folder / "split.csv", table.to_csv(index=False))
    reread(trained_study)
    arrays = {name: array[:60] for name, array in small_cohort.arrays.items()}
    present = {name: there[:60] for name, there in small_cohort.present.items()}
    left = replace(small_cohort, table=small_cohort.table[:60], arrays=arrays, present=present, digest="0" * 16)
    result = evaluate_external(model, {32: left}, small_labels[:60], replicates=REPLICATES)
    assert result.cases == 60


def named(cohort: Cohort, classes: tuple[str, ...], name: str = "image_folder") -> Cohort:
    return replace(cohort, classes=classes, name=name)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (("benign", "malignant"), [0, 1]),
        (("malignant", "benign"), [1, 0]),
        (("BENIGN", "Malignant "), [0, 1]),
        (("Malignant", "benign"), [1, 0]),
    ],
)
def test_classes_correspond_by_name(stranger: Cohort, theirs: tuple[str, ...], expected: list[int]) -> None:
    numbers, _ = correspondence(("benign", "malignant"), 1, "model", named(stranger, theirs), dataset="image_folder")
    assert numbers.tolist() == expected


def test_other_class_names_are_refused_until_the_user_says_what_they_are(stranger: Cohort) -> None:
    """Neither the order of names nor the one that happens to be called positive tells which class is which."""
    cohort = named(stranger, ("malignant", "normal"))
    about: dict[str, Any] = {"dataset": "image_folder"}
    with pytest.raises(
        DataError, match=r"'normal' is none of them\. Say which it is, such as --class-map normal=benign"
    ):
        correspondence(("benign", "malignant"), 1, "model", cohort, **about)
    numbers, note = correspondence(("benign", "malignant"), 1, "model", cohort, **about, given={"normal": "benign"})
    assert numbers.tolist() == [1, 0]
    assert "'normal' is 'benign'" in note
    with pytest.raises(DataError, match=r"the model has no class 'benig'\. Did you mean 'benign'"):
        correspondence(("benign", "malignant"), 1, "model", cohort, **about, given={"normal": "benig"})
    with pytest.raises(DataError, match="are the same one of model"):
        correspondence(("benign", "malignant"), 1, "model", cohort, **about, given={"normal": "malignant"})


def test_of_two_published_datasets_the_diseased_classes_correspond(stranger: Cohort) -> None:
    cohort = replace(named(stranger, ("benign", "malignant"), "breakhis"), positive=1)
    numbers, note = correspondence(("negative", "positive"), 1, "model", cohort, dataset="idc")
    assert numbers.tolist() == [0, 1]
    assert "'malignant' is 'positive'" in note
    with pytest.raises(DataError, match="--class-map"):
        correspondence(("negative", "positive"), 1, "model", cohort, dataset="image_folder")
