"""Permutation importance: what is permuted and how, against plain arithmetic; and its figures over tables and folds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_tables import begun, train
from sklearn.metrics import roc_auc_score

from histotune.core.runtime import Places
from histotune.data.cohort import Cohort, select
from histotune.data.modalities.table import Table
from histotune.data.splits import TrainingData
from histotune.errors import StudyError
from histotune.explanation.column_groups import alike, chunks_of, column_groups, steepest
from histotune.explanation.permutation import FeatureGroup, Permuted, ScoredCohort, exchange, permute, scored_parts
from histotune.metrics.scores import softmax
from histotune.reporting import figures
from histotune.storage.study_folder import StudyFolder

Begun = tuple[StudyFolder, Cohort]
REPEATS = 2


@pytest.fixture(scope="module", params=[0, 2], ids=["one split", "folds"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """A study with a trial on three tables, of which omics is cut into tokens, and one on omics alone; read-only."""
    store, cohort = begun(tmp_path_factory.mktemp("runs") / "runs" / "shown", folds=request.param, cases=150)
    train(store, cohort, 0, "image", "omics", "clinical", fusion="cross_attention", epochs=5)
    train(store, cohort, 1, "clinical", epochs=1)
    return store, cohort


@pytest.fixture(scope="module")
def data(study: Begun) -> TrainingData:
    """What its trials see."""
    return study[0].training_data(study[1])


@pytest.fixture(scope="module")
def parts(study: Begun, data: TrainingData) -> list[ScoredCohort]:
    """Trial 0, ready."""
    return scored_parts(study[0].trial_folder(0), data)


GROUPS = [
    FeatureGroup("omics", "omics"),
    FeatureGroup("two", "omics", ("GENE003", "GENE080")),
    FeatureGroup("stage", "clinical", ("stage",)),
]


@pytest.fixture(scope="module")
def permuted(parts: list[ScoredCohort], data: TrainingData) -> Permuted:
    return permute(parts, data, [*GROUPS, *chunks_of(parts, "omics")], repeats=REPEATS)


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 1000))
def test_values_go_to_other_patients_and_none_is_lost(owners: list[int], seed: int) -> None:
    patients = np.array(owners, dtype=np.int64)
    there = np.random.default_rng(seed).random(len(patients)) < 0.8
    order = exchange(patients, there, np.random.default_rng(seed))
    assert sorted(order[there]) == sorted(np.flatnonzero(there))
    assert (order[~there] == np.flatnonzero(~there)).all()
    counts = np.bincount(patients[there], minlength=1)
    if there.sum() > 1 and 2 * counts.max() <= there.sum():
        assert (patients[order[there]] != patients[there]).all()


def test_every_pair_of_patients_may_be_exchanged() -> None:
    drawn = {tuple(exchange(np.arange(4), np.ones(4, bool), np.random.default_rng(seed))) for seed in range(300)}
    assert {(at, order[at]) for order in drawn for at in range(4)} == {
        (a, b) for a in range(4) for b in range(4) if a != b
    }


def test_the_plain_score_is_the_trials(study: Begun, permuted: Permuted, data: TrainingData) -> None:
    record = study[0].trials()[0]
    measured = record.out_of_fold if study[0].settings.folds else record.metrics
    assert permuted.score(data, "auroc") == pytest.approx(measured["auroc"], abs=1e-6)
    assert permuted.score(data, "nll") == pytest.approx(measured["nll"], abs=1e-5)


def by_hand(parts: list[ScoredCohort], data: TrainingData, group: FeatureGroup, repeat: int) -> np.ndarray:
    """Exchange the cells of the table itself, and ask the networks as anybody would; probabilities [n, C]."""
    result: dict[int, np.ndarray] = {}
    for number, part in enumerate(parts):
        columns = dict(select(data.columns, part.rows))
        table, present = columns[group.modality].stored, columns[group.modality].present
        order = exchange(data.patients[part.rows], present, np.random.default_rng([0, number, repeat]))
        names = [column.name for column in table.columns]
        places = [names.index(name) for name in group.columns or names]
        values = table.values.copy()
        values[:, places] = table.values[order][:, places]
        columns[group.modality] = columns[group.modality]._replace(stored=Table(values, table.columns))
        result |= dict(zip(part.rows.tolist(), part.predictor.logits(columns), strict=True))
    return softmax(np.stack([result[row] for row in sorted(result)]))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_permuting_features_is_permuting_cells(
    group: FeatureGroup, parts: list[ScoredCohort], data: TrainingData, permuted: Permuted
) -> None:
    for repeat in range(REPEATS):
        expected = by_hand(parts, data, group, repeat)
        assert permuted.changed[group][repeat] == pytest.approx(expected, abs=1e-5)
        assert not np.allclose(expected, permuted.plain, atol=1e-4)


def test_a_loss_is_the_mean_difference_of_scores(permuted: Permuted, data: TrainingData) -> None:
    labels, group = data.labels[permuted.rows], GROUPS[0]

    def auroc(probabilities: np.ndarray) -> float:
        return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(3)]))

    expected = auroc(permuted.plain) - np.mean([auroc(one) for one in permuted.changed[group]])
    effect = permuted.effect(group, data, "auroc", replicates=50)
    assert effect.loss.value == pytest.approx(expected)
    assert permuted.mean_loss(group, data, "auroc") == pytest.approx(expected)
    assert effect.loss.low <= effect.loss.value <= effect.loss.high
    worse = permuted.effect(group, data, "nll", replicates=20).loss.value
    assert worse == pytest.approx(permuted.mean_loss(group, data, "nll"))
    assert worse > 0, "of a metric where less is better a loss is a rise"


def test_permuting_a_column_that_the_model_ignores_changes_nothing(study: Begun, data: TrainingData) -> None:
    parts = scored_parts(study[0].trial_folder(1), data)
    for part in parts:
        names = part.predictor.preparations["clinical"].sources  # type: ignore[attr-defined]
        first = next(module for module in part.predictor.model.modules() if isinstance(module, torch.nn.Linear))
        with torch.no_grad():
            first.weight[:, [place for place, name in enumerate(names) if name == "stage"]] = 0.0
    groups = [
        FeatureGroup("stage", "clinical", ("stage",)),
        FeatureGroup("age", "clinical", ("age",)),
        FeatureGroup("omics", "omics"),
    ]
    result = permute(parts, data, groups, repeats=3)
    for ignored in (groups[0], groups[2]):
        assert (result.changed[ignored] == result.plain).all()
        assert result.effect(ignored, data, "auroc", replicates=20).loss.high == 0.0
    assert not np.allclose(result.changed[groups[1]], result.plain)
    columns, read = steepest(parts, data, "clinical", 5)
    assert (columns[-1], read) == ("stage", 5)


def test_tokens_are_the_features_that_a_branch_cuts(parts: list[ScoredCohort], permuted: Permuted) -> None:
    chunks = chunks_of(parts, "omics")
    assert [group.token for group in chunks] == [0, 1, 2, 3, 4]
    assert chunks_of(parts, "clinical") == []
    backbone = parts[0].predictor.model.branches["omics"]
    table = torch.zeros(1, parts[0].predictor.preparations["omics"].shape[0])
    with torch.inference_mode():
        for token, (start, stop) in enumerate(backbone.spans):  # type: ignore[arg-type]
            changed = table.clone()
            changed[:, start:stop] = 1.0
            moved = (backbone(changed).tokens != backbone(table).tokens).any(dim=2)[0]
            assert moved.nonzero().flatten().tolist() == [token]


def test_columns_that_say_the_same_are_one_group(data: TrainingData) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200))
    y[::7] = np.nan
    values = {"a": x, "b": y, "c": -3 * x + 0.01 * rng.normal(size=200), "d": y + 1, "e": np.ones(200)}
    assert alike(values, 0.9) == [["a", "c"], ["b", "d"], ["e"]]
    groups = column_groups(["GENE003", "GENE148", "GENE005"], data, "omics", 0.9)
    assert {group.columns for group in groups} == {("GENE003", "GENE148"), ("GENE005",)}
    assert groups[0].name == "GENE003 and 1 alike"
    (stage,) = column_groups(["stage"], data, "clinical", 0.1)
    assert stage.columns == ("stage",)


OPTIONS: dict[str, dict[str, Any]] = {
    "modality_importance": {"of": 0, "repeats": 2},
    "feature_importance": {"of": 0, "repeats": 2, "columns": 6, "top": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_figure_is_drawn_of_sealed_studies_with_folds_and_without(name: str, study: Begun, tmp_path: Path) -> None:
    copy = StudyFolder(tmp_path / "runs" / "shown")
    shutil.copytree(study[0].folder, copy.folder, ignore=shutil.ignore_patterns("sealed"))
    places = Places(copy.folder.parent, tmp_path / "cache")
    numbers = figures.compute(name, copy, places=places, **OPTIONS[name])
    assert not (copy.folder / "sealed").exists()
    (page,) = figures.save(name, numbers, tmp_path)
    assert 'name="viewport"' in page.read_text(encoding="utf-8")
    caption = figures.draw(name, numbers).layout.meta["caption"]
    folds = study[0].settings.folds
    assert ("the network of its own fold" in caption) == bool(folds)
    assert f"{numbers.model.cases} cases of {numbers.model.patients} patients" in caption
    assert "2 times" in caption
    next(copy.folder.glob("trials/00000/**/model.safetensors")).unlink()
    with pytest.raises(StudyError, match="keep-models"):
        figures.compute(name, copy, places=places, **OPTIONS[name])


def test_losses_are_shown_by_size(study: Begun, tmp_path: Path) -> None:
    places = Places(study[0].folder.parent, tmp_path)
    asked = OPTIONS["feature_importance"]
    numbers, again = (figures.compute("feature_importance", study[0], places=places, **asked) for _ in range(2))
    assert [loss.value for loss in again.losses] == [loss.value for loss in numbers.losses]
    for group in ("image", "omics", "clinical"):
        values = [loss.value for loss in numbers.losses if loss.group == group]
        assert len(values) == 2
        assert values == sorted(values, reverse=True)
    assert numbers.tried == 6 + 6 + 5
    tokens = figures.compute("feature_importance", study[0], places=places, of=0, together="tokens", repeats=2)
    assert len(tokens.losses) == 5
    with pytest.raises(StudyError, match=r"reads no table 'omic'. Did you mean 'omics'"):
        figures.compute("feature_importance", study[0], places=places, of=0, modality="omic")
    with pytest.raises(StudyError, match="its backbones have one token each"):
        figures.compute("feature_importance", study[0], places=places, of=1, together="tokens")
    with pytest.raises(StudyError, match="no trial '7' with a result"):
        figures.compute("modality_importance", study[0], places=places, of=7)
