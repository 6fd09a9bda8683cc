"""Figures of what models predicted agree with scikit-learn, SciPy and plain counting, and never open the seal."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_studies import reread
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from histotune.core import files
from histotune.ensembles.merge import merge
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.metrics.ranking import Ranking
from histotune.reporting import figures
from histotune.reporting.figures._strips import weights_of
from histotune.reporting.figures.confidence import confident_mistakes
from histotune.reporting.figures.ensemble_anatomy import pairwise
from histotune.reporting.figures.precision_recall_curve import precision_recall_points, read_steps
from histotune.reporting.figures.roc_curve import read_line, roc_points
from histotune.storage.records import Predictions, TrialRecord
from histotune.storage.study_folder import StudyFolder

NewStudy = Callable[[Path], StudyFolder]
OF_MODELS = ["confidence", "cost", "ensemble_anatomy", "errors_by_group", "precision_recall_curve", "roc_curve"]
AWKWARD = "<b>benign</b> & <script>"


@pytest.fixture
def merged(trained_study: StudyFolder) -> StudyFolder:
    """Three trained trials and an ensemble of them."""
    merge(trained_study, top=3, replicates=20)
    return trained_study


@pytest.fixture
def three_classes(merged: StudyFolder) -> StudyFolder:
    """The same with a third class, whose logit is made up, and an awkward class name."""
    path = merged.folder / "study.json"
    text = json.loads(path.read_text())
    files.write_json(path, text | {"classes": [AWKWARD, "in situ", "invasive"]})
    reread(merged)
    rng = np.random.default_rng(0)
    for folder in [*(merged.folder / "trials").iterdir(), *merged.ensembles.iterdir()]:
        saved = Predictions.load(folder / "predictions.npz")
        labels = np.where(np.arange(len(saved.labels)) % 3 == 0, 2, saved.labels)
        logits = np.concatenate([saved.logits, rng.normal(size=(len(labels), 1))], axis=1) + np.eye(3)[labels]
        dataclasses.replace(saved, labels=labels, logits=logits).save(folder / "predictions.npz")
    return merged


def scores_with_ties(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores of which many are equal, and hits."""
    rng = np.random.default_rng(seed)
    hits = rng.random(120) < 0.4
    return np.round(rng.random(120) + 0.3 * hits, 1 + seed % 2), hits


@pytest.mark.parametrize("seed", range(10))
def test_curves_are_scikit_learns(seed: int) -> None:
    scores, hits = scores_with_ties(seed)
    steps = Ranking(scores, hits).steps()
    x, y = roc_points(*steps)
    false, true, _ = roc_curve(hits, scores, drop_intermediate=False)
    assert x == pytest.approx(false)
    assert y == pytest.approx(true)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(hits, scores))
    recall, precision = precision_recall_points(*steps)
    theirs, those, _ = precision_recall_curve(hits, scores)
    assert recall[1:] == pytest.approx(those[:-1][::-1])
    assert precision[1:] == pytest.approx(theirs[:-1][::-1])
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(average_precision_score(hits, scores))


def test_a_curve_is_read_between_its_points() -> None:
    x, y = np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.5, 0.5, 1.0])
    assert read_line(x, y, np.array([0.0, 0.25, 0.75, 1.0])).tolist() == [0.5, 0.5, 0.75, 1.0]
    recall, precision = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.8, 0.4])
    assert read_steps(recall, precision, np.array([0.0, 0.2, 0.5, 0.6, 1.0])).tolist() == [1.0, 0.8, 0.8, 0.4, 0.4]


@pytest.mark.parametrize(("name", "metric"), [("roc_curve", "auroc"), ("precision_recall_curve", "average_precision")])
def test_areas_are_the_records_and_bands_hold_their_curve(name: str, metric: str, merged: StudyFolder) -> None:
    result = figures.compute(name, merged)
    best = max(merged.trials(), key=lambda trial: trial.metrics["balanced_accuracy"])
    assert [one.name.split()[0] for one in result.curves] == ["trial", "ensemble"]
    assert result.curves[0].area == pytest.approx(best.metrics[metric])
    for one in result.curves:
        assert (one.low <= one.high + 1e-12).all()
        assert one.area_low <= one.area <= one.area_high
        read = read_line if name == "roc_curve" else read_steps
        inside = read(one.x, one.y, np.linspace(0, 1, 101))
        assert np.mean((one.low - 0.02 <= inside) & (inside <= one.high + 0.02)) > 0.9
    assert result.prevalence == pytest.approx(np.mean(best.predictions().labels == 1))


