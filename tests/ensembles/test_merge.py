"""An ensemble of a study: who is in it, what is written, and that it stands beside its own rivals."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from histotune.data.grouping import by_group
from histotune.data.splits import TrainingData
from histotune.ensembles.crossfit import PARTS, temperature_of
from histotune.ensembles.merge import merge
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import ConfigError, DataError, StudyError
from histotune.metrics.calibration import OF_CALIBRATED, apply_temperatures
from histotune.metrics.scores import evaluate, negative_log_likelihood, score, softmax
from histotune.storage.records import Predictions, write_record
from histotune.storage.selection import best_trials
from histotune.storage.study_folder import COMPLETE, FAILED, STOPPED, StudyFolder
from histotune.studies.leaderboard import leaderboard


def add(
    store: StudyFolder, data: TrainingData, number: int, skill: float, sharpness: float = 1.0, **record: Any
) -> None:
    """Write trial `number`, whose logits know the label as well as `skill` says and are as sure as `sharpness`."""
    folder, labels = store.trial_folder(number), data.labels[data.val]
    noise = np.random.default_rng(number).normal(size=(len(labels), len(data.classes)))
    logits = (sharpness * (noise + skill * np.eye(len(data.classes))[labels])).astype(np.float32)
    Predictions(data.ids[data.val], data.patients[data.val], labels, logits).save(folder / "predictions.npz")
    result = {"metrics": evaluate(softmax(logits), labels), "state": COMPLETE, "parameters": 100, "seconds": 2.0}
    write_record(folder, result | {"digest": f"digest{number}"} | record)


@pytest.fixture
def study(small_study: StudyFolder, small_data: TrainingData) -> StudyFolder:
    """Five trials that count, from poor to good, and three that do not."""
    for number, skill in enumerate([0.4, 0.8, 1.2, 1.6, 2.0]):
        add(small_study, small_data, number, skill, sharpness=1.0 + 2.0 * number)
    add(small_study, small_data, 5, 9.0, state=STOPPED)
    add(small_study, small_data, 6, 9.0, state=FAILED, metrics={})
    add(small_study, small_data, 7, 9.0, metrics={"balanced_accuracy": float("nan")})
    return small_study


def test_the_best_complete_trials_are_taken_best_first(study: StudyFolder) -> None:
    values = {trial.number: trial.metrics.get("balanced_accuracy", 0.0) for trial in study.trials()}
    taken = [trial.number for trial in best_trials(study, 3)]
    assert taken == sorted(range(5), key=lambda number: -values[number])[:3]
    assert len(best_trials(study, 99)) == 5


def test_one_configuration_counts_once(study: StudyFolder, small_data: TrainingData) -> None:
    add(study, small_data, 8, 2.0, digest="digest4")
    chosen = [trial.digest for trial in best_trials(study, 99)]
    assert sorted(chosen) == [f"digest{number}" for number in range(5)]


def best_temperature(probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
    """Find the temperature of what is too sure by somebody else's optimiser; every patient counts against a prior."""
    counts = np.unique(patients, return_counts=True)[1]

    def loss(temperature: float) -> float:
        likelihood = negative_log_likelihood(softmax(np.log(probabilities) / temperature), labels)
        return likelihood + np.log(temperature) ** 2 / 2 * (counts**2).sum() / counts.sum() ** 2

    return float(minimize_scalar(loss, bounds=OF_CALIBRATED, method="bounded", options={"xatol": 1e-10}).x)


