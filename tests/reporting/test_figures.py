"""The contract of every figure: numbers without plotly, a page that stands alone, an honest caption; and their laws.

A figure is computed from a study's files and never opens the seal.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changed_studies import reread
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from histotune.cli.app import app
from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.data.imbalance import effective_number_weights
from histotune.ensembles.merge import merge
from histotune.errors import ConfigError, DataError, HistotuneError, StudyError
from histotune.evaluation.sealed import evaluate
from histotune.exports.export import export_trial
from histotune.exports.model import load
from histotune.metrics.scores import score, softmax
from histotune.models.losses import LOSSES, ObjectiveInput
from histotune.models.predictor import load_model
from histotune.reporting import figures
from histotune.reporting.figures.confusion_matrix import confusion
from histotune.reporting.figures.effect_of_beta import weights_by_beta
from histotune.reporting.figures.effect_of_sigma import affinities
from histotune.reporting.figures.learned_features import project
from histotune.reporting.figures.runtime_per_epoch import timings
from histotune.storage.study_folder import StudyFolder
from histotune.study import Study
from histotune.testing.figures import FIGURE
from histotune.training.loop import run_trial

NewStudy = Callable[[Path], StudyFolder]

OF_TABLES = {
    "attention_over_features",
    "attention_over_patches",
    "feature_importance",
    "parameter_importance",  # of more trials than these tests train: tests/reporting/test_figures_of_search.py
}
SHOWN = [name for name in figures.FIGURES.names() if name not in OF_TABLES]
every_figure = pytest.mark.parametrize("name", SHOWN)
TWO_BRANCHES = {
    "branches": {"cnn": {"backbone": "alexnet"}, "transformer": {"backbone": "cct_2"}},
    "fusion": {"name": "cmaf", "dim": 8, "heads": 2},
}
SPACE = {
    "dataset": "synthetic",
    "loss": {"choice": {"cross_entropy": {}, "acbfl": {}, "cfal": {"sigma": {"low": 50.0, "high": 150.0}}}},
}
LOSSES_TRIED: list[dict[str, Any]] = [
    {"name": "cross_entropy"},
    {"name": "cfal", "sigma": 80.0},
    {"name": "cfal", "sigma": 130.0},
    {"name": "cfal", "sigma_mode": "auto"},
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, new_study: NewStudy, small_cohort: Cohort) -> StudyFolder:
    """A study of four short trials, one of two branches and an ensemble; read-only."""
    store = new_study(tmp_path_factory.mktemp("runs") / "shown")
    text = json.loads((store.folder / "study.json").read_text())
    files.write_json(store.folder / "study.json", text | {"space": SPACE})
    reread(store)
    data = store.training_data(small_cohort)
    for number, loss in enumerate(LOSSES_TRIED):
        config = TrialConfig.from_dict({"epochs": 2, "batch_size": 32, "loss": loss})
        assert run_trial(config, data, store.trial_folder(number)).state == "complete"
    config = TrialConfig.from_dict({"epochs": 2, "batch_size": 32, "loss": "acbfl", "model": TWO_BRANCHES})
    assert run_trial(config, data, store.trial_folder(len(LOSSES_TRIED))).state == "complete"
    merge(store, top=2, replicates=20)
    return store


@pytest.fixture(scope="module")
def places(study: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Where the study of these tests lies, with a cache of its own."""
    return Places(study.folder.parent, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def numbers(study: StudyFolder, places: Places) -> dict[str, Any]:
    """The numbers of every figure."""
    return {name: figures.compute(name, study, places=places) for name in SHOWN}


def test_numbers_need_no_plotly(study: StudyFolder, places: Places) -> None:
    code = f"""
import sys
from pathlib import Path
sys.modules["plotly"] = sys.modules["kaleido"] = None
from histotune.reporting import figures; from histotune.core import files
from histotune.core.runtime import Places
from histotune.storage.study_folder import StudyFolder
for name in {SHOWN!r}:
    figures.compute(name, StudyFolder(Path({str(study.folder)!r})), places=Places(Path(), Path({str(places.cache)!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@every_figure
@pytest.mark.parametrize("law", FIGURE.laws)
def test_every_figure_keeps_the_law(name: str, law: str, study: StudyFolder, places: Places) -> None:
    FIGURE.check_one(law, FIGURE.laws[law], name, name, study, places, {})


@every_figure
def test_a_drawing_says_what_it_shows_of_how_many_patients(name: str, numbers: dict[str, Any]) -> None:
    from plotly.graph_objects import Figure

    drawn = figures.draw(name, numbers[name])
    assert isinstance(drawn, Figure)
    assert drawn.data
    assert drawn.layout.meta["title"].split()[0] in drawn.layout.title.text
    caption = drawn.layout.meta["caption"]
    assert "patient" in caption
    assert "study shown: synthetic, split patient (synthetic data)" in caption


@every_figure
def test_an_unknown_option_is_refused(name: str, study: StudyFolder) -> None:
    with pytest.raises(ConfigError, match=f"figure '{name}' has no parameter 'colour'"):
        figures.compute(name, study, colour="red")


@pytest.mark.parametrize("name", [name for name in figures.FIGURES.names() if name != "effect_of_sigma"])
def test_a_study_without_trials_is_told_to_train(name: str, new_study: NewStudy, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="continue the search, or train one"):
        figures.compute(name, new_study(tmp_path / "empty"))


def test_sigma_is_shown_without_trials_too(new_study: NewStudy, tmp_path: Path) -> None:
    result = figures.compute("effect_of_sigma", new_study(tmp_path / "empty"))
    assert 130.0 in result.sigmas
    assert "no trial of study empty" in figures.draw("effect_of_sigma", result).layout.meta["caption"]


@pytest.mark.skipif(
    not (os.environ.get("BROWSER_PATH") or any(map(shutil.which, ("chromium", "google-chrome", "chrome")))),
    reason="no Chrome",
)
def test_an_image_is_a_png_of_the_drawing(numbers: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    _, image = figures.save("confusion_matrix", numbers["confusion_matrix"], tmp_path, png=True)
    content = image.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">I", content[16:20]) == (1280,)


def test_without_kaleido_the_error_says_what_to_install_and_the_page_stands(
    numbers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(HistotuneError, match=r"pip install 'histotune\[png\]'.*chromium"):
        figures.save("confusion_matrix", numbers["confusion_matrix"], tmp_path, png=True)
    assert [path.name for path in tmp_path.iterdir()] == ["confusion_matrix.html"]


def test_a_chrome_that_does_not_start_is_an_error_in_words(
    numbers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", shutil.which("false") or "false")
    with pytest.raises(HistotuneError, match="Chrome or Chromium"):
        figures.save("confusion_matrix", numbers["confusion_matrix"], tmp_path, png=True)


def test_a_confusion_matrix_agrees_with_the_trial(study: StudyFolder) -> None:
    record = study.trials()[2]
    result = figures.compute("confusion_matrix", study, of=2)
    assert np.trace(result.counts) / result.counts.sum() == pytest.approx(record.metrics["accuracy"])
    assert np.mean(np.diag(result.shares)) == pytest.approx(record.metrics["balanced_accuracy"])
    assert result.patients == len(np.unique(record.predictions().patients))


def test_the_best_model_is_the_leaderboards(study: StudyFolder) -> None:
    board = Study(study).leaderboard()
    best = board[board["rank"].notna()].iloc[0]
    assert figures.compute("confusion_matrix", study).model.startswith(f"{best['kind']} {best['name']}")


@pytest.mark.parametrize("of", ["0", "average-top2"])
def test_a_model_is_found_by_number_or_name(study: StudyFolder, of: str) -> None:
    assert of in figures.compute("confusion_matrix", study, of=of).model


def test_an_unknown_model_is_offered_the_nearest(study: StudyFolder) -> None:
    with pytest.raises(StudyError, match="Did you mean 'average-top2'"):
        figures.compute("confusion_matrix", study, of="average-top3")
    with pytest.raises(StudyError, match="histotune evaluate EXPORT"):
        figures.compute("confusion_matrix", study, of="evaluation")


def test_the_matrix_of_an_evaluation_is_the_evaluations(
    study: StudyFolder, small_cohort: Cohort, tmp_path: Path
) -> None:
    copy = StudyFolder(tmp_path / "runs" / "shown")
    shutil.copytree(study.folder, copy.folder)
    model = load(export_trial(copy, 0, tmp_path / "export"))
    result = evaluate(model, {32: small_cohort}, copy, command="test", replicates=20)
    shown = figures.compute("confusion_matrix", copy, of="evaluation")
    assert shown.counts.tolist() == result.confusion
    assert shown.part.startswith("sealed test set")
    assert len(copy.openings()) == 1


def test_a_class_without_cases_has_no_shares() -> None:
    result = confusion(np.eye(3)[[0, 1, 2]], np.array([0, 0, 1]), np.array(["a", "a", "b"]), "xyz", model="", part="")
    assert result.shares[0].tolist() == [0.5, 0.5, 0.0]
    assert np.isnan(result.shares[2]).all()
    assert figures.draw("confusion_matrix", result).data[0].text[2][0] == "-"


def test_affinities_are_those_of_the_loss() -> None:
    distances, values = affinities([40.0, 130.0])
    for sigma, expected in zip((40.0, 130.0), values, strict=True):
        objective = LOSSES.build("gaussian_affinity", ObjectiveInput(3, (5, 5)), sigma=sigma).double()
        centre = objective.get_parameter("centres")[0, 0].detach()
        towards = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
        features = centre + torch.from_numpy(distances)[:, None] * towards
        result = objective.scores(features).exp()[:, 0].detach().numpy()
        assert result == pytest.approx(expected, rel=1e-9)


def test_sigmas_are_of_the_trials_that_were_given_one(numbers: dict[str, Any], study: StudyFolder) -> None:
    result = numbers["effect_of_sigma"]
    assert [(trial.model, trial.sigma) for trial in result.trials] == [("1", 80.0), ("2", 130.0)]
    assert result.alike
    for trial in result.trials:
        assert trial.score == study.trials()[int(trial.model)].metrics["balanced_accuracy"]
        assert trial.low <= trial.score <= trial.high


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=5))
def test_weights_go_from_equal_to_inverse_frequency(counts: list[int]) -> None:
    volumes, weights = weights_by_beta(counts)
    assert weights[0].tolist() == [1.0] * len(counts)
    assert weights.sum(axis=1) == pytest.approx(len(counts))
    assert weights[-1] == pytest.approx(effective_number_weights(counts, 1.0), rel=0.06)
    assert weights[7] == pytest.approx(effective_number_weights(counts, 1 - 1 / volumes[7]))


@pytest.mark.parametrize("beta", [0.9, 0.9999, 0.999999])
def test_the_betas_that_are_used_lie_on_the_axis(beta: float) -> None:
    volumes, _ = weights_by_beta([7, 7], {0.0, beta, 1.0})
    assert volumes[-1] == pytest.approx(max(1e2, 1 / (1 - beta)))


def test_betas_and_counts_are_the_studys(numbers: dict[str, Any], study: StudyFolder, small_cohort: Cohort) -> None:
    result = numbers["effect_of_beta"]
    assert result.used == (0.0, 0.999)  # the defaults of losses that were given none included
    assert result.counts == tuple(study.training_data(small_cohort).counts)


def test_every_epoch_is_timed_once(numbers: dict[str, Any], study: StudyFolder) -> None:
    result = {one.loss: one for one in numbers["runtime_per_epoch"].timings}
    assert {loss: (one.trials, len(one.seconds)) for loss, one in result.items()} == {
        "cross_entropy": (1, 2),
        "cfal": (3, 6),
        "acbfl": (1, 2),
    }
    measured = [row["seconds"] for trial in study.trials() for row in trial.curve()]
    assert sorted(np.concatenate([one.seconds for one in result.values()])) == pytest.approx(sorted(measured))


def test_settings_are_not_mixed() -> None:
    result = timings([("cfal", "small", [1.0, 2.0]), ("cfal", "large", [9.0]), ("focal", "small", [3.0])])
    assert [(one.setting, one.loss, one.median) for one in result] == [
        ("small", "cfal", 1.5),
        ("small", "focal", 3.0),
        ("large", "cfal", 9.0),
    ]


def test_the_objective_scores_the_features_that_are_shown(study: StudyFolder, small_cohort: Cohort) -> None:
    predictor = load_model(study.trial_folder(2))
    images = small_cohort.arrays["image"][:20]
    features = predictor.features(images)
    scores = predictor.model.objective.scores(torch.from_numpy(features)).detach().numpy()
    assert scores == pytest.approx(predictor.logits(images), rel=1e-4, abs=1e-5)


def test_each_loss_is_shown_by_its_best_trial_on_the_same_cases(
    numbers: dict[str, Any], study: StudyFolder, places: Places
) -> None:
    result = numbers["learned_features"]
    assert [panel.loss for panel in result.panels] == ["acbfl", "cfal", "cross_entropy"]
    saved = study.trials()[0].predictions()
    assert result.labels.tolist() == saved.labels.tolist()
    for panel in result.panels:
        number = int(panel.model.split()[1])
        rivals = [t.metrics["balanced_accuracy"] for t in study.trials() if t.config()["loss"]["name"] == panel.loss]
        assert study.trials()[number].metrics["balanced_accuracy"] == max(rivals) == panel.score
        assert len(panel.points) == len(saved.labels)
    few = figures.compute("learned_features", study, places=places, cases=10, method="tsne")
    assert [panel.points.shape for panel in few.panels] == [(10, 2)] * 3


def test_trials_whose_weights_are_gone_cannot_be_shown(study: StudyFolder, tmp_path: Path) -> None:
    copy = StudyFolder(tmp_path / "runs" / "shown")
    shutil.copytree(study.folder, copy.folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(StudyError, match="keep-models"):
        figures.compute("learned_features", copy)


def test_information_is_what_training_measured(numbers: dict[str, Any], study: StudyFolder) -> None:
    result, record = numbers["information_over_epochs"], study.trials()[4]
    rows = [row["information"] for row in record.curve()]
    assert result.epochs.tolist() == [1, 2]
    assert result.best_epoch == record.best_epoch
    assert result.shared[0].name == "cnn-transformer"
    assert result.shared[0].values.tolist() == [row["mutual_information"]["cnn-transformer"] for row in rows]
    assert [curve.name for curve in result.known] == ["cnn", "transformer", "joint"]
    assert result.rank[2].values.tolist() == [row["effective_rank"]["joint"] for row in rows]
    caption = figures.draw("information_over_epochs", result).layout.meta["caption"]
    assert f"{result.cases} cases of {result.patients} patients" in caption


def test_attention_gets_even_with_temperature_and_its_mark_lies_on_its_line(numbers: dict[str, Any]) -> None:
    result = numbers["attention_over_temperature"]
    assert result.temperatures[[0, -1]] == pytest.approx([0.05, 5.0])
    assert [(head.layer, head.asking, head.head) for head in result.heads] == [
        (1, "cnn", 1),
        (1, "cnn", 2),
        (1, "transformer", 1),
        (1, "transformer", 2),
    ]
    for head in result.heads:
        assert (np.diff(head.entropies) > 0).all()
        on_the_line = np.interp(np.log(head.temperature), np.log(result.temperatures), head.entropies)
        assert head.entropy == pytest.approx(on_the_line, abs=1e-3)
        kept = result.best_epoch - 1
        assert head.temperature_by_epoch[kept] == pytest.approx(head.temperature)
        assert head.by_epoch[kept] == pytest.approx(head.entropy, abs=1e-5), "all cases of this study are among them"


@pytest.mark.parametrize("name", ["information_over_epochs", "attention_over_temperature"])
def test_only_models_of_several_branches_have_information(
    name: str, study: StudyFolder, tmp_path: Path, places: Places
) -> None:
    assert figures.compute(name, study, places=places, of=4).model.startswith("trial 4 (acbfl), fusion cmaf")
    with pytest.raises(StudyError, match=r"trial 1 of study 'shown' is none whose model .* space idc_cmaf"):
        figures.compute(name, study, of=1)
    with pytest.raises(StudyError, match=r"no trial '9' with a result.*Known: 0, 1, 2"):
        figures.compute(name, study, of=9)
    copy = StudyFolder(tmp_path / "runs" / "shown")
    shutil.copytree(study.folder, copy.folder, ignore=shutil.ignore_patterns("00004"))
    with pytest.raises(StudyError, match="has no complete trial whose model"):
        figures.compute(name, copy)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_principal_components_keep_what_two_dimensions_can(width: int) -> None:
    features = np.random.default_rng(0).normal(size=(40, width)).astype(np.float32)
    points, explained = project(features, "pca")
    shown, real = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (points, features))
    assert (shown <= real + 1e-5).all()
    if width <= 2:
        assert shown == pytest.approx(real, abs=1e-5)
        assert sum(explained) == pytest.approx(1.0)
    else:
        assert 2 / width < sum(explained) < 1


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_projection_is_the_same_again_and_separates_what_is_separate(method: str) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 8)) + 30.0 * (np.arange(60) % 2)[:, None]
    points, _ = project(features, method)
    np.testing.assert_array_equal(points, project(features, method)[0])
    centred = points - points.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    sides = centred @ axis > 0
    assert len(set(sides[::2])) == len(set(sides[1::2])) == 1
    assert sides[0] != sides[1]


def test_too_few_cases_for_a_projection_are_refused() -> None:
    with pytest.raises(DataError, match="at least 4 validation cases, got 3"):
        project(np.zeros((3, 5)), "pca")


def test_a_study_draws_what_the_command_draws(study: StudyFolder, numbers: dict[str, Any], tmp_path: Path) -> None:
    drawn = Study(study).figure("confusion_matrix", tmp_path / "out")
    assert drawn == figures.draw("confusion_matrix", numbers["confusion_matrix"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["confusion_matrix.html"]


def command(study: StudyFolder, *arguments: str) -> Result:
    """Run `histotune figure ARGUMENTS` on the study of these tests."""
    return CliRunner().invoke(app, ["figure", *arguments, "--runs", str(study.folder.parent)])


def test_the_command_writes_a_page_and_its_numbers(study: StudyFolder, tmp_path: Path) -> None:
    result = command(study, "confusion_matrix", "shown", "--set", "of=0", "--out", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    text = json.loads(result.stdout)
    assert text["files"] == [str(tmp_path / "confusion_matrix.html")]
    saved = study.trials()[0].predictions()
    right = softmax(saved.logits)
    counts = np.array(text["numbers"]["counts"])
    assert np.trace(counts) / counts.sum() == pytest.approx(score("accuracy", right, saved.labels))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["confusion", "shown"], "Did you mean 'confusion_matrix'?"),
        (["confusion_matrix", "shwn"], "Did you mean 'shown'?"),
        (["learned_features", "shown", "--set", "method=umap"], "'method' of figure 'learned_features' must be one of"),
        (["learned_features", "shown", "--set", "cases=many"], "must be a whole number"),
        (["learned_features", "shown", "--set", "cases"], "expected PATH=VALUE"),
        (["confusion_matrix", "shown", "--set", "off=1"], "Did you mean 'of'?"),
    ],
)
def test_bad_input_ends_with_code_2_and_the_nearest_name(study: StudyFolder, arguments: list[str], words: str) -> None:
    result = command(study, *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
