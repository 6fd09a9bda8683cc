"""Guards who is in an ensemble: trials by modality, added and dropped; by number, by value, and over seeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.ensembles.crossfit import temperature_of
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import ConfigError, StudyError
from histotune.exports.model import load
from histotune.metrics.calibration import apply_temperatures
from histotune.metrics.scores import softmax
from histotune.space import Space, load_space
from histotune.storage.layout import WEIGHTS
from histotune.storage.records import Predictions, read_config, read_record
from histotune.storage.selection import again, by_modality, modality_of
from histotune.storage.study_folder import StudyFolder
from histotune.studies.create import StudyRequest, begin
from histotune.studies.disk import waste
from histotune.study import open_study
from histotune.training.loop import run_trial
from histotune.tuning.retention import ModelRetention

KINDS = dict.fromkeys(("clinical", "image", "omics"), "table")
ALONE = ("image", "omics", "clinical", "image", "omics")
KIND_OF = dict(enumerate(ALONE))
LOOSE = ["--strategy", "weighted_logits"]


def space() -> Space:
    return load_space("demo_multimodal", kinds=KINDS, fix=["epochs=2"], options={"cases": 120})


def config(modality: str, seed: int = 0) -> TrialConfig:
    values = space().default()
    fusion = {"name": "none", "branch": modality} if modality else {"name": "concat"}
    return TrialConfig.from_dict(values | {"seed": seed, "model": values["model"] | {"fusion": fusion}})


def train(runs: Path, name: str, modalities: tuple[str, ...]) -> StudyFolder:
    """Begin a study and train a trial for every modality; "" is all of them, joined."""
    store, cohorts = begin(StudyRequest(space()), name, Places.of(runs, runs / "cache"))
    data = store.training_data(cohorts[32])
    for number, modality in enumerate(modalities):
        run_trial(config(modality, number), data, store.trial_folder(number), metric="auroc")
    return store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the study `loose` of trials of single modalities and one of all, and `other` of omics; read-only."""
    runs = tmp_path_factory.mktemp("members")
    train(runs, "loose", (*ALONE, ""))
    train(runs, "other", ("omics",))
    return runs


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def best(store: StudyFolder, modality: str) -> int:
    alone = [trial for trial in store.trials() if modality_of(trial.config()) == modality]
    return max(alone, key=lambda trial: trial.metrics["auroc"]).number