@pytest.mark.parametrize("strategy", ENSEMBLES.names())
def test_predictions_are_the_strategy_over_tempered_members(strategy: str, study: StudyFolder) -> None:
    merged = merge(study, top=3, strategy=strategy, replicates=50)
    chosen = merged.candidates or merged.members
    saved = [Predictions.load(study.trial_folder(number) / "predictions.npz") for number in chosen]
    labels = saved[0].labels
    temperatures = [temperature_of(one.logits, labels, one.patients) for one in saved]
    logits = apply_temperatures(np.stack([one.logits for one in saved]), temperatures)
    count = min(PARTS, len(np.unique(saved[0].patients)))
    parts = by_group(saved[0].patients, labels, [1 / count] * count, [0], "patient")
    raw = np.zeros((len(labels), 2))
    for part in range(count):  # described with what it says of patients that it was not fitted to
        others = ENSEMBLES.build(strategy, **merged.params)
        others.fit(logits[:, parts != part], labels[parts != part])
        raw[parts == part] = others.predict(logits[:, parts == part])
    by_hand, patients = raw.copy(), saved[0].patients
    for part in range(count) if merged.temperature > 1 else ():
        own = parts == part
        by_hand[own] = softmax(np.log(raw[own]) / best_temperature(raw[~own], labels[~own], patients[~own]))
    written = Predictions.load(merged.folder / "predictions.npz")
    assert (
        dict(zip(chosen, temperatures, strict=True)).items()
        >= dict(zip(merged.members, merged.temperatures, strict=True)).items()
    )
    if merged.temperature != 1:
        assert merged.temperature == pytest.approx(best_temperature(raw, labels, patients), rel=1e-4)
    assert softmax(written.logits) == pytest.approx(softmax(np.log(raw) / merged.temperature), abs=1e-5)
    assert np.array_equal(written.ids, saved[0].ids)
    calibrated = {name: score(name, by_hand, labels) for name in ("ece", "brier", "nll")}
    assert merged.metrics == pytest.approx(evaluate(raw, labels) | calibrated, abs=1e-4)
    after = {name: merged.calibration[name]["after"] for name in calibrated}
    before = {name: merged.calibration[name]["before"] for name in calibrated}
    assert after == pytest.approx(calibrated, abs=1e-4)
    assert before == pytest.approx({name: score(name, raw, labels) for name in calibrated}, abs=1e-9)
    assert merged.folder == study.ensembles / f"{strategy}-top3"


def test_it_stands_beside_its_best_member_and_the_uniform_mean(study: StudyFolder) -> None:
    merged = merge(study, top=4, strategy="vote", replicates=50)
    mean = merge(study, top=4, strategy="average", replicates=50)
    best = best_trials(study, 1)[0]
    assert set(merged.intervals) == {"ensemble", "best_member", "uniform_mean"}
    rivals = {who: result["balanced_accuracy"].value for who, result in merged.intervals.items()}
    assert rivals["best_member"] == pytest.approx(best.metrics["balanced_accuracy"])
    assert rivals["uniform_mean"] == pytest.approx(mean.metrics["balanced_accuracy"])
    for rival, gain in merged.gains.items():
        assert gain.value == pytest.approx(rivals["ensemble"] - rivals[rival])
        assert gain.low <= gain.value <= gain.high
    assert (mean.gains["uniform_mean"].low, mean.gains["uniform_mean"].high) == (0.0, 0.0)


def test_one_member_gains_nothing(study: StudyFolder) -> None:
    merged = merge(study, top=1, strategy="max", replicates=50)
    assert merged.gains["best_member"].value == 0.0
    assert len(merged.members) == 1


def test_what_is_written_can_be_read_and_made_again(study: StudyFolder) -> None:
    first = merge(study, top=3, replicates=50)
    text = (first.folder / "ensemble.json").read_text()
    saved = json.loads(text)
    assert saved["members"] == list(first.members)
    assert saved["strategy"] == "average"
    assert saved["intervals"]["ensemble"]["auroc"].keys() == {"value", "low", "high"}
    assert saved["threshold"] == first.threshold
    again = replace(merge(study, top=3, replicates=50), fit_seconds=first.fit_seconds)
    assert repr(again) == repr(first)  # an unknown bound, NaN, equals no other
    assert (first.folder / "ensemble.json").read_text() == text


def test_the_threshold_is_the_best_on_the_validation_part(study: StudyFolder) -> None:
    merged = merge(study, top=3, replicates=50)
    saved = Predictions.load(merged.folder / "predictions.npz")
    probabilities = softmax(saved.logits)
    chosen = score("balanced_accuracy", probabilities, saved.labels, threshold=merged.threshold)
    assert chosen >= merged.metrics["balanced_accuracy"]


