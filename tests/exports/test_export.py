"""The folder law: an export is whole, says how it was made, predicts as its trials did, and holds no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from changed_studies import reread

from histotune.data.cohort import Cohort
from histotune.ensembles.merge import merge
from histotune.errors import ConfigError, HistotuneError, StudyError
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.model import load
from histotune.metrics import scores as metrics
from histotune.storage.records import Predictions, write_record
from histotune.storage.study_folder import StudyFolder


@pytest.fixture
def exported(trained_study: StudyFolder, tmp_path: Path) -> Path:
    merged = merge(trained_study, top=3, strategy="vote", replicates=20)
    return export_ensemble(trained_study, merged, tmp_path / "exports" / "vote")


def test_the_folder_holds_what_predicting_needs_and_nothing_else(exported: Path) -> None:
    result = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    parts = ("config.yaml", "model.json", "preprocessing.json", "model.safetensors")
    assert result == {"export.json", "README.md", *(f"members/{k}/{part}" for k in range(3) for part in parts)}


def test_no_unfinished_folder_stays_beside_it(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["vote"]


def test_export_json_says_how_it_was_made(exported: Path, trained_study: StudyFolder) -> None:
    info = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    settings = trained_study.settings
    assert info["strategy"] == "vote"
    assert info["split"] == {"protocol": "patient", "leaky": False, "seed": 0, "training": "", "folds": 0, "repeats": 1}
    assert info["dataset"]["digests"] == settings.digests
    assert info["dataset"]["synthetic"] is True
    assert info["study"]["folder"] == str(trained_study.folder)
    assert 0 < info["threshold"] < 1
    assert set(info["validation"]) >= {"balanced_accuracy", "auroc", "ece"}
    assert sorted(member["trial"] for member in info["members"]) == [0, 1, 2]


@pytest.mark.parametrize(
    "said", ["Synthetic images", "split: `patient`", "no patient in two parts", "optimistic", "histotune predict"]
)
def test_the_readme_tells_people(exported: Path, said: str) -> None:
    assert said in (exported / "README.md").read_text(encoding="utf-8")


def test_the_readme_shouts_about_a_leaky_split(trained_study: StudyFolder, tmp_path: Path) -> None:
    path = trained_study.folder / "study.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"leaky": false', '"leaky": true'), encoding="utf-8")
    reread(trained_study)
    folder = export_trial(trained_study, 0, tmp_path / "leaky")
    assert "Leaky split" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("strategy", ["average", "max", "vote"])
def test_an_exported_ensemble_predicts_as_on_validation(
    trained_study: StudyFolder, small_cohort: Cohort, tmp_path: Path, strategy: str
) -> None:
    merged = merge(trained_study, top=3, strategy=strategy, replicates=20)
    model = load(export_ensemble(trained_study, merged, tmp_path / strategy))
    rows = trained_study.training_data(small_cohort).val
    result = model.probabilities({32: small_cohort.arrays["image"][rows]})
    labels = trained_study.training_data(small_cohort).labels[rows]
    measured = metrics.evaluate(result, labels, positive=1)
    saved = Predictions.load(merged.folder / "predictions.npz")
    assert result == pytest.approx(metrics.softmax(saved.logits), abs=1e-4)
    crossfitted = ("ece", "brier", "nll")  # by temperatures of other patients
    assert {name: value for name, value in measured.items() if name not in crossfitted} == pytest.approx(
        {name: value for name, value in merged.metrics.items() if name not in crossfitted}, abs=1e-4
    )


def test_an_exported_trial_predicts_its_tempered_validation_logits(
    trained_study: StudyFolder, small_cohort: Cohort, tmp_path: Path
) -> None:
    model = load(export_trial(trained_study, 1, tmp_path / "one"))
    saved = trained_study.trials()[1].predictions()
    rows = trained_study.training_data(small_cohort).val
    result = model.probabilities({32: small_cohort.arrays["image"][rows]})
    expected = metrics.softmax(saved.logits / model.members[0].temperature)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_exporting_again_replaces_the_export(trained_study: StudyFolder, tmp_path: Path) -> None:
    first = load(export_trial(trained_study, 0, tmp_path / "same")).digest
    second = load(export_trial(trained_study, 1, tmp_path / "same")).digest
    assert first != second
    assert load(export_trial(trained_study, 0, tmp_path / "same")).digest == first


def test_a_strangers_folder_is_never_replaced(trained_study: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists and is no export"):
        export_trial(trained_study, 0, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_an_unknown_trial_is_refused(trained_study: StudyFolder, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no ended trial 9\. .*Known: 0, 1, 2"):
        export_trial(trained_study, 9, tmp_path / "nine")


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_only_complete_trials_are_exported(trained_study: StudyFolder, tmp_path: Path, state: str) -> None:
    write_record(trained_study.trial_folder(7), {"state": state})
    with pytest.raises(StudyError, match=f"trial 7 is {state}"):
        export_trial(trained_study, 7, tmp_path / "seven")


def test_a_trial_without_weights_leaves_nothing_behind(trained_study: StudyFolder, tmp_path: Path) -> None:
    (trained_study.trial_folder(0) / "model.safetensors").unlink()
    with pytest.raises(StudyError, match="the weights of trial 0 are not there"):
        export_trial(trained_study, 0, tmp_path / "exports" / "zero")
    assert not list((tmp_path / "exports").iterdir())


def test_a_changed_export_is_refused(exported: Path) -> None:
    shutil.copyfile(exported / "members/0/model.safetensors", exported / "members/1/model.safetensors")
    with pytest.raises(HistotuneError, match="changed after it was exported"):
        load(exported)


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistotuneError, match=r"is no export: it has no export\.json"):
        load(tmp_path)


def test_an_export_of_another_format_is_refused(exported: Path) -> None:
    path = exported / "export.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 1', '"format": 99'), encoding="utf-8")
    with pytest.raises(HistotuneError, match="format 99"):
        load(exported)
