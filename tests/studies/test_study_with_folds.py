"""A study with folds: controls, ranking, ensembles, exports and a real search go by the same folds as its trials."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_studies import reread

from histotune.api import search, train
from histotune.cli import tables as cli_show
from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.ensembles.merge import merge
from histotune.errors import ConfigError, StudyError
from histotune.evaluation.sealed import evaluate as evaluate_export
from histotune.explanation.images import explain
from histotune.explanation.patches import standing
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.model import load
from histotune.exports.onnx import largest_difference
from histotune.metrics.scores import evaluate, softmax
from histotune.models.predictor import load_model
from histotune.reporting.figures import compute
from histotune.space import Space, read_space
from histotune.storage.records import Predictions, networks, read_record
from histotune.storage.study_folder import StudyFolder
from histotune.studies import disk
from histotune.studies.controls import predict_control
from histotune.studies.create import StudyRequest, begin, check_request
from histotune.studies.leaderboard import BASELINE, TRIAL, leaderboard, verdict
from histotune.tracking.client import final_metrics
from histotune.training.loop import epochs, run_trial
from histotune.training.pooling import by_fold
from histotune.tuning.budget import Budget
from histotune.tuning.options import Sampling
from histotune.tuning.remote_storage import RemoteStorage
from histotune.tuning.retention import ModelRetention
from histotune.tuning.run import run
from histotune.tuning.warm_start import _other_cases

MADE_UP: dict[str, Any] = {
    "dataset": "synthetic",
    "options": {"cases": 240, "patients": 24, "side": 32},
    "epochs": 2,
    "batch_size": 32,
    "folds": 3,
    "loss": {"choice": {"cross_entropy": {}, "focal": {"gamma": {"low": 0.5, "high": 5.0}}}},
    "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}


def space(**changes: Any) -> Space:
    return read_space(MADE_UP | changes, "folded")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Cohort]:
    """A study of three folds with two complete trials; read-only."""
    place = tmp_path_factory.mktemp("folds")
    store, cohorts = begin(StudyRequest(space()), "folded", Places(place / "runs", place / "cache"))
    data = store.training_data(cohorts[32])
    for number in range(2):
        run_trial(TrialConfig(epochs=2, batch_size=32, seed=number), data, store.trial_folder(number))
    return store, cohorts[32]


@pytest.fixture
def study(trained: tuple[StudyFolder, Cohort], tmp_path: Path) -> StudyFolder:
    """The same, of its own."""
    shutil.copytree(trained[0].folder, tmp_path / "folded")
    return StudyFolder(tmp_path / "folded")


@pytest.fixture
def cohort(trained: tuple[StudyFolder, Cohort]) -> Cohort:
    return trained[1]


def means(saved: Predictions, store: StudyFolder) -> tuple[dict[str, float], dict[str, float]]:
    """Measure predictions fold by fold, by hand."""
    table = store.split.set_index("id").loc[saved.ids]
    result = [
        evaluate(softmax(saved.logits[rows]), saved.labels[rows])
        for rows in ((table["fold"] == k).to_numpy() for k in "123")
    ]
    middle = {name: float(np.mean([one[name] for one in result])) for name in result[0]}
    return middle, {name: float(np.std([one[name] for one in result], ddof=1)) for name in result[0]}


# --- controls, ranking, ensembles


@pytest.mark.parametrize("name", ["majority_class", "color_histogram"])
def test_controls_are_fitted_fold_by_fold_and_scored_as_trials_are(
    study: StudyFolder, cohort: Cohort, name: str
) -> None:
    record, data = read_record(study.controls / name), study.training_data(cohort)
    assert record is not None
    saved = record.predictions()
    assert saved.ids.tolist() == study.trials()[0].predictions().ids.tolist()
    place = {one: row for row, one in enumerate(saved.ids)}
    for cut in data.cuts():
        rows = [place[one] for one in data.ids[cut.val]]
        np.testing.assert_array_equal(saved.logits[rows], predict_control(name, cut, cut.val))
    middle, spread = means(saved, study)
    assert record.metrics == pytest.approx(middle)
    assert record.spread == pytest.approx(spread)
    assert record.out_of_fold == evaluate(softmax(saved.logits), saved.labels)
    sealed = np.flatnonzero(study.split["part"] == "test")
    alone = [predict_control(name, cut, sealed) for cut in data.cuts()]
    np.testing.assert_array_equal(predict_control(name, data, sealed), np.mean(alone, axis=0))


def test_trials_are_ranked_by_their_mean_and_show_its_spread(
    study: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    board = leaderboard(study)
    assert board["balanced_accuracy"].is_monotonic_decreasing
    for trial in study.trials():
        middle, spread = means(trial.predictions(), study)
        line = board[board["number"] == trial.number].iloc[0]
        assert line["balanced_accuracy"] == pytest.approx(middle["balanced_accuracy"])
        assert line["balanced_accuracy_sd"] == pytest.approx(spread["balanced_accuracy"])
        assert trial.metrics["auroc"] == pytest.approx(middle["auroc"])
    compared = verdict(study)
    assert "over patients" in str(compared)
    assert compared.difference is not None
    first, second = (board[board["kind"].isin(kinds)].iloc[0] for kinds in ([TRIAL], [BASELINE]))
    assert compared.difference.value == pytest.approx(first["balanced_accuracy"] - second["balanced_accuracy"])
    cli_show.study(study, json_wanted=False)
    shown = capsys.readouterr().out
    assert "mean over 3 folds ± standard deviation" in shown
    best = board.iloc[0]
    assert f"{best['balanced_accuracy']:.4f} ± {best['balanced_accuracy_sd']:.4f}" in shown
    cli_show.trial(study.trials()[0], json_wanted=False)
    assert "out of fold" in capsys.readouterr().out


def test_an_ensemble_is_ranked_by_the_same_folds_as_its_members(study: StudyFolder) -> None:
    merged = merge(study, top=2, replicates=20)
    record = read_record(merged.folder)
    assert record is not None
    middle, spread = means(record.predictions(), study)
    assert record.metrics == pytest.approx(middle)
    assert record.spread == pytest.approx(spread)
    assert record.out_of_fold["auroc"] == pytest.approx(merged.metrics["auroc"])


def test_repeats_are_cut_one_after_the_other(study: StudyFolder) -> None:
    saved = study.trials()[0].predictions()
    table = study.split
    turned = table["fold"].map({"1": "2", "2": "3", "3": "1", "": ""})
    cuts = [one.ids.tolist() for one in by_fold(saved, table.assign(fold2=turned))]
    assert len(cuts) == 6
    assert cuts[3:] == [cuts[2], cuts[0], cuts[1]]


# --- exports


def test_an_export_averages_the_networks_of_all_folds(
    study: StudyFolder, cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_ensemble(study, merge(study, top=2, replicates=20), tmp_path / "export")
    model = load(tmp_path / "export")
    assert [len(member.predictor.parts) for member in model.members] == [3, 3]
    images = cohort.arrays["image"][:6]
    for member in model.members:
        folder = study.trial_folder(member.trial)
        alone = [load_model(place).logits(images) for place in networks(folder)]
        np.testing.assert_allclose(member.predictor.logits(images), np.mean(alone, axis=0), atol=1e-6)
    assert "cross-validated: 3 folds" in (tmp_path / "export" / "README.md").read_text()
    result = evaluate_export(model, {32: cohort}, study, command="test", replicates=20)
    assert result.cases == (study.split["part"] == "test").sum()
    contents = study.split["content"].tolist()
    stands = standing(replaced(model, study), contents, [""] * len(contents))
    assert set(stands.parts) == {"train", "test"}, "no image of the development part was left out by all models"
    (tmp_path / "export" / "members" / "0" / "folds" / "2" / "model.json").write_text("{}")
    with pytest.raises(Exception, match="was changed after it was exported"):
        load(tmp_path / "export")


def replaced(model: Any, study: StudyFolder) -> Any:
    """Return the export as made in the study where it lies now."""
    model.info["study"]["folder"] = str(study.folder)
    return model


def test_maps_of_an_explanation_are_means_over_folds(study: StudyFolder, cohort: Cohort, tmp_path: Path) -> None:
    model, images = load(export_trial(study, 0, tmp_path / "export")), np.array(cohort.arrays["image"][:2])
    (shown, *_) = explain(model, images, asked="benign").maps
    assert shown.members == (0,)
    alone = [
        explain(replace(model, members=(replace(model.members[0], predictor=part),)), images, asked="benign").maps[0]
        for part in model.members[0].predictor.parts
    ]
    np.testing.assert_allclose(shown.values, np.mean([one.values for one in alone], axis=0), atol=1e-6)
    assert np.ptp([one.values for one in alone], axis=0).max() > 0.01


@pytest.mark.slow
def test_a_graph_of_onnx_holds_all_folds(study: StudyFolder, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = export_trial(study, 0, tmp_path / "export", onnx=True)
    assert largest_difference(folder / "model.onnx", load(folder)) < 1e-4


@pytest.mark.parametrize("name", ["learned_features", "attention_over_temperature"])
def test_figures_of_one_network_say_that_there_are_several(study: StudyFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="trains one for each of 3 folds"):
        compute(name, study, places=Places(study.folder.parent, tmp_path))


# --- disk, mirror, storage


def test_weights_of_folds_are_kept_counted_and_freed(study: StudyFolder) -> None:
    config = TrialConfig(epochs=2, batch_size=32)
    plain = StudyFolder(study.folder.with_name("plain"))
    shutil.copytree(study.folder, plain.folder)
    settings = json.loads((plain.folder / "study.json").read_text())
    (plain.folder / "study.json").write_text(json.dumps(settings | {"folds": 0}))
    asked: dict[str, Any] = {"trials": 4, "checkpoints": 2, "keep": 0}
    assert 2.9 < disk.need(study, config, **asked) / disk.need(plain, config, **asked) < 3.3
    best, other = (trial.number for trial in sorted(study.trials(), key=lambda t: -t.metrics["balanced_accuracy"]))
    (networks(study.trial_folder(best))[1] / "checkpoint.pt").write_bytes(b"left")
    result = disk.waste(study, keep=1)
    assert {one.path for one in result} == {
        networks(study.trial_folder(best))[1] / "checkpoint.pt",
        *(place / "model.safetensors" for place in networks(study.trial_folder(other))),
    }
    keeper = ModelRetention(study, 1)
    assert [len(list(study.trial_folder(n).rglob("model.safetensors"))) for n in (best, other)] == [3, 0]
    keeper.ended(study.trials()[best])
    with pytest.raises(StudyError, match=f"the weights of trial {other} are not there"):
        export_trial(study, other, study.folder / "export")


def test_mlflow_hears_of_mean_and_spread(study: StudyFolder) -> None:
    record = study.trials()[0]
    values = {one.key: one.value for one in final_metrics(record, 0.0)}
    assert values["auroc"] == record.metrics["auroc"]
    assert values["auroc_sd"] == record.spread["auroc"]
    assert values["out_of_fold/auroc"] == record.out_of_fold["auroc"]


def test_folds_travel_through_a_storage(trained: tuple[StudyFolder, Cohort], tmp_path: Path) -> None:
    store, cohort = trained
    data, config = store.training_data(cohort), TrialConfig(epochs=2, batch_size=32)
    first, second = tmp_path / "first" / "00007", tmp_path / "second" / "00007"
    remote, sent = RemoteStorage.of(f"file://{tmp_path}/bucket", store), dict[str, int]()
    training = epochs(config, data, first)
    next(training)
    training.close()
    remote.push(first, sent)
    remote.pull(second)
    assert [epoch.number for epoch in epochs(config, data, second)] == [2]
    remote.push(second, {})
    remote.pull(third := tmp_path / "third" / "00007")
    assert not list(third.rglob("checkpoint.pt"))
    for place in networks(store.trial_folder(0)):
        name = f"folds/{place.name}/model.safetensors"
        assert (third / name).read_bytes() == (store.trial_folder(0) / name).read_bytes()


# --- asking for it


def test_a_study_keeps_the_folds_that_it_began_with(study: StudyFolder) -> None:
    check_request(study, StudyRequest(space(folds=5), folds=3))
    with pytest.raises(StudyError, match="another number of folds: 3 then, 5 now"):
        check_request(study, StudyRequest(space(), folds=5))
    with pytest.raises(StudyError, match="another number of repeats: 1 then, 2 now"):
        check_request(study, StudyRequest(space(), repeats=2))


def test_scores_of_other_folds_are_not_comparable(study: StudyFolder) -> None:
    other = StudyFolder(study.folder.with_name("other"))
    shutil.copytree(study.folder, other.folder)
    assert _other_cases(study, other) == ""
    table = other.split
    table.drop(columns="fold").to_csv(other.folder / "split.csv", index=False)
    assert _other_cases(study, reread(other)) == "validation cases"


def test_a_population_has_no_folds(study: StudyFolder, cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'pbt' hands on the checkpoint of one training, and with 3 folds"):
        run(study, space(), {32: cohort.folder}, Budget(2), sampling=Sampling(scheduler="pbt"))
    with pytest.raises(ConfigError, match="with 4 folds a trial has 4"):
        search("demo", folds=4, scheduler="pbt", trials=2, runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert not (tmp_path / "runs").exists()


def test_one_configuration_is_trained_on_folds(tmp_path: Path) -> None:
    where: dict[str, Any] = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    file = tmp_path / "folded.yaml"
    file.write_text(json.dumps(MADE_UP))
    observed: list[int] = []
    record = train(file, ["epochs=1"], repeats=2, report=lambda epoch, metrics: observed.append(epoch), **where)
    assert (record.state, observed, len(networks(record.folder))) == ("complete", [1], 6)
    again = train(file, ["epochs=1"], report=lambda epoch, metrics: observed.append(epoch), **where)
    assert (again.digest, observed) == (record.digest, [1])
    with pytest.raises(ConfigError, match="patience=1: with folds no epoch is chosen"):
        train(file, ["patience=1"], **where)


def test_a_search_with_folds(tmp_path: Path) -> None:
    file = tmp_path / "folded.yaml"
    file.write_text(json.dumps(MADE_UP | {"epochs": 2, "folds": 0}))
    result = search(file, folds=3, trials=3, max_concurrent=1, runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert result.settings.folds == 3
    trials = result.trials()
    assert any(trial.state == "complete" for trial in trials)
    for trial in trials:
        assert len(networks(trial.folder)) == 3
        assert not list(trial.folder.rglob("checkpoint*"))
        assert trial.metrics["auroc"] == pytest.approx(means(trial.predictions(), result.store)[0]["auroc"])
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "folded")
    runs = client.search_runs([experiment.experiment_id], "tags.key = 'trial/0'")
    assert runs[0].data.metrics["balanced_accuracy_sd"] == pytest.approx(trials[0].spread["balanced_accuracy"])
    assert "epoch/spread/auroc" in runs[0].data.metrics
