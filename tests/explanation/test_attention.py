"""Attention by case and on average, over chunks of a table and patches of a slide; bags from files to predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_tables import begun, train
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort, select
from histotune.data.modalities.bag import Bags, join
from histotune.data.modalities.graph import GraphModality, connect
from histotune.errors import StudyError
from histotune.explanation.attention import POOL, bag_branches, patches_of, readings
from histotune.explanation.permutation import scored_parts
from histotune.exports.export import export_trial
from histotune.exports.model import load
from histotune.metrics.scores import softmax
from histotune.models.predictor import inputs_of
from histotune.reporting import figures
from histotune.space import read_space
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.studies.create import StudyRequest, begin
from histotune.training.loop import run_trial

SLIDES, SIDE = 60, 100.0


@pytest.fixture(scope="module", params=[0, 2], ids=["one split", "folds"])
def tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Cohort]:
    """A study: 0 attends to chunks of omics, 1 joins without attention, 2 has a single token each; read-only."""
    store, cohort = begun(tmp_path_factory.mktemp("runs") / "runs" / "shown", folds=request.param)
    train(store, cohort, 0, "image", "omics", fusion="cross_attention", epochs=2)
    train(store, cohort, 1, "image", "omics", epochs=1)
    train(store, cohort, 2, "image", "clinical", fusion="cross_attention", epochs=1)
    return store, cohort


def test_shares_are_multiples_of_an_equal_one_of_cases_that_have_both(tables: tuple[StudyFolder, Cohort]) -> None:
    store, cohort = tables
    data = store.training_data(cohort)
    parts = scored_parts(store.trial_folder(0), data)
    ((asking, (rows, shares)),) = readings(parts, data, "omics").items()
    assert asking == "image"
    scored = np.concatenate([part.rows for part in parts])
    both = data.present["image"] & data.present["omics"]
    assert sorted(rows) == sorted(scored[both[scored]])
    assert shares.shape == (len(rows), 5)
    assert shares.mean(axis=1) == pytest.approx(1.0, abs=1e-5)
    part = next(part for part in parts if rows[0] in part.rows)
    inputs, present = inputs_of(part.predictor.model, part.predictor.preparations, part.feed(data).take(rows[:1]))
    with torch.inference_mode():
        model = part.predictor.model
        (layer,) = model.fusion.attention(*model.outputs(inputs, present))
    assert shares[0] == pytest.approx(5 * layer["image", "omics"][0].mean(dim=0)[0].numpy(), abs=1e-5)


def test_the_figure_of_features_states_its_check(tables: tuple[StudyFolder, Cohort], tmp_path: Path) -> None:
    store, _ = tables
    places = Places(store.folder.parent, tmp_path)
    numbers = figures.compute("attention_over_features", store, places=places, of=0, repeats=2)
    (reading,) = numbers.readings
    mean, worth = reading.shares.mean(axis=0), np.array([loss.value for loss in numbers.losses])
    assert reading.correlation == pytest.approx(pd.Series(mean).rank().corr(pd.Series(worth).rank()), abs=1e-9)
    assert (np.diff(reading.labels) >= 0).all()
    caption = figures.draw("attention_over_features", numbers).layout.meta["caption"]
    assert f"over the 5 tokens: image {reading.correlation:+.2f}" in caption
    assert "Of image there is nothing to show: it has a single token." in caption
    (page,) = figures.save("attention_over_features", numbers, tmp_path)
    assert page.exists()


def test_where_there_is_nothing_to_see_it_is_said(tables: tuple[StudyFolder, Cohort], tmp_path: Path) -> None:
    store, _ = tables
    places = Places(store.folder.parent, tmp_path)
    with pytest.raises(StudyError, match="has no attention between branches"):
        figures.compute("attention_over_features", store, places=places, of=1)
    with pytest.raises(StudyError, match=r"nothing to show for trial 2.*a single token"):
        figures.compute("attention_over_features", store, places=places, of=2)
    with pytest.raises(StudyError, match=r"has no branch 'omic'\. Did you mean 'omics'"):
        figures.compute("attention_over_features", store, places=places, of=0, branch="omic")
    with pytest.raises(StudyError, match="has no bag or graph"):
        figures.compute("attention_over_patches", store, places=places, of=0)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `histotune prepare slides` writes it: a few patches of the slides of class b tell it, on the left."""
    root, rng = tmp_path_factory.mktemp("prepared") / "bags", np.random.default_rng(0)
    rows = []
    for number in range(SLIDES):
        count = int(rng.integers(8, 14))
        places = np.stack([np.arange(count) // 4, np.arange(count) % 4], axis=1) * SIDE
        features = rng.normal(size=(count, 6))
        features[places[:, 0] == 0, 0] += 5.0 * (number % 2)
        (root / "slides" / f"s{number:02d}").mkdir(parents=True)
        GraphModality().save(connect(join([features], [places]), k=3), root / "slides" / f"s{number:02d}")
        rows.append({"id": f"s{number:02d}", "file": f"s{number:02d}.svs", "patches": count})
    pd.DataFrame(rows).to_csv(root / "slides.csv", index=False)
    labels = {"slide": [row["id"] for row in rows], "label": ["a", "b"] * (SLIDES // 2)}
    pd.DataFrame(labels).to_csv(root / "labels.csv", index=False)
    return root


@pytest.fixture(scope="module")
def bags(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Cohort]:
    """A study of slides: 0 is attention over a bag, 1 a graph and a bag that look at each other; read-only."""
    one = {"modality": "patches", "backbone": {"name": "attention_mil", "dim": 16, "hidden": 8, "dropout": 0.0}}
    two = {"modality": "graph", "backbone": {"name": "patch_graph", "dim": 16, "depth": 1}}
    trial = {"epochs": 10, "batch_size": 16, "optimizer": {"learning_rate": 0.01}}
    asked = {"dataset": "slides", "model": {"branches": {"bag": one}, "fusion": "none"}, "epochs": 2, "batch_size": 16}
    folder = tmp_path_factory.mktemp("runs") / "runs" / "slides"
    wanted = StudyRequest(read_space(asked, "slides"), data=slides)
    store, cohorts = begin(wanted, "slides", Places(folder.parent, folder.parent.parent / "cache"))
    cohort = cohorts[min(cohorts)]
    networks = [
        ({"bag": one}, "none"),
        ({"bag": one, "graph": two}, {"name": "cross_attention", "dim": 16, "heads": 2}),
    ]
    for number, (branches, fusion) in enumerate(networks):
        config = TrialConfig.from_dict({"model": {"branches": branches, "fusion": fusion}, **trial})
        assert run_trial(config, store.training_data(cohort), store.trial_folder(number)).state == COMPLETE
    return store, cohort


@pytest.mark.parametrize("number", [0, 1])
def test_an_effect_is_what_the_answer_loses_without_the_patch(bags: tuple[StudyFolder, Cohort], number: int) -> None:
    store, cohort = bags
    data = store.training_data(cohort)
    (part,) = scored_parts(store.trial_folder(number), data)
    row = int(part.rows[0])
    result = patches_of(part, data, "bag", row)
    columns = select(data.columns, np.array([row]))
    whole = part.predictor.logits(columns)[0]
    assert result.predicted == whole.argmax()
    assert result.probability == pytest.approx(softmax(whole)[result.predicted], abs=1e-5)
    stored: Bags = columns["patches"].stored
    assert result.coordinates == pytest.approx(stored.coordinates)
    for patch in range(3):
        kept = np.delete(np.arange(len(stored.features)), patch)
        fewer = join([stored.features[kept]], [stored.coordinates[kept]])
        without = part.predictor.logits({**columns, "patches": columns["patches"]._replace(stored=fewer)})[0]
        assert result.drops[patch] == pytest.approx((whole - without)[result.predicted], abs=1e-4)
    assert set(result.shares) == ({POOL} if number == 0 else {POOL, "graph"})
    for shares in result.shares.values():
        assert shares.mean() == pytest.approx(1.0, abs=1e-4)
    assert bag_branches(part) == ["bag", "graph"][: number + 1]


def test_the_map_shows_the_patches_that_tell_the_class(bags: tuple[StudyFolder, Cohort], tmp_path: Path) -> None:
    store, _ = bags
    places = Places(store.folder.parent, tmp_path)
    numbers = figures.compute("attention_over_patches", store, places=places, of=0, cases=8)
    text = [one for one in numbers.maps if one.truth == "b"]
    assert len(text) == 4
    left, right = (np.concatenate([one.shares[(one.x == 0) == side] for one in text]) for side in (True, False))
    assert left.mean() > 1.0 > right.mean()
    (page,) = figures.save("attention_over_patches", numbers, tmp_path)
    assert "rank correlation of attention and effect" in page.read_text(encoding="utf-8")
    case = text[0].case
    (alone,) = figures.compute("attention_over_patches", store, places=places, of=1, case=case, branch="bag").maps
    assert alone.case == case
    with pytest.raises(StudyError, match="no scored case with patches is called 's99'"):
        figures.compute("attention_over_patches", store, places=places, of=0, case="s99")
    with pytest.raises(StudyError, match="'cnv' does not attend to the patches"):
        figures.compute("attention_over_patches", store, places=places, of=1, asking="cnv")
    modalities = figures.compute("modality_importance", store, places=places, of=0, repeats=2)
    assert modalities.losses[0].value > 0


def test_a_prepared_folder_of_slides_is_predicted(
    bags: tuple[StudyFolder, Cohort], slides: Path, tmp_path: Path
) -> None:
    store, _ = bags
    export = export_trial(store, 1, tmp_path / "export")
    saved = store.trials()[1].predictions()
    answer = CliRunner().invoke(app, ["predict", str(export), str(slides), "-o", str(tmp_path / "out.csv")])
    assert answer.exit_code == 0, answer.output
    table = pd.read_csv(tmp_path / "out.csv").set_index("id").loc[saved.ids]
    scaled = saved.logits.astype(np.float64) / load(export).members[0].temperature
    assert table[["p_a", "p_b"]].to_numpy() == pytest.approx(softmax(scaled), abs=1e-5)
    assert "- `patches`: a bag of patches, 6 features each" in (export / "README.md").read_text(encoding="utf-8")