def command(runs: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["ensemble", "loose", *words, "--runs", str(runs)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_trial_reads_one_modality_or_several() -> None:
    assert modality_of(config("omics").to_dict()) == "omics"
    assert modality_of(config("").to_dict()) == ""
    assert modality_of({}) == ""
    both = {"a": {"modality": "image"}, "b": {"modality": "image"}}
    assert modality_of({"model": {"branches": both, "fusion": {"name": "cmaf"}}}) == "image"


def test_the_best_of_each_modality_takes_part_best_first(runs: Path) -> None:
    store = StudyFolder(runs / "loose")
    members = by_modality(store, ["clinical", "image", "omics"])
    assert {member.modality: member.record.number for member in members} == {
        name: best(store, name) for name in ("clinical", "image", "omics")
    }
    scores = [member.record.metrics["auroc"] for member in members]
    assert scores == sorted(scores, reverse=True)


def test_weights_are_fitted_to_held_out_logits_of_those_who_have_the_modality(runs: Path) -> None:
    study = open_study("loose", runs=runs)
    merged = study.ensemble(strategy="weighted_logits", modalities=["image", "omics", "clinical"])
    saved = [study.store.trials()[number].predictions() for number in merged.members]
    present = np.stack([one.has_input for one in saved])
    assert not present.all()
    assert present.any()
    temperatures = [
        temperature_of(one.logits[there], one.labels[there], one.patients[there])
        for one, there in ((one, one.has_input) for one in saved)
    ]
    by_hand = ENSEMBLES.build("weighted_logits")
    by_hand.fit(apply_temperatures(np.stack([one.logits for one in saved]), temperatures), saved[0].labels, present)
    assert merged.state == by_hand.state()
    assert np.shape(merged.state["weights"]) == (3, 3)
    assert merged.modalities == tuple(modality_of(study.store.trials()[n].config()) for n in merged.members)


def test_a_modality_is_dropped_and_added_without_training(runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (runs / "loose" / "trials").rglob("*") if path.is_file()}
    assert "(image)" in command(runs, *LOOSE, "--modalities", "image,omics,clinical")
    text = command(runs, *LOOSE, "--drop-modality", "omics")
    assert "9 numbers were fitted" in text  # (M + 1) C with M 2 and C 3
    assert "no network was trained" in text
    assert "(omics)" not in text
    other = StudyFolder(runs / "other")
    text = command(runs, *LOOSE, "--add-modality", "omics=other")
    assert "12 numbers were fitted" in text
    saved = json.loads((runs / "loose/ensembles/weighted_logits-clinical-image-omics/ensemble.json").read_text())
    assert dict(zip(saved["modalities"], saved["studies"], strict=True)) == {
        "image": "",
        "clinical": "",
        "omics": str(other.folder),
    }
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_ensemble_of_two_studies_is_exported_and_scores_who_lacks_a_modality(runs: Path, tmp_path: Path) -> None:
    study = open_study("loose", runs=runs)
    merged = study.ensemble(
        strategy="weighted_logits",
        modalities=["image"],
        add_modality={"omics": "other"},
        export=tmp_path / "both",
    )
    export = load(tmp_path / "both")
    store = study.store
    cohort = begin(StudyRequest(space()), "loose", Places.of(runs, runs / "cache"))[1][32]
    rows = store.training_data(cohort).val
    columns = {name: column.select(rows) for name, column in cohort.columns.items()}
    logits, present = [], []
    for number, name in zip(merged.members, merged.modalities, strict=True):
        record = StudyFolder(runs / ("loose" if name == "image" else "other")).trials()[number]
        logits.append(record.predictions().logits)
        present.append(columns[name].present)
    by_hand = ENSEMBLES.build("weighted_logits")
    by_hand.load_state(merged.state)
    by_hand.temperature = merged.temperature
    expected = by_hand.predict(apply_temperatures(np.stack(logits), merged.temperatures), np.stack(present))
    assert export.probabilities({32: columns}) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modalities", "image,omcis"], "reads 'omcis' alone. Did you mean 'omics'"),
        (["--modalities", "image,image"], "modality 'image' stands twice"),
        (["--drop-modality", "omics"], "has no weighted_logits ensemble by modality to change"),
        (["--modalities", "image", "--drop-modality", "image"], "no modality is left"),
        (["--modalities", "image", "--drop-modality", "omics"], "'omics' cannot be dropped"),
        (["--modalities", "image", "--add-modality", "omics=othre"], "no study 'othre'"),
        (["--modalities", "image", "--add-modality", "image=other"], "stands twice"),
        (["--modalities", "image", "--set", "bais=false"], "Did you mean 'bias'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(runs: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["ensemble", "loose", *LOOSE, *words, "--runs", str(runs)])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_study_of_another_split_is_refused(runs: Path) -> None:
    store, other = (StudyFolder(runs / name) for name in ("loose", "other"))
    path = other.folder / "split.csv"
    text = path.read_text()
    assert ",train" in text
    path.write_text(text.replace(",train", ",test", 1))
    with pytest.raises(StudyError, match="has other cases, classes, parts or folds than 'loose'"):
        by_modality(store, ["image"], add={"omics": other})


def test_the_latest_ensemble_is_the_one_that_is_changed(runs: Path) -> None:
    study = open_study("loose", runs=runs)
    study.ensemble(strategy="weighted_logits", modalities=["image", "omics"])
    study.ensemble(strategy="weighted_logits", modalities=["image", "clinical"])
    assert {member.modality for member in again(study.store, "weighted_logits", [])} == {"image", "clinical"}
    with pytest.raises(ConfigError, match="has no modality 'omics'"):
        again(study.store, "weighted_logits", ["omics"])


def test_the_best_of_every_modality_keeps_its_weights(runs: Path) -> None:
    store = StudyFolder(runs / "loose")
    champions = {best(store, name) for name in ("image", "omics", "clinical")}
    first = max(store.trials(), key=lambda trial: trial.metrics["auroc"]).number
    freed = {int(result.path.parent.name) for result in waste(store, keep=1) if result.path.name == WEIGHTS}
    assert freed == set(range(6)) - champions - {first}
    ModelRetention(store, 1)
    kept = {trial.number for trial in store.trials() if (trial.folder / WEIGHTS).exists()}
    assert kept == champions | {first}


# --- trials by number, by value, over seeds


def test_named_trials_combine_as_the_same_trials_do_that_are_the_best(runs: Path) -> None:
    study = open_study("loose", runs=runs)
    best_three = study.ensemble(top=3)
    named = study.ensemble(trials=sorted(best_three.members))
    assert named.members == best_three.members, "best first, in whatever order they are named"
    assert (named.digest, named.metrics) == (best_three.digest, best_three.metrics)
    assert named.name == f"average-trials-{'-'.join(map(str, sorted(named.members)))}"
    assert "Members: trials named one by one." in command(runs, "--trials", "1, 0,4")
    many = study.ensemble(trials=range(6)).name
    assert many == "average-trials-0-1-2-3-4-5"


def test_the_best_trial_of_each_value_takes_part(runs: Path) -> None:
    study = open_study("loose", runs=runs)
    merged = study.ensemble(best_of="model.fusion.branch")
    assert set(merged.members) == {best(study.store, name) for name in ("clinical", "image", "omics")}
    two = study.ensemble(best_of="model.fusion.branch", top=2)
    assert two.members == merged.members[:2]
    assert two.name == "average-best-of-model-fusion-branch-top2"
    fusions = study.ensemble(best_of="model.fusion")  # a part with a name: the best of none, and of concat
    assert set(fusions.members) == {merged.members[0], 5}
    message = command(runs, "--best-of", "model.fusion.branch")
    assert f"the best trial of each model.fusion.branch: {KIND_OF[merged.members[0]]} (trial" in message


def test_one_trial_with_several_seeds(runs: Path) -> None:
    study = open_study("loose", runs=runs)
    merged = study.ensemble(trials=[3], seeds=3)
    assert merged.members == (3, 3, 3)
    assert set(merged.studies) == {"", "seeds/seed-4", "seeds/seed-5"}
    folders = [study.store.of_member(name).trial_folder(3) for name in merged.studies]
    configs = [read_config(folder) for folder in folders]
    assert {one.pop("seed") for one in configs} == {3, 4, 5}
    assert configs[0] == configs[1] == configs[2]
    saved = [read_record(folder).predictions() for folder in folders]  # type: ignore[union-attr]
    assert len({one.logits.tobytes() for one in saved}) == 3
    tempered = np.stack([one.logits / t for one, t in zip(saved, merged.temperatures, strict=True)])
    mean = softmax(tempered).mean(axis=0)
    rows = saved[0].has_input
    there = np.log(mean[rows]) / merged.temperature
    written = Predictions.load(merged.folder / "predictions.npz")
    assert np.allclose(softmax(written.logits[rows]), softmax(there), atol=1e-6)
    before = {path: path.stat().st_mtime_ns for path in (runs / "loose" / "seeds").rglob("model.safetensors")}
    assert "3, 3 (seed-" in command(runs, "--trials", "3", "--seeds", "3"), "and trains nothing"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(before) == 2
    assert not {one.path for one in waste(study.store, keep=9)} & before.keys(), "the ensemble needs them"
    shutil.rmtree(merged.folder)
    assert {one.path for one in waste(study.store, keep=9)} >= before.keys()


def test_an_ensemble_over_seeds_is_exported_and_drawn_and_moves_with_its_study(runs: Path, tmp_path: Path) -> None:
    study = open_study("loose", runs=runs)
    study.ensemble(trials=[3], seeds=2, export=tmp_path / "export")
    model = load(tmp_path / "export")
    assert len(model.members) == 2
    assert model.info["selection"] == "trial 3 with 2 seeds"
    assert "- members chosen: trial 3 with 2 seeds\n" in (tmp_path / "export" / "README.md").read_text()
    assert {member.predictor.config.seed for member in model.members} == {3, 4}
    (runs / "loose").rename(runs / "moved")
    figure = open_study("moved", runs=runs).figure("ensemble_anatomy")
    assert "seed-4" in figure.to_json()


def test_a_stopped_trial_cannot_be_named(runs: Path) -> None:
    store = StudyFolder(runs / "loose")
    record = json.loads((store.trial_folder(1) / "metrics.json").read_text())
    (store.trial_folder(1) / "metrics.json").write_text(json.dumps(record | {"state": "stopped"}))
    with pytest.raises(StudyError, match="trial 1 is stopped, and only a complete trial can be exported or combined"):
        open_study("loose", runs=runs).ensemble(trials=[0, 1])


def test_top_says_nothing_beside_modalities(runs: Path) -> None:
    assert "(image)" in command(runs, *LOOSE, "--modalities", "image,omics", "--top", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "3,x"], "'x' is no number of a trial"),
        (["--trials", ","], "no trial is named"),
        (["--trials", "3,3"], "trial 3 stands twice"),
        (["--trials", "17"], "has no ended trial 17"),
        (["--trials", "1,2", "--top", "2"], "trials and top choose the members in different ways"),
        (["--trials", "1,2", "--best-of", "loss"], "trials and best_of choose"),
        (["--seeds", "3", "--modalities", "image"], "modalities and seeds choose"),
        (["--trials", "1,2", "--seeds", "3"], "seeds are of one trial, got trials 1, 2"),
        (["--trials", ",", "--seeds", "3"], "seeds are of one trial, got no trial"),
        (["--trials", "1", "--seeds", "1"], "seeds=1: an ensemble over seeds needs at least 2"),
        (["--best-of", "los"], "has a parameter 'los'. Did you mean 'loss'"),
        (["--best-of", "los.name"], "has a parameter 'los.name'. Did you mean 'loss.name'"),
    ],
)
def test_members_that_cannot_be_chosen_so_are_refused(runs: Path, words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["ensemble", "loose", *words, "--runs", str(runs)])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not (runs / "loose" / "ensembles").exists()
