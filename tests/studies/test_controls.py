"""Controls see the training part only, repeat themselves exactly, and know what colour knows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histotune.data.cohort import UNKNOWN
from histotune.data.modalities.table import Table, TableColumn
from histotune.data.splits import TrainingData
from histotune.errors import ConfigError
from histotune.metrics.scores import METRICS, score, softmax
from histotune.storage.records import Predictions
from histotune.storage.study_folder import COMPLETE
from histotune.studies import controls
from histotune.studies.controls import (
    color_histograms,
    control_names,
    fit_controls,
    kept_predictions,
    predict_control,
)


def made_up(seed: int = 0, n: int = 300, classes: int = 2, side: int = 12) -> TrainingData:
    """Make images whose colour tells their class, half of the time."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    images = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    tinted = rng.random(n) < 0.5
    images[tinted, ..., 0] = images[tinted, ..., 0] // 2 + (60 * labels[tinted]).astype(np.uint8)[:, None, None]
    rows = np.arange(n)
    return TrainingData(
        arrays={"image": images},
        present={"image": np.ones(n, dtype=bool)},
        labels=np.where(rows % 4 == 3, -1, labels),
        ids=np.array([f"case{row}" for row in rows]),
        patients=np.array([f"p{row // 10}" for row in rows]),
        train=rows[rows % 4 < 2],
        val=rows[rows % 4 == 2],
        classes=tuple("abcdefghi"[:classes]),
    )


def test_histograms_count_every_pixel_once_per_histogram() -> None:
    images = made_up().arrays["image"]
    histograms = color_histograms(images)
    assert histograms.shape == (len(images), 16 * 3 + 64)
    for start, end in ((0, 16), (16, 32), (32, 48), (48, 112)):
        assert histograms[:, start:end].sum(axis=1) == pytest.approx(1.0)


def test_histograms_by_hand() -> None:
    image = np.zeros((1, 1, 2, 3), np.uint8)
    image[0, 0, 0] = (0, 17, 255)  # bins 0, 1, 15; jointly 0, 0, 3
    image[0, 0, 1] = (255, 128, 64)  # bins 15, 8, 4; jointly 3, 2, 1
    expected = np.zeros(112)
    expected[[0, 15, 16 + 1, 16 + 8, 32 + 15, 32 + 4, 48 + 3, 48 + 3 * 16 + 2 * 4 + 1]] = 0.5
    assert np.array_equal(color_histograms(image)[0], expected)


def test_where_pixels_lie_does_not_matter() -> None:
    images = made_up().arrays["image"]
    assert np.array_equal(color_histograms(images), color_histograms(images[:, ::-1].transpose(0, 2, 1, 3)))


@pytest.mark.parametrize("classes", [2, 4])
def test_records_are_those_of_trials_on_the_validation_part(tmp_path: Path, classes: int) -> None:
    data = made_up(classes=classes)
    records = fit_controls(data, tmp_path)
    assert [record.folder.name for record in records] == control_names(data) == ["majority_class", "color_histogram"]
    for record in records:
        predictions = record.predictions()
        assert record.state == COMPLETE
        assert record.number == -1
        assert np.array_equal(predictions.ids, data.ids[data.val])
        assert np.array_equal(predictions.labels, data.labels[data.val])
        assert predictions.logits.dtype == np.float32
        for name in set(METRICS) & set(record.metrics):
            value = score(name, softmax(predictions.logits), predictions.labels)
            assert record.metrics[name] == pytest.approx(value), name


def test_colour_beats_the_majority_where_colour_tells(tmp_path: Path) -> None:
    majority, colour = fit_controls(made_up(), tmp_path)
    assert majority.metrics["balanced_accuracy"] == majority.metrics["auroc"] == 0.5
    assert colour.metrics["auroc"] > 0.65


def test_the_majority_control_says_the_class_shares_of_the_training_part() -> None:
    data = made_up(classes=3)
    shares = softmax(predict_control("majority_class", data, data.val))
    assert shares == pytest.approx(np.tile(np.array(data.counts) / len(data.train), (len(data.val), 1)))


@pytest.mark.parametrize("name", ["majority_class", "color_histogram"])
def test_fitting_again_predicts_the_same_and_any_rows(name: str, tmp_path: Path) -> None:
    data = made_up()
    fit_controls(data, tmp_path)
    saved = np.load(tmp_path / name / "predictions.npz")["logits"]
    everyone = predict_control(name, data, np.arange(len(data.ids)))
    assert np.array_equal(saved, everyone[data.val])