def test_of_several_classes_the_curve_is_their_mean_or_that_of_one(three_classes: StudyFolder) -> None:
    macro = figures.compute("roc_curve", three_classes).curves[0]
    saved = merged_best(three_classes).predictions()
    probabilities = metrics.softmax(saved.logits)
    assert macro.area == pytest.approx(roc_auc_score(saved.labels, probabilities, multi_class="ovr"))
    assert np.trapezoid(macro.y, macro.x) == pytest.approx(macro.area, abs=2e-3)
    one = figures.compute("roc_curve", three_classes, label="invasive").curves[0]
    assert one.area == pytest.approx(roc_auc_score(saved.labels == 2, probabilities[:, 2]))
    with pytest.raises(StudyError, match="Did you mean 'invasive'"):
        figures.compute("roc_curve", three_classes, label="invasiv")


def merged_best(store: StudyFolder) -> TrialRecord:
    """Return the record of the best trial."""
    return max(store.trials(), key=lambda trial: trial.metrics["balanced_accuracy"])


def test_errors_by_patient_and_site_add_up(merged: StudyFolder) -> None:
    result = figures.compute("errors_by_group", merged, of=0)
    record = merged.trials()[0]
    saved = record.predictions()
    for groups in (result.patients, result.sites):
        assert groups.cases.sum() == len(saved.labels)
        assert 1 - groups.errors.sum() / groups.cases.sum() == pytest.approx(record.metrics["accuracy"])
        assert (np.diff(groups.rates) <= 0).all()
        assert ((groups.low <= groups.rates) & (groups.rates <= groups.high)).all()
    assert set(result.patients.names) == set(saved.patients)
    assert len(result.sites.names) == 3


def test_errors_by_patient_stand_without_the_data(merged: StudyFolder, tmp_path: Path) -> None:
    path = merged.folder / "study.json"
    text = json.loads(path.read_text())
    files.write_json(path, text | {"dataset": "idc", "data": str(tmp_path / "gone"), "options": {}})
    reread(merged)
    result = figures.compute("errors_by_group", merged, of=0)
    assert not result.sites.names
    assert result.note.startswith("Sites are unknown")
    assert figures.draw("errors_by_group", result).data


def test_histograms_count_every_case_and_mistakes_are_the_surest(merged: StudyFolder) -> None:
    result = figures.compute("confidence", merged, of=1, most=5)
    saved = merged.trials()[1].predictions()
    probabilities = metrics.softmax(saved.logits)
    assert result.counts.sum(axis=1).tolist() == np.bincount(saved.labels).tolist()
    assert result.counts[1, 10:].sum() == ((probabilities[:, 1] >= 0.5) & (saved.labels == 1)).sum()
    wrong = probabilities.argmax(axis=1) != saved.labels
    assert result.wrong == wrong.sum()
    assert result.mistakes[0].probability == pytest.approx(probabilities.max(axis=1)[wrong].max(), abs=1e-6)
    table = confident_mistakes(merged, of=1, most=5)
    assert list(table.columns) == ["id", "patient", "truth", "predicted", "probability"]
    assert table["id"].tolist() == [one.id for one in result.mistakes]
    assert (table["truth"] != table["predicted"]).all()
    assert table["probability"].is_monotonic_decreasing
    assert confident_mistakes(merged, most=1000)["id"].is_unique


def test_cost_has_a_front_and_the_ties_of_confirm(merged: StudyFolder) -> None:
    result = figures.compute("cost", merged)
    assert result.scores.tolist() == sorted(result.scores, reverse=True)
    for price in result.prices:
        for row in np.flatnonzero(~price.front & ~np.isnan(price.values)):
            better = (result.scores >= result.scores[row]) & (price.values <= price.values[row])
            better &= (result.scores > result.scores[row]) | (price.values < price.values[row])
            assert better.any(), "what is not on the front is beaten by something"
    assert not result.confirmed
    contenders = [{"number": 1, "tied": True}, {"number": 2, "tied": False}]
    files.write_json(merged.folder / "confirm" / "confirm.json", {"contenders": contenders})
    again = figures.compute("cost", merged)
    assert [name.split()[1] for name, tied in zip(again.names, again.tied, strict=True) if tied] == ["1"]


