"""What version 0.2.0 called `late` is `mean_embedding`: its studies, trials and exports open with the same figures.

`fixtures/late_v0_2/README.md` says how the files were made. Nothing in the fixture is ever written again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import histotune
from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.errors import ConfigError, StudyError
from histotune.metrics.scores import score, softmax
from histotune.models.fusions.late import LateObjective
from histotune.models.fusions.mean_embedding import MeanEmbedding
from histotune.models.predictor import load_model
from histotune.space import load_space, read_space
from histotune.storage.study_folder import StudyFolder
from histotune.studies.create import study_cohort
from histotune.training.checkpoint import TrainingProgress
from histotune.training.loop import run_trial

PAST = Path(__file__).parents[1] / "fixtures" / "late_v0_2"
SPACE, IMAGES = PAST / "late.yaml", PAST.parent / "v0_1_0" / "images"
EXPECTED = json.loads((PAST / "expected.json").read_text(encoding="utf-8"))
LATE, CONCAT = (0, 2, 4), (1, 3)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the study in `runs` and of the export in `exports`, where the test runs."""
    for part in ("runs", "exports"):
        shutil.copytree(PAST / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


@pytest.fixture
def cohort(place: Path) -> Cohort:
    """The study's images, made again."""
    store = StudyFolder(place / "runs" / "late")
    return study_cohort(store, Places(place / "runs", place / "cache"), 16, None)


@pytest.mark.parametrize("number", LATE)
def test_a_trial_says_the_same_and_is_a_mean_embedding(place: Path, cohort: Cohort, number: int) -> None:
    store = StudyFolder(place / "runs" / "late")
    folder = store.folder / "trials" / f"{number:05d}"
    model = load_model(folder, torch.device("cpu"))
    assert isinstance(model.model.fusion, MeanEmbedding)
    assert not isinstance(model.model.objective, LateObjective)
    data, (record,) = store.training_data(cohort), [one for one in store.trials() if one.number == number]
    saved = record.predictions()
    assert np.array_equal(data.ids[data.val], saved.ids)
    assert model.logits(data.arrays["image"][data.val]) == pytest.approx(saved.logits, abs=1e-5)
    assert TrialConfig.from_dict(record.config()).digest() == record.digest


def test_the_export_says_the_same(place: Path) -> None:
    table = histotune.load(place / "exports" / "late").predict(IMAGES)
    result = {Path(path).name: p for path, p in zip(table["path"], table["p_malignant"], strict=True)}
    assert result == pytest.approx(EXPECTED["predictions"], abs=1e-6)


def test_the_leaderboard_is_the_same(place: Path) -> None:
    table = histotune.open_study("late", runs=place / "runs").leaderboard()
    for row, known in zip(json.loads(table.to_json(orient="records")), EXPECTED["leaderboard"], strict=True):
        assert {key: row[key] for key in known} == pytest.approx(known)


def first_of_equals(progress: TrainingProgress, row: Mapping[str, float], value: float) -> None:
    """Choose the best epoch as that version did: of equal metrics the first."""
    progress.curve.append({"epoch": progress.epoch + 1, **row})
    if not progress.best_epoch or value > progress.best_value:
        progress.best_epoch, progress.best_value = progress.epoch, value


def test_a_search_goes_on_as_it_would_have(place: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same space file; the same proposals, trained as the earlier version trained them.

    Today of epochs with equal metrics the one with the lowest NLL is kept. By the earlier rule the logits are the same.
    """
    study = histotune.search(SPACE, study="late", runs=place / "runs", trials=8, max_concurrent=1, gpus_per_trial=0)
    records = {record.number: record for record in study.trials()}
    assert len(records) == 8
    for number, known in zip((5, 6, 7), EXPECTED["later"], strict=True):
        assert records[number].digest == known["digest"]
        saved = records[number].predictions()
        then = softmax(np.array(known["logits"]))
        metric = study.settings.metric
        assert records[number].metrics[metric] == pytest.approx(score(metric, then, saved.labels)), "a tie at most"
        with monkeypatch.context() as earlier:
            earlier.setattr(TrainingProgress, "add", first_of_equals)
            config = TrialConfig.from_dict(records[number].config())
            again = run_trial(config, study.store.training_data(cohort), place / str(number), metric=metric)
        assert softmax(again.predictions().logits) == pytest.approx(then, abs=1e-3)


def test_a_new_study_of_the_same_file_is_late(place: Path) -> None:
    study = histotune.search(SPACE, study="new", runs=place / "runs", trials=1, max_concurrent=1, gpus_per_trial=0)
    fusion = study.trials()[0].config()["model"]["fusion"]
    assert fusion == {"name": "late", "dim": 6, "weights": "mean", "of": "probabilities"}
    model = load_model(place / "runs" / "new" / "trials" / "00000").model
    assert isinstance(model.objective, LateObjective)
    again = histotune.search(SPACE, study="new", runs=place / "runs", trials=1, max_concurrent=1, gpus_per_trial=0)
    assert len(again.trials()) == 1


def test_an_earlier_study_is_not_continued_with_another_late(place: Path) -> None:
    with pytest.raises(StudyError, match=r"another search space: .*fusion"):
        histotune.search(SPACE, study="late", runs=place / "runs", trials=6, fix=["model.fusion.late.of=logits"])


def test_a_warm_start_takes_no_score_of_an_earlier_late_for_one_of_today(place: Path) -> None:
    space = load_space(SPACE)
    for number in LATE:
        config: dict[str, Any] = yaml.safe_load((place / f"runs/late/trials/{number:05d}/config.yaml").read_text())
        with pytest.raises(ConfigError, match=r"model\.fusion: the `late` of an earlier version"):
            space.locate(config, whole=True)
    for number in CONCAT:
        space.locate(yaml.safe_load((place / f"runs/late/trials/{number:05d}/config.yaml").read_text()), whole=True)


def test_one_late_of_today_may_be_trained_in_an_earlier_study(place: Path) -> None:
    record = histotune.train(SPACE, ["seed=4"], study="late", runs=place / "runs")
    assert record.config()["model"]["fusion"]["of"] == "probabilities"


def test_the_stored_space_is_read_as_it_was() -> None:
    stored = json.loads((PAST / "runs" / "late" / "study.json").read_text(encoding="utf-8"))["space"]
    assert "of" not in read_space(stored, "late").default()["model"]["fusion"]