@pytest.mark.parametrize("name", ["majority_class", "color_histogram"])
def test_only_the_training_part_teaches(name: str) -> None:
    data = made_up()
    labels, images = data.labels.copy(), np.array(data.arrays["image"])
    labels[data.val] = 1 - labels[data.val]
    other = np.setdiff1d(np.arange(len(labels)), [*data.train, *data.val[:5]])
    images[other] = 0
    changed = dataclasses.replace(data, labels=labels, arrays={"image": images})
    rows = data.val[:5]
    assert np.array_equal(predict_control(name, data, rows), predict_control(name, changed, rows))


def test_a_control_that_stands_is_not_fitted_again(tmp_path: Path) -> None:
    data = made_up()
    first = fit_controls(data, tmp_path)
    (tmp_path / "color_histogram" / "metrics.json").unlink()  # as after a crash in mid-control
    again = fit_controls(data, tmp_path)
    assert again[0].started == first[0].started
    assert again[1].started > first[1].started
    assert again[1].metrics == first[1].metrics


def test_an_absent_image_is_no_colour(tmp_path: Path) -> None:
    data = made_up()
    present = {"image": np.arange(len(data.ids)) % 5 > 0}
    images = np.array(data.arrays["image"])
    images[~present["image"]] = 7
    one = dataclasses.replace(data, present=present)
    other = dataclasses.replace(data, present=present, arrays={"image": images})
    assert np.array_equal(*(predict_control("color_histogram", d, d.val) for d in (one, other)))  # type: ignore[arg-type]


def test_without_images_there_is_no_colour() -> None:
    data = tables()
    assert control_names(data) == ["majority_class", "linear_clinic", "linear_genes", "linear_joined"]
    with pytest.raises(ConfigError, match="unknown baseline 'color_histogram'"):
        predict_control("color_histogram", data, data.val)


# linear


