"""Guards ensembles by modality: trials that read one modality alone, coupled loosely, added and dropped."""

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
from histotune.space import Space, load_space
from histotune.storage.layout import WEIGHTS
from histotune.storage.selection import again, by_modality, modality_of
from histotune.storage.study_folder import StudyFolder
from histotune.studies.create import StudyRequest, begin
from histotune.studies.disk import waste
from histotune.study import open_study
from histotune.training.loop import run_trial
from histotune.tuning.retention import ModelRetention

KINDS = dict.fromkeys(("clinical", "image", "omics"), "table")
ALONE = ("image", "omics", "clinical", "image", "omics")
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
