"""A student learns what an ensemble said of cases that its members never saw, and its export is one network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.ensembles.merge import EnsembleResult, merge
from histotune.errors import ConfigError, StudyError
from histotune.exports.distill import Distilled, distill
from histotune.exports.model import load
from histotune.metrics.bootstrap import paired_bootstrap
from histotune.metrics.scores import softmax
from histotune.space import read_space
from histotune.storage.records import Predictions
from histotune.storage.study_folder import StudyFolder
from histotune.studies.create import StudyRequest, begin
from histotune.training.loop import run_trial
from histotune.training.session import start
from histotune.training.soft_targets import taught

SPACE: dict[str, Any] = {
    "dataset": "synthetic",
    "options": {"cases": 120, "patients": 24, "side": 32},
    "epochs": 1,
    "batch_size": 32,
    "folds": 2,
    "loss": {"choice": {"cross_entropy": {}, "focal": {"gamma": {"low": 0.5, "high": 5.0}}}},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Cohort, EnsembleResult]:
    """A study of two folds with two trials, and their ensemble."""
    places = Places(tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("cache"))
    store, cohorts = begin(StudyRequest(read_space(SPACE, "taught")), None, places)
    data = store.training_data(cohorts[32])
    for number, loss in enumerate(["focal", "cross_entropy"]):
        config = TrialConfig.from_dict({"epochs": 1, "batch_size": 32, "loss": loss, "seed": number})
        assert run_trial(config, data, store.trial_folder(number)).state == "complete"
    return store, cohorts[32], merge(store, replicates=50)


@pytest.fixture(scope="module")
def student(
    study: tuple[StudyFolder, Cohort, EnsembleResult], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Distilled, Path]:
    """Their student, and its export."""
    store, cohort, merged = study
    folder, observed = tmp_path_factory.mktemp("exports") / "student", []
    result = distill(
        store,
        merged,
        lambda size: cohort,
        student=0,
        trust=0.6,
        export=folder,
        progress=lambda *one: observed.append(one),
    )
    assert observed == [("training the student fold by fold", 1, 1), ("training the student on all folds", 1, 1)]
    return result, folder


def test_targets_are_a_mixture_of_what_was_said_out_of_folds_and_the_labels(
    study: tuple[StudyFolder, Cohort, EnsembleResult],
) -> None:
    store, cohort, merged = study
    data, teacher = store.training_data(cohort), Predictions.load(merged.folder / "predictions.npz")
    result = taught(data, teacher, 0.6).targets
    assert result is not None
    message = dict(zip(teacher.ids.tolist(), softmax(teacher.logits), strict=True))
    for row in np.concatenate([data.train, data.val]):
        expected = 0.6 * message[data.ids[row]] + 0.4 * np.eye(2)[data.labels[row]]
        assert result[row] == pytest.approx(expected, abs=1e-6)
    sealed = data.labels < 0
    assert sealed.any()
    assert (result[sealed] == 0).all(), "nothing is said of sealed cases"


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_the_loss_asks_for_the_targets(study: tuple[StudyFolder, Cohort, EnsembleResult], mixup: float) -> None:
    store, cohort, _ = study
    cut = store.training_data(cohort).cuts()[0]
    targets = np.random.default_rng(0).dirichlet(np.ones(2), len(cut.labels)).astype(np.float32)
    config = TrialConfig.from_dict({"batch_size": 16, "augment": {"mixup": mixup}})
    session = start(config, replace(cut, targets=targets), torch.device("cpu"))
    rows = cut.train[:16]
    _, _, drawn = session.drawn(rows, np.random.default_rng(1))
    if mixup:
        assert drawn.sum(dim=1).numpy() == pytest.approx(1.0)
        assert drawn.mean() == pytest.approx(0.5)
    else:
        assert drawn.numpy() == pytest.approx(targets[rows])


def test_the_export_is_one_network_with_its_own_temperature_and_threshold(
    student: tuple[Distilled, Path], study: tuple[StudyFolder, Cohort, EnsembleResult]
) -> None:
    result, folder = student
    model = load(folder)
    assert len(model.members) == 1
    assert len(model.members[0].predictor.parts) == 1
    assert not (folder / "members/0/folds").exists()
    assert model.threshold == result.how["threshold"]
    probabilities = model.probabilities({32: study[1].arrays["image"][:5]})
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    info = json.loads((folder / "export.json").read_text())
    assert info["distilled"]["ensemble"] == study[2].name
    assert info["members"][0]["validation"] != {}
    assert "student-of-average-top2" in info["name"]


def test_it_stands_beside_its_ensemble_and_the_best_trial_out_of_folds(
    student: tuple[Distilled, Path], study: tuple[StudyFolder, Cohort, EnsembleResult]
) -> None:
    result, merged = student[0], study[2]
    own, teacher = (Predictions.load(place / "predictions.npz") for place in (result.folder, merged.folder))
    assert sorted(own.ids.tolist()) == sorted(teacher.ids.tolist())
    order = np.argsort(own.ids), np.argsort(teacher.ids)
    first, second = softmax(own.logits)[order[0]], softmax(teacher.logits)[order[1]]
    expected = paired_bootstrap(result.metric, first, second, own.labels[order[0]], own.patients[order[0]])
    assert result.gains["ensemble"].value == pytest.approx(expected.value)
    assert result.values["ensemble"].value == pytest.approx(merged.intervals["ensemble"][result.metric].value)
    assert result.parameters[0] < result.parameters[1]
    assert json.loads((result.folder / "distilled.json").read_text())["gains"].keys() == {"ensemble", "best_member"}
    assert result.student == 0


def test_the_same_student_is_not_trained_twice_and_another_is(
    student: tuple[Distilled, Path], study: tuple[StudyFolder, Cohort, EnsembleResult], tmp_path: Path
) -> None:
    store, cohort, merged = study
    record = student[0].folder / "metrics.json"
    before = record.stat().st_mtime_ns
    distill(store, merged, lambda size: cohort, student=0, trust=0.6)
    assert record.stat().st_mtime_ns == before
    distill(store, merged, lambda size: cohort, student=0, trust=1.0)
    assert record.stat().st_mtime_ns > before


def test_the_cheapest_member_is_taken_where_none_is_named(
    study: tuple[StudyFolder, Cohort, EnsembleResult],
) -> None:
    from histotune.exports.distill import _student

    store, _, merged = study
    cheap = _student(store, merged, None)
    latencies = {number: trial.metrics["latency_ms"] for number, trial in enumerate(store.trials())}
    assert cheap.number == min(latencies, key=lambda number: latencies[number])


def test_what_cannot_be_distilled_is_refused_before_anything_is_trained(
    study: tuple[StudyFolder, Cohort, EnsembleResult], trained_study: StudyFolder
) -> None:
    def no_data(size: int) -> Cohort:
        raise AssertionError("nothing is read")

    store, _, merged = study
    with pytest.raises(StudyError, match=r"has no folds.*search with `--folds 5"):
        distill(trained_study, merged, no_data)
    with pytest.raises(StudyError, match="no ended trial 7"):
        distill(store, merged, no_data, student=7)
    with pytest.raises(ConfigError, match="trust=0"):
        distill(store, merged, no_data, trust=0)
    runs = str(trained_study.folder.parent)
    result = CliRunner().invoke(app, ["ensemble", "small", "--distill", "--runs", runs])
    assert result.exit_code == 2
    assert "has no folds" in " ".join(result.stderr.split())
    assert not trained_study.ensembles.exists()


def test_a_student_without_distilling_is_refused(study: tuple[StudyFolder, Cohort, EnsembleResult]) -> None:
    store = study[0]
    answer = CliRunner().invoke(
        app, ["ensemble", store.folder.name, "--runs", str(store.folder.parent), "--student", "0"]
    )
    assert answer.exit_code == 2
    assert "--student 0: nothing is distilled without --distill" in answer.output


def test_the_command_says_what_flatters_a_student(
    study: tuple[StudyFolder, Cohort, EnsembleResult], tmp_path: Path
) -> None:
    store = shutil.copytree(study[0].folder, tmp_path / "taught")
    places = ["--runs", str(store.parent), "--cache", str(study[1].folder.parent)]
    answer = CliRunner().invoke(app, ["ensemble", "taught", "--distill", *places])
    assert answer.exit_code == 0, answer.output
    assert "training the student fold by fold: 1/1" in answer.stderr
    assert "networks that were trained on the cases it is scored on" in " ".join(answer.stdout.split())