def tables(seed: int = 0, n: int = 300) -> TrainingData:
    """Make tables of which genes tell the second class and the clinic the third, each absent for every fifth case."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    genes = rng.normal(size=(n, 80)) * 10.0 ** rng.integers(-2, 4, 80)
    genes[:, 0] = rng.normal(size=n) + 2.5 * (labels == 1)
    grade = np.where(rng.random(n) < 0.8, labels == 2, rng.integers(0, 2, n))
    clinic = np.stack([grade, rng.normal(size=n)], axis=1)
    clinic[rng.random(clinic.shape) < 0.1] = np.nan
    arrays = {
        "genes": Table(genes.astype(np.float32), tuple(TableColumn(f"g{at}") for at in range(80))),
        "clinic": Table(clinic.astype(np.float32), (TableColumn("grade", ("low", "high")), TableColumn("age"))),
    }
    rows = np.arange(n)
    return dataclasses.replace(
        made_up(n=n, classes=3),
        arrays=arrays,
        kinds=dict.fromkeys(arrays, "table"),
        present={"genes": rows % 5 != 1, "clinic": (rows % 5 != 2) & (rows % 10 != 1)},
        labels=np.where(rows % 4 == 3, -1, labels),
    )


def pixels_and_tables() -> TrainingData:
    """Make a cohort of images and genes."""
    data, genes = made_up(), tables().arrays["genes"]
    present = {**data.present, "genes": np.arange(300) % 3 > 0}
    return dataclasses.replace(data, arrays={**data.arrays, "genes": genes}, present=present, kinds={"genes": "table"})


def test_images_join_the_linear_control_of_all() -> None:
    data = pixels_and_tables()
    assert control_names(data) == ["majority_class", "color_histogram", "linear_genes", "linear_joined"]
    alone, joined = (predict_control(f"linear_{name}", data, data.val) for name in ("genes", "joined"))
    absent = ~data.present["genes"][data.val]
    shares = np.array(data.counts) / len(data.train)
    assert softmax(alone[absent]) == pytest.approx(np.tile(shares, (absent.sum(), 1)), abs=1e-6)
    assert len(np.unique(joined[absent], axis=0)) == absent.sum()  # colours still tell


def test_the_linear_control_is_that_of_scikit_learn() -> None:
    data = tables()
    train, val = (rows[data.present["genes"][rows]] for rows in (data.train, data.val))
    values = data.arrays["genes"].values.astype(np.float64)
    model = make_pipeline(
        SimpleImputer(), StandardScaler(), PCA(60), LogisticRegression(C=0.1, class_weight="balanced", max_iter=5000)
    ).fit(values[train], data.labels[train])
    assert softmax(predict_control("linear_genes", data, val)) == pytest.approx(
        model.predict_proba(values[val]), abs=1e-4
    )


def test_joining_beats_each_where_the_signal_is_spread() -> None:
    data = tables(n=1200)
    scores = {
        name: score("auroc", softmax(predict_control(name, data, data.val)), data.labels[data.val])
        for name in control_names(data)
    }
    assert scores["linear_joined"] > max(scores["linear_genes"], scores["linear_clinic"]) + 0.03
    assert min(scores["linear_genes"], scores["linear_clinic"]) > scores["majority_class"] + 0.1


@pytest.mark.parametrize("name", ["linear_genes", "linear_clinic", "linear_joined"])
def test_a_linear_control_learns_of_the_training_part_and_of_who_is_present(name: str) -> None:
    data, rows = tables(), tables().val[:20]
    others = np.setdiff1d(np.arange(300), [*data.train, *rows])
    labels, arrays = data.labels.copy(), {}
    labels[data.val] = 0
    for modality, table in data.arrays.items():
        values = table.values.copy()
        values[others] = 1.0
        values[~data.present[modality]] = 1.0  # what an absent row holds has no meaning
        arrays[modality] = Table(values, table.columns)
    changed = dataclasses.replace(data, labels=labels, arrays=arrays)
    assert np.array_equal(predict_control(name, data, rows), predict_control(name, changed, rows))


def test_a_linear_control_that_hears_one_class_says_the_shares() -> None:
    data = tables()
    present = {**data.present, "genes": data.labels == 1}
    lonely = dataclasses.replace(data, present=present)
    shares = np.array(data.counts) / len(data.train)
    result = softmax(predict_control("linear_genes", lonely, data.val))
    assert result == pytest.approx(np.tile(shares, (len(data.val), 1)), abs=1e-6)


def test_linear_controls_are_written_as_records(tmp_path: Path) -> None:
    data = tables()
    records = fit_controls(data, tmp_path)
    assert [record.folder.name for record in records] == control_names(data)
    for record in records:
        assert np.array_equal(record.predictions().logits, predict_control(record.folder.name, data, data.val))


def test_predictions_of_the_test_set_are_made_once(small_data: TrainingData, tmp_path: Path) -> None:
    rows = np.flatnonzero(small_data.labels == UNKNOWN)
    first = kept_predictions("color_histogram", small_data, rows, tmp_path)
    (path,) = tmp_path.glob("test-*.npz")
    assert np.array_equal(first, predict_control("color_histogram", small_data, rows))
    assert set(Predictions.load(path).labels) == {UNKNOWN}, "no label of the sealed test set is kept"

    kept = Predictions.load(path)
    dataclasses.replace(kept, logits=kept.logits + 1).save(path)
    assert np.array_equal(kept_predictions("color_histogram", small_data, rows, tmp_path), first + 1), "it is read"
    others = kept_predictions("color_histogram", small_data, rows[1:], tmp_path)
    assert np.array_equal(others, first[1:]), "of other cases it is not"
    path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(kept_predictions("color_histogram", small_data, rows, tmp_path), first)


@pytest.mark.parametrize("folds", [0, 3])
def test_a_fit_predicts_the_test_set_too(tmp_path: Path, folds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made_up()
    rows = np.flatnonzero(data.labels == UNKNOWN)
    if folds:
        dealt = np.where(data.labels == UNKNOWN, 0, 1 + np.arange(len(data.labels)) // 10 % folds)
        data = dataclasses.replace(data, folds=dealt[None])
    together, alone = fit_controls(data, tmp_path / "both", test=rows), fit_controls(data, tmp_path / "alone")
    for name, both, one in zip(control_names(data), together, alone, strict=True):
        assert np.array_equal(both.predictions().logits, one.predictions().logits)
        expected = predict_control(name, data, rows)
        with monkeypatch.context() as patch:
            patch.setattr(controls, "predict_control", None)  # nothing is fitted again
            assert np.array_equal(kept_predictions(name, data, rows, both.folder), expected)