def test_it_becomes_a_line_of_the_leaderboard(study: StudyFolder) -> None:
    merged = merge(study, top=5, replicates=50)
    line = leaderboard(study).set_index("name").loc["average-top5"]
    assert line["kind"] == "ensemble"
    assert line["balanced_accuracy"] == pytest.approx(merged.metrics["balanced_accuracy"])
    assert line["parameters"] == 500
    assert line["digest"] == merged.digest


def test_an_own_name_and_parameters_are_kept(study: StudyFolder) -> None:
    merged = merge(study, top=2, strategy="average", params={"mean": "geometric"}, name="mine", replicates=50)
    assert merged.name == "mine"
    assert merged.digest != merge(study, top=2, replicates=50).digest


def test_greedy_takes_the_studys_metric_and_exports_only_those_that_count(study: StudyFolder) -> None:
    merged = merge(study, top=5, strategy="greedy", params={"rounds": 1, "start": 1}, replicates=50)
    assert merged.params["metric"] == "balanced_accuracy"
    assert len(merged.candidates) == 5
    assert set(merged.members) < set(merged.candidates)
    assert len(merged.members) == len(merged.temperatures) == len(merged.weights) == len(merged.state["weights"])
    assert min(merged.weights) > 0
    assert sum(merged.weights) == pytest.approx(1.0)
    text = json.loads((merged.folder / "ensemble.json").read_text())
    assert text["best_member"] == best_trials(study, 1)[0].number
    assert len(text["diversity"]["disagreement"]) == len(merged.members)


def test_the_best_member_is_the_best_on_the_held_out_cases(study: StudyFolder) -> None:
    merged = merge(study, top=5, replicates=20)
    result = {
        number: score(
            "balanced_accuracy",
            softmax(study.trials()[number].predictions().logits),
            study.trials()[number].predictions().labels,
        )
        for number in merged.members
    }
    assert merged.intervals["best_member"]["balanced_accuracy"].value == pytest.approx(max(result.values()))


def test_an_operating_point_is_kept_with_the_ensemble(study: StudyFolder) -> None:
    merged = merge(study, top=3, operating_point="specificity=0.8", replicates=50)
    text = json.loads((merged.folder / "ensemble.json").read_text())["operating_point"]
    assert (text["rule"], text["asked"], text["threshold"]) == ("specificity", 0.8, merged.threshold)
    assert text["sensitivity"].keys() == {"value", "low", "high"}
    saved = Predictions.load(merged.folder / "predictions.npz")
    at = score("specificity", softmax(saved.logits), saved.labels, threshold=merged.threshold)
    assert at >= 0.8, "on the cases that chose it"
    with pytest.raises(ConfigError, match="Did you mean 'youden'"):
        merge(study, operating_point="youdn")


def test_a_class_absent_from_validation_is_said(study: StudyFolder) -> None:
    for trial in study.trials():
        saved = trial.predictions()
        Predictions(saved.ids, saved.patients, np.zeros_like(saved.labels), saved.logits).save(
            trial.folder / "predictions.npz"
        )
    with pytest.raises(DataError, match="the validation part has one class only"):
        merge(study, top=2, replicates=20)


def test_what_cannot_be_combined_is_refused(study: StudyFolder, small_data: TrainingData) -> None:
    with pytest.raises(ConfigError, match="top=0"):
        merge(study, top=0)
    with pytest.raises(ConfigError, match="Did you mean 'average'"):
        merge(study, strategy="averag")
    with pytest.raises(ConfigError, match="no parameter 'weights'"):
        merge(study, strategy="vote", params={"weights": 1})
    best = best_trials(study, 1)[0]
    short = best.predictions()
    Predictions(short.ids[1:], short.patients[1:], short.labels[1:], short.logits[1:]).save(
        best.folder / "predictions.npz"
    )
    with pytest.raises(StudyError, match=f"trials {best.number} and .* different cases"):
        merge(study, top=2)


def test_a_study_without_a_complete_trial_says_so(small_study: StudyFolder, small_data: TrainingData) -> None:
    add(small_study, small_data, 0, 1.0, state=STOPPED)
    with pytest.raises(StudyError, match="no complete trial to combine"):
        merge(small_study)
    assert not small_study.ensembles.exists()