def test_members_are_compared_case_by_case(merged: StudyFolder) -> None:
    result = figures.compute("ensemble_anatomy", merged)
    saved = [merged.trials()[int(name.split()[0])].predictions() for name in result.members]
    predicted = [one.logits.argmax(axis=1) for one in saved]
    wrong = [(one != saved[0].labels).astype(float) for one in predicted]
    for i in range(3):
        for j in range(3):
            assert result.disagreement[i, j] == pytest.approx(np.mean(predicted[i] != predicted[j]))
            assert result.correlation[i, j] == pytest.approx(np.corrcoef(wrong[i], wrong[j])[0, 1])
    assert result.weights.tolist() == pytest.approx([1 / 3] * 3), "of a mean all have the same weight"
    records = [merged.trials()[int(name.split()[0])] for name in result.members]
    assert result.scores == pytest.approx([one.metrics["balanced_accuracy"] for one in records])


def test_members_that_never_err_have_no_correlation() -> None:
    _, alike = pairwise(np.array([[0, 1, 1], [0, 1, 0]]), np.array([0, 1, 1]))
    assert np.isnan(alike[0, 1])


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"strategy": "greedy", "state": {"weights": [0.0, 3.0, 1.0]}}, [0.0, 0.75, 0.25]),
        ({"strategy": "weighted_logits", "state": {"weights": [[1, 1], [2, 2], [1, 1]]}}, [0.25, 0.5, 0.25]),
        ({"strategy": "stacking", "state": {"matrix": [[1, 0, 2, 0, 1, 0, 9, 9, 9]] * 2}}, [0.25, 0.5, 0.25]),
        ({"strategy": "vote", "state": {}}, [float("nan")] * 3),
    ],
)
def test_say_is_what_the_strategy_learned(told: dict[str, object], expected: list[float]) -> None:
    assert weights_of(told, 3, 2) == pytest.approx(expected, nan_ok=True)


def test_without_an_ensemble_the_command_is_named(trained_study: StudyFolder) -> None:
    with pytest.raises(StudyError, match="`histotune ensemble small --top 5` builds one"):
        figures.compute("ensemble_anatomy", trained_study)
    with pytest.raises(StudyError, match="is not an ensemble"):
        figures.compute("ensemble_anatomy", trained_study, of="0")


@pytest.mark.parametrize("name", [*OF_MODELS, "confusion_matrix"])
def test_names_of_classes_are_no_markup(name: str, three_classes: StudyFolder, tmp_path: Path) -> None:
    options: dict[str, Any] = {"label": AWKWARD} if name.endswith("_curve") else {}
    drawn = figures.draw(name, figures.compute(name, three_classes, **options))
    message = drawn.to_json()
    assert "<script>" not in json.loads(message).__repr__().replace(repr(drawn.layout.meta), "").replace("&lt;", "")
    figures.save(name, figures.compute(name, three_classes, **options), tmp_path)
    page = (tmp_path / f"{name}.html").read_text()
    assert AWKWARD not in page


def test_the_name_of_the_positive_class_is_no_markup(merged: StudyFolder) -> None:
    path = merged.folder / "study.json"
    files.write_json(path, json.loads(path.read_text()) | {"classes": ["benign", AWKWARD]})
    reread(merged)
    drawn = figures.draw("confidence", figures.compute("confidence", merged))
    assert drawn.layout.xaxis2.title.text == "probability of &lt;b&gt;benign&lt;/b&gt; &amp; &lt;script&gt;"
    assert "<script>" not in drawn.layout.title.text
    assert "<script>" not in " ".join(note.text for note in drawn.layout.annotations)


@pytest.mark.parametrize("name", OF_MODELS)
def test_sealed_labels_are_not_needed(name: str, merged: StudyFolder) -> None:
    shutil.rmtree(merged.folder / "sealed")
    assert figures.draw(name, figures.compute(name, merged)).data
    assert not (merged.folder / "sealed").exists()
