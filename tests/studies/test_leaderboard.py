"""One table for all: best first, the stopped below, the failed last, and an honest word on the winner."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from histotune.core.config import TrialConfig, unparse
from histotune.core.files import write_json
from histotune.data.cohort import Cohort
from histotune.data.splits import Split, TrainingData
from histotune.errors import StudyError
from histotune.metrics.scores import evaluate, softmax
from histotune.storage.records import Predictions, write_record
from histotune.storage.study_folder import COMPLETE, FAILED, STOPPED, StudyFolder
from histotune.studies.controls import fit_controls
from histotune.studies.leaderboard import LEAKY, gain, leaderboard, option_shares, verdict


def add(store: StudyFolder, data: TrainingData, number: int, skill: float, **record: Any) -> None:
    """Write trial `number`, whose logits know the label as well as `skill` says."""
    config = TrialConfig(seed=number)
    folder, labels = store.trial_folder(number), data.labels[data.val]
    noise = np.random.default_rng(number).normal(size=(len(labels), len(data.classes)))
    logits = (noise + skill * np.eye(len(data.classes))[labels]).astype(np.float32)
    Predictions(data.ids[data.val], data.patients[data.val], labels, logits).save(folder / "predictions.npz")
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    result = {"metrics": evaluate(softmax(logits), labels), "state": COMPLETE, "epochs": 5, "parameters": 100}
    write_record(folder, result | {"digest": config.digest()} | record)


def with_settings(store: StudyFolder, folder: Path, **changes: Any) -> StudyFolder:
    """Copy the study's fixed files under other settings."""
    changed = StudyFolder(folder)
    settings = dataclasses.replace(store.settings, **changes)
    folder.mkdir(parents=True)
    for name in ("split.csv", "labels.csv"):
        (folder / name).write_bytes((store.folder / name).read_bytes())
    write_json(folder / "study.json", unparse(settings))
    return changed


def test_an_empty_study_has_an_empty_table_with_its_columns(small_study: StudyFolder) -> None:
    board = leaderboard(small_study)
    assert board.empty
    assert list(board.columns[:6]) == ["rank", "kind", "number", "name", "state", "balanced_accuracy"]


def test_best_first_then_stopped_then_failed(small_study: StudyFolder, small_data: TrainingData) -> None:
    add(small_study, small_data, 0, 0.5)
    add(small_study, small_data, 1, 3.0)
    add(small_study, small_data, 2, 9.0, state=STOPPED)
    add(small_study, small_data, 3, 0.0, state=FAILED, metrics={}, kind="nan_loss", reason="the loss became NaN")
    add(small_study, small_data, 4, 1.5)
    board = leaderboard(small_study)
    assert board["number"].tolist() == [1, 4, 0, 2, 3]
    assert board["rank"].tolist()[:3] == [1, 2, 3]
    assert board["rank"].isna().tolist() == [False, False, False, True, True]
    assert board["note"].tolist()[-1] == "nan_loss: the loss became NaN"
    assert set(board["loss"]) == {"cross_entropy"}
    assert set(board["backbone"]) == {"alexnet"}


@pytest.mark.parametrize("metric", ["auroc", "nll"])
def test_the_metric_says_which_end_is_best(
    metric: str, tmp_path: Path, small_study: StudyFolder, small_data: TrainingData
) -> None:
    store = with_settings(small_study, tmp_path / "other", metric=metric)
    for number, skill in enumerate([0.2, 2.0, 1.0]):
        add(store, small_data, number, skill)
    board = leaderboard(store)
    assert board["number"].tolist() == [1, 2, 0]
    assert board.columns[5] == metric
    assert board[metric].is_monotonic_decreasing == (metric == "auroc")


def test_an_undefined_metric_stands_last_among_the_complete(small_study: StudyFolder, small_data: TrainingData) -> None:
    add(small_study, small_data, 0, 1.0, metrics={"balanced_accuracy": float("nan")})
    add(small_study, small_data, 1, 0.0)
    add(small_study, small_data, 2, 1.0, state=STOPPED)
    assert leaderboard(small_study)["number"].tolist() == [1, 0, 2]


def test_controls_are_lines_among_the_models(small_study: StudyFolder, small_data: TrainingData) -> None:
    fit_controls(small_data, small_study.controls)
    add(small_study, small_data, 0, -3.0)
    add(small_study, small_data, 1, 9.0)
    board = leaderboard(small_study)
    assert board["kind"].tolist() == ["trial", "control", "control", "trial"]
    assert set(board["name"]) == {"0", "1", "majority_class", "color_histogram"}
    assert board["rank"].tolist() == [1, 2, 3, 4]


def test_a_leaky_split_is_named_so_in_every_line(
    tmp_path: Path, small_study: StudyFolder, small_data: TrainingData
) -> None:
    store = with_settings(small_study, tmp_path / "leaky", leaky=True, protocol="patch_random_70_30")
    fit_controls(small_data, store.controls)
    add(store, small_data, 0, 1.0)
    assert (leaderboard(store)["protocol"] == f"patch_random_70_30 ({LEAKY})").all()
    assert LEAKY in str(verdict(store))


def test_an_honest_split_is_not_called_leaky(small_study: StudyFolder, small_data: TrainingData) -> None:
    add(small_study, small_data, 0, 1.0)
    assert leaderboard(small_study)["protocol"].tolist() == [small_study.settings.protocol]


def test_more_than_two_classes_have_no_positive_f1(
    tmp_path: Path, small_study: StudyFolder, small_data: TrainingData
) -> None:
    store = with_settings(small_study, tmp_path / "three", classes=["a", "b", "c"])
    assert "positive_f1" not in leaderboard(store)
    assert "positive_f1" in leaderboard(small_study)


@pytest.mark.parametrize(
    ("skill", "beats", "says"),
    [
        (9.0, True, "is significantly better than the best baseline"),
        (0.2, False, "is not significantly better than the best baseline"),
        (-9.0, False, "is significantly worse than the best baseline"),
    ],
)
def test_the_verdict_says_whether_the_winner_beats_the_controls_beyond_noise(
    skill: float, beats: bool, says: str, small_study: StudyFolder, small_data: TrainingData
) -> None:
    data = dataclasses.replace(small_data, patients=small_data.ids)  # of its four patients hardly anything is known
    fit_controls(data, small_study.controls)
    add(small_study, data, 0, skill)
    result = verdict(small_study, replicates=300)
    assert result.beats == beats
    assert str(result).startswith(f"Trial 0 {says} (color_histogram) on the validation set (")
    assert result.difference is not None
    assert (result.difference.low > 0) == beats


def test_a_winner_ahead_by_less_than_the_noise_does_not_beat(
    small_study: StudyFolder, small_data: TrainingData
) -> None:
    fit_controls(small_data, small_study.controls)
    control = Predictions.load(small_study.controls / "color_histogram" / "predictions.npz")
    add(small_study, small_data, 0, 1.0)
    nearly = control.logits.copy()
    wrong = np.flatnonzero(nearly.argmax(axis=1) != control.labels)[0]
    nearly[wrong] = nearly[wrong, ::-1]  # one case better
    dataclasses.replace(control, logits=nearly).save(small_study.trial_folder(0) / "predictions.npz")
    rewrite(small_study, 0, evaluate(softmax(nearly), control.labels))
    result = verdict(small_study, replicates=300)
    assert result.difference is not None
    assert result.difference.value > 0
    assert not result.beats


def test_where_less_is_better_the_verdict_turns_round(
    tmp_path: Path, small_study: StudyFolder, small_data: TrainingData
) -> None:
    store = with_settings(small_study, tmp_path / "nll", metric="nll")
    fit_controls(small_data, store.controls)
    add(store, small_data, 0, 9.0)
    result = verdict(store, replicates=300)
    assert result.beats
    assert result.difference is not None
    assert result.difference.high < 0


def test_without_a_trial_or_a_control_there_is_no_verdict(small_study: StudyFolder, small_data: TrainingData) -> None:
    add(small_study, small_data, 0, 1.0)
    assert str(verdict(small_study)) == "No comparison with the baselines: no baseline is complete yet."
    fit_controls(small_data, small_study.controls)
    add(small_study, small_data, 0, 1.0, state=STOPPED)
    assert str(verdict(small_study)) == "No comparison with the baselines: no trial is complete yet."


def test_models_scored_on_other_cases_are_not_compared(
    small_study: StudyFolder, small_data: TrainingData, small_cohort: Cohort, small_split: Split
) -> None:
    fit_controls(small_data, small_study.controls)
    add(small_study, dataclasses.replace(small_data, val=small_data.val[1:]), 0, 1.0)
    with pytest.raises(StudyError, match="different cases"):
        verdict(small_study)


def rewrite(store: StudyFolder, number: int, metrics: Mapping[str, float]) -> None:
    write_record(store.trial_folder(number), {"state": COMPLETE, "metrics": dict(metrics)})


def test_the_trials_per_option_are_counted_whatever_became_of_them(
    small_study: StudyFolder, small_data: TrainingData, tmp_path: Path
) -> None:
    space = {"dataset": "synthetic", "loss": {"choice": {"cross_entropy": {}, "focal": {}}}}
    study = with_settings(small_study, tmp_path / "optional", space=space)
    assert [share.trials for share in option_shares(study)] == [0, 0]
    add(study, small_data, 0, 0.5)
    add(study, small_data, 1, 0.5, state=STOPPED)
    assert option_shares(study) == [("loss", "cross_entropy", 2, 1.0), ("loss", "focal", 0, 0.0)]
    assert option_shares(with_settings(small_study, tmp_path / "flat", space={"dataset": "synthetic"})) == []


def test_a_winner_is_held_against_the_default(small_study: StudyFolder, small_data: TrainingData) -> None:
    assert "trial 0 is not complete" in str(gain(small_study))
    add(small_study, small_data, 0, 0.5)
    assert str(gain(small_study)) == "The default configuration (trial 0) is the best model so far."
    add(small_study, small_data, 1, 9.0)
    result = gain(small_study)
    assert result.beats
    assert str(result).startswith(
        "Trial 1 is significantly better than the default configuration (trial 0) on the validation set (+0."
    )
    best, default = (small_study.trials()[n].metrics["balanced_accuracy"] for n in (1, 0))
    assert result.difference is not None
    assert result.difference.value == pytest.approx(best - default)


@pytest.mark.parametrize("skill", [1.0, 1.05])
def test_a_winner_by_a_hair_does_not_beat_the_default(
    small_study: StudyFolder, small_data: TrainingData, skill: float
) -> None:
    add(small_study, small_data, 0, 1.0)
    predictions = small_study.trials()[0].predictions()
    add(small_study, small_data, 1, skill)
    logits = predictions.logits * skill
    folder = small_study.trial_folder(1)
    dataclasses.replace(predictions, logits=logits).save(folder / "predictions.npz")
    better = {name: value + 1e-9 for name, value in evaluate(softmax(logits), predictions.labels).items()}
    record = small_study.trials()[1]
    write_record(folder, {"state": COMPLETE, "metrics": better, "epochs": 5, "digest": record.digest})
    result = gain(small_study)
    assert result.winner == "trial 1"
    assert not result.beats
    assert "is not significantly better than the default configuration (trial 0)" in result.text
