"""One training: what it leaves behind, that it repeats bit by bit, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from histotune.core.config import TrialConfig
from histotune.data.batches import in_order, shuffled, steps
from histotune.data.modalities.image import ImagePreprocessing, ImageSource
from histotune.data.splits import TrainingData
from histotune.errors import ConfigError, DataError, HistotuneError, StudyError, TrialFailed
from histotune.metrics.scores import COSTS, evaluate, softmax
from histotune.models.losses.cross_entropy import CrossEntropy
from histotune.models.network import build_model
from histotune.models.predictor import load_model, load_preparations, save_preparations
from histotune.storage.records import Predictions, TrialRecord, read_record
from histotune.training.checkpoint import Epoch, TrainingProgress
from histotune.training.loop import StopTrial, epochs, run_trial, train_epoch
from histotune.training.optimizer import WeightAverage, build_optimizer, learning_rate
from histotune.training.session import named_failures, start
from histotune.training.trial_folder import conclude, fail

SIDE = 16
FILES = {
    "config.yaml",
    "curve.jsonl",
    "environment.json",
    "metrics.json",
    "model.json",
    "model.safetensors",
    "predictions.npz",
    "preprocessing.json",
}
THOROUGH = {  # everything at once that could break repeatability
    "ema_decay": 0.9,
    "augment": {"color_jitter": 0.1, "stain_jitter": 0.1, "mixup": 0.3},
    "model": {
        "branches": {"image": {"backbone": {"name": "alexnet", "batch_norm": True, "dropout": 0.3}}},
        "head": {"feature_dim": 8, "feature_norm": "batch", "dropout": 0.2},
    },
    "loss": {"name": "focal", "beta": 0.9},
}
TWO_BRANCHES = {  # everything that fusions, redundancy and adaptive losses keep from step to step
    "model": {
        "branches": {"cnn": {"backbone": "alexnet"}, "transformer": {"backbone": "cct_2"}},
        "fusion": {"name": "cmaf", "dim": 8, "heads": 2, "temperature_mode": "annealed"},
        "redundancy": {"name": "club", "hidden": 8},
        "head": {"feature_dim": 8, "bottleneck": 0.001},
    },
    "loss": "acbfl",
    "ema_decay": 0.9,
    "augment": {"mixup": 0.3},
}
ADAGRAD = {"optimizer": {"name": "adagrad", "learning_rate": 0.01}}
SGD = {"optimizer": {"name": "sgd", "learning_rate": 0.01}, "precision": "bfloat16"}
PATIENT_OUT = {"patience": 2, "optimizer": {"learning_rate": 1e-12}}


def config(**changes: Any) -> TrialConfig:
    return TrialConfig.from_dict({"image_size": SIDE, "epochs": 4, "batch_size": 16, **changes})


@pytest.fixture
def data() -> TrainingData:
    """60 training, 30 validation and 10 sealed images of noise, whose class shows in the red channel."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=100)
    images = rng.integers(0, 200, size=(100, SIDE, SIDE, 3))
    images[..., 0] += (40 * labels)[:, None, None]
    known = labels.copy()
    known[90:] = -1
    return TrainingData(
        arrays={"image": images.astype(np.uint8)},
        present={"image": np.ones(100, bool)},
        labels=known.astype(np.int64),
        ids=np.array([f"case{n:03d}" for n in range(100)]),
        patients=np.array([f"patient{n // 5}" for n in range(100)]),
        train=np.arange(60),
        val=np.arange(60, 90),
        classes=("benign", "tumour"),
        digest="0123456789abcdef",
    )


def scores_of(record: TrialRecord) -> dict[str, float]:
    """Return the metrics without what depends on the machine."""
    return {name: value for name, value in record.metrics.items() if name not in COSTS}


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def result_of(folder: Path) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """Return weights, logits and curve (without seconds), to be compared bit by bit."""
    record = read_record(folder)
    assert record is not None
    curve = [{k: v for k, v in row.items() if k != "seconds"} for row in record.curve()]
    return (folder / "model.safetensors").read_bytes(), record.predictions().logits.tobytes(), curve


# --- what it leaves behind


def test_a_trial_folder_is_complete_and_consistent(data: TrainingData, tmp_path: Path) -> None:
    observed: list[tuple[int, Mapping[str, float]]] = []
    record = run_trial(config(), data, tmp_path, lambda epoch, metrics: observed.append((epoch, metrics)))
    assert files_of(tmp_path) == FILES
    assert (record.state, record.kind, record.epochs, record.digest) == ("complete", "", 4, config().digest())
    assert [epoch for epoch, _ in observed] == [row["epoch"] for row in record.curve()] == [1, 2, 3, 4]
    predictions = record.predictions()
    assert predictions.ids.tolist() == data.ids[data.val].tolist()
    assert predictions.patients.tolist() == data.patients[data.val].tolist()
    assert predictions.labels.tolist() == data.labels[data.val].tolist()
    assert predictions.logits.dtype == np.float32
    assert scores_of(record) == pytest.approx(evaluate(softmax(predictions.logits), predictions.labels))
    assert record.metrics["parameters"] == record.parameters > 0
    assert 0 < record.metrics["latency_ms"] < 10_000
    assert TrialConfig.from_dict(record.config()) == config()


def test_best_epoch_is_the_one_that_is_kept(data: TrainingData, tmp_path: Path) -> None:
    record = run_trial(config(epochs=8), data, tmp_path, metric="nll")
    values = [row["nll"] for row in record.curve()]
    assert record.best_epoch == 1 + int(np.argmin(values)), "nll is better when smaller"
    assert record.metrics["nll"] == pytest.approx(min(values))


def test_environment_names_data_seed_and_precision(data: TrainingData, tmp_path: Path) -> None:
    run_trial(config(epochs=1, seed=3), data, tmp_path)
    text = json.loads((tmp_path / "environment.json").read_text())
    assert (text["data"], text["seed"], text["device"]) == (data.digest, 3, "cpu")
    assert text["precision"] in ("float32", "bfloat16")


def test_training_learns(data: TrainingData, tmp_path: Path) -> None:
    record = run_trial(config(epochs=12, optimizer={"learning_rate": 3e-3}), data, tmp_path)
    assert record.metrics["auroc"] > 0.95


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("changes", [{}, THOROUGH, TWO_BRANCHES], ids=["plain", "thorough", "two branches"])
def test_the_loaded_model_repeats_the_validation_predictions(
    data: TrainingData, tmp_path: Path, tta: bool, changes: dict[str, Any]
) -> None:
    record = run_trial(config(epochs=2, tta=tta, **changes), data, tmp_path)
    predictor = load_model(tmp_path)
    logits = predictor.logits(data.arrays["image"][data.val])
    assert logits == pytest.approx(record.predictions().logits, abs=1e-5)
    assert predictor.classes == data.classes
    assert predictor.logits(np.zeros((0, SIDE, SIDE, 3), np.uint8)).shape == (0, 2)


def test_a_loaded_model_does_not_warn_of_how_it_would_train(data: TrainingData, tmp_path: Path) -> None:
    narrow = {"name": "cfal", "sigma": 1.0}
    with pytest.warns(UserWarning, match="affinities vanish"):
        run_trial(config(epochs=1, loss=narrow), data, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(tmp_path)


def test_averaged_predictions_do_not_change_when_the_image_is_turned(data: TrainingData, tmp_path: Path) -> None:
    run_trial(config(epochs=1, tta=True), data, tmp_path)
    predictor, images = load_model(tmp_path), data.arrays["image"][:4]
    for turned in (np.rot90(images, 1, (1, 2)), images[:, ::-1], images.transpose(0, 2, 1, 3)):
        assert predictor.logits(turned) == pytest.approx(predictor.logits(images), abs=1e-4)


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, SIDE, SIDE, 3), np.float32)])
def test_a_predictor_refuses_images_it_was_not_made_for(data: TrainingData, tmp_path: Path, images: np.ndarray) -> None:
    run_trial(config(epochs=1), data, tmp_path)
    with pytest.raises(DataError, match=r"reads uint8 images \[n, 16, 16, 3\]"):
        load_model(tmp_path).logits(images)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistotuneError, match=r"config.yaml is missing"):
        load_model(tmp_path)


# --- the same bits


@pytest.mark.parametrize("changes", [{}, THOROUGH, SGD], ids=["plain", "thorough", "sgd"])
def test_the_same_seed_gives_the_same_bits(data: TrainingData, tmp_path: Path, changes: dict[str, Any]) -> None:
    for name in ("one", "two"):
        run_trial(config(epochs=2, **changes), data, tmp_path / name)
        torch.rand(3)  # whatever else draws numbers in between
    assert result_of(tmp_path / "one") == result_of(tmp_path / "two")


def test_another_seed_gives_another_result(data: TrainingData, tmp_path: Path) -> None:
    for seed in (0, 1):
        run_trial(config(epochs=1, seed=seed), data, tmp_path / str(seed))
    assert result_of(tmp_path / "0")[0] != result_of(tmp_path / "1")[0]


@pytest.mark.parametrize("interruptions", [[1], [3], [1, 2, 3]], ids=str)
@pytest.mark.parametrize(
    "changes",
    [{}, THOROUGH, TWO_BRANCHES, SGD, ADAGRAD],
    ids=["plain", "thorough", "two branches", "sgd", "adagrad"],
)
def test_an_interrupted_training_ends_with_the_same_bits(
    data: TrainingData, tmp_path: Path, changes: dict[str, Any], interruptions: list[int]
) -> None:
    run_trial(config(**changes), data, tmp_path / "whole")
    for stop in interruptions:
        training = epochs(config(**changes), data, tmp_path / "pieces")
        while next(training).number < stop:
            pass
        training.close()
        assert "metrics.json" not in files_of(tmp_path / "pieces")
    numbers = [epoch.number for epoch in epochs(config(**changes), data, tmp_path / "pieces")]
    assert numbers == list(range(interruptions[-1] + 1, 5))
    assert result_of(tmp_path / "pieces") == result_of(tmp_path / "whole")


def test_what_an_adaptive_loss_has_learned_of_the_classes_is_kept(data: TrainingData, tmp_path: Path) -> None:
    run_trial(config(epochs=2, loss="acbfl"), data, tmp_path)
    known = load_model(tmp_path).model.objective.get_buffer("known")
    assert ((known - 0.5).abs() > 1e-4).all()


def test_a_curve_that_is_ahead_of_the_checkpoint_is_cut_and_repeated(data: TrainingData, tmp_path: Path) -> None:
    run_trial(config(), data, tmp_path / "whole")
    training = epochs(config(), data, tmp_path / "killed")
    next(training)
    training.close()
    shutil.copytree(tmp_path / "killed", tmp_path / "early")
    training = epochs(config(), data, tmp_path / "killed")
    assert [next(training).number for _ in range(2)] == [2, 3]
    shutil.copy(tmp_path / "early" / "checkpoint.pt", tmp_path / "killed" / "checkpoint.pt")
    shutil.copytree(tmp_path / "killed", tmp_path / "restarted")  # as kill -9 leaves it: curve 3, checkpoint 1
    with (tmp_path / "restarted" / "curve.jsonl").open("a") as file:
        file.write('{"epoch": 4, "auro')
    assert [epoch.number for epoch in epochs(config(), data, tmp_path / "restarted")] == [2, 3, 4]
    assert result_of(tmp_path / "restarted") == result_of(tmp_path / "whole")


def test_an_ended_trial_yields_its_last_epoch_and_trains_no_more(data: TrainingData, tmp_path: Path) -> None:
    last = list(epochs(config(), data, tmp_path))[-1]
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = list(epochs(config(), data, tmp_path))
    assert again == [Epoch(4, again[0].metrics, again[0].seconds, finished=True)]
    assert again[0].metrics == pytest.approx(dict(last.metrics))
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_only_the_last_epoch_is_finished(data: TrainingData, tmp_path: Path) -> None:
    assert [epoch.finished for epoch in epochs(config(epochs=3), data, tmp_path)] == [False, False, True]


def test_sealed_cases_leave_no_trace(data: TrainingData, tmp_path: Path) -> None:
    run_trial(config(epochs=2), data, tmp_path / "one")
    data.arrays["image"][90:] = 255 - data.arrays["image"][90:]
    run_trial(config(epochs=2), data, tmp_path / "two")
    assert result_of(tmp_path / "one") == result_of(tmp_path / "two")


# --- how it ends


@given(st.lists(st.tuples(st.sampled_from([0.5, 0.9, 1.0]), st.floats(0.01, 2)), min_size=1, max_size=12))
def test_the_best_epoch_has_the_best_metric_and_of_equals_the_lowest_nll(curve: list[tuple[float, float]]) -> None:
    progress = TrainingProgress("", 0.0)
    for value, nll in curve:
        progress.add({"nll": nll}, value)
    best = max(range(len(curve)), key=lambda at: (curve[at][0], -curve[at][1], -at))
    assert (progress.best_epoch, progress.best_value) == (1 + best, curve[best][0])


def test_patience_ends_a_training_that_does_not_improve(data: TrainingData, tmp_path: Path) -> None:
    record = run_trial(config(epochs=30, **PATIENT_OUT), data, tmp_path)
    assert (record.state, record.epochs, record.best_epoch) == ("complete", 3, 1)


def test_a_stopped_trial_keeps_its_best_epoch(data: TrainingData, tmp_path: Path) -> None:
    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        if epoch == 2:
            raise StopTrial

    record = run_trial(config(), data, tmp_path, report)
    assert (record.state, record.epochs) == ("stopped", 2)
    assert files_of(tmp_path) == FILES
    predictions = record.predictions()
    assert scores_of(record) == pytest.approx(evaluate(softmax(predictions.logits), predictions.labels))
    assert conclude(tmp_path) == record, "concluding twice changes nothing"
    assert load_model(tmp_path).logits(data.arrays["image"][data.val]) == pytest.approx(
        record.predictions().logits, abs=1e-5
    )


def test_a_trial_stopped_before_its_first_epoch_is_on_record(data: TrainingData, tmp_path: Path) -> None:
    record = conclude(tmp_path / "never")
    assert (record.state, record.epochs, record.metrics) == ("stopped", 0, {})


def test_a_loss_that_is_not_finite_fails_at_once(data: TrainingData, tmp_path: Path) -> None:
    wild = {"learning_rate": 1e30, "clip_norm": 0.0, "warmup_fraction": 0.0}
    record = run_trial(config(optimizer=wild), data, tmp_path)
    assert (record.state, record.kind, record.epochs) == ("failed", "nan_loss", 0)
    assert "lower optimizer.learning_rate" in record.reason
    assert "checkpoint.pt" not in files_of(tmp_path)
    assert record.digest == config(optimizer=wild).digest()


def test_a_failed_trial_starts_anew(data: TrainingData, tmp_path: Path) -> None:
    fail(tmp_path, TrialFailed("out_of_memory", "too large"))
    assert run_trial(config(epochs=1), data, tmp_path).state == "complete"


def test_running_out_of_memory_has_a_name() -> None:
    with pytest.raises(TrialFailed, match=r"out_of_memory: .*lower batch_size"), named_failures():
        torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(TrialFailed, match="out_of_memory"), named_failures():
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_keep_their_type() -> None:
    with pytest.raises(RuntimeError, match="shape"), named_failures():
        torch.zeros(2) @ torch.zeros(3, 3).reshape(2, 2)
    with pytest.raises(ConfigError, match="mine"), named_failures():
        raise ConfigError("mine")


@pytest.mark.parametrize("writes", range(9))
def test_a_full_disk_leaves_nothing_half_written(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    left = iter(range(writes))
    real = os.fsync

    def fsync(handle: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(TrialFailed, match=r"disk_full: cannot write .* the disk is full"):
            list(epochs(config(epochs=2), data, tmp_path))
    assert not [name for name in files_of(tmp_path) if name.startswith(".")]
    assert "metrics.json" not in files_of(tmp_path)
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text())
    assert run_trial(config(epochs=2), data, tmp_path).state == "complete", "it goes on when there is space again"


def broken(data: TrainingData, how: str) -> TrainingData:
    labels = data.labels.copy()
    if how == "one class only":
        labels[:90] = 0
    if how == "sealed":
        labels[5] = -1
    val = data.val[:0] if how == "no validation" else data.val
    return TrainingData(
        data.arrays, data.present, labels, data.ids, data.patients, data.train, val, data.classes, digest=data.digest
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [("one class only", "'tumour' has no case"), ("sealed", "sealed or unknown"), ("no validation", "part is empty")],
)
def test_bad_data_is_a_failure_of_that_name(data: TrainingData, tmp_path: Path, how: str, message: str) -> None:
    record = run_trial(config(), broken(data, how), tmp_path)
    assert (record.state, record.kind) == ("failed", "bad_data")
    assert message in record.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 32}, "prepared at 16 px"),
        ({"loss": "focl"}, "Did you mean 'focal'"),
        ({"model": {"branches": {"image": {"backbone": "alexnett"}}}}, "Did you mean 'alexnet"),
        (
            {"model": {"branches": {"image": {"modality": "genes"}}}},
            r"reads modality 'genes', but the cohort has \['image'\]",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense_is_an_error(
    data: TrainingData, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_trial(config(**changes), data, tmp_path)


def test_an_unknown_metric_is_an_error(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="auroc"):
        run_trial(config(), data, tmp_path, metric="aurok")


def test_mixup_needs_soft_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrossEntropy, "soft_labels", False)
    with pytest.raises(ConfigError, match="soft labels"):
        build_model(config(augment={"mixup": 0.2}), (5, 5))


def test_another_configurations_folder_is_refused(data: TrainingData, tmp_path: Path) -> None:
    training = epochs(config(), data, tmp_path)
    next(training)
    training.close()
    with pytest.raises(StudyError, match="choose another folder"):
        next(epochs(config(seed=1), data, tmp_path))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 0, "and left as it was"
    run_trial(config(), data, tmp_path)
    with pytest.raises(StudyError, match="choose another folder"):
        next(epochs(config(seed=1), data, tmp_path))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_checkpoint_that_runs_code_is_refused_and_does_not_run(data: TrainingData, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    folder.mkdir()
    torch.save({"digest": Trap(tmp_path / "sprung")}, folder / "checkpoint.pt")
    with pytest.raises(StudyError, match="no checkpoint that this version can read"):
        next(epochs(config(), data, folder))
    assert not (tmp_path / "sprung").exists()


# --- parts


@pytest.mark.parametrize("cases", [1, 2, 3, 16, 17, 33, 100])
@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_every_case_is_seen_once_in_even_batches(cases: int, size: int) -> None:
    batches = shuffled(np.arange(cases), size, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(cases))
    lengths = [len(batch) for batch in batches]
    assert len(lengths) == steps(cases, size)
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= max(size, 3)
    assert min(lengths) >= 2 or cases == 1


def test_batches_in_order_are_the_rows() -> None:
    rows = np.array([5, 3, 9, 1, 7])
    assert [batch.tolist() for batch in in_order(rows, 2)] == [[5, 3], [9, 1], [7]]


def test_preprocessing_is_fitted_on_the_training_part_alone(data: TrainingData) -> None:
    images = data.arrays["image"]
    fitted = ImagePreprocessing.fit(images, data.train)
    pixels = images[data.train].reshape(-1, 3) / 255
    assert fitted.mean == pytest.approx(pixels.mean(axis=0))
    assert fitted.std == pytest.approx(pixels.std(axis=0))
    for unit in (torch.from_numpy(images[data.train]), torch.from_numpy(images[data.train]) / 255):
        ready = fitted.standardise(unit)
        assert ready.shape == (60, 3, SIDE, SIDE)
        assert ready.is_contiguous(memory_format=torch.channels_last)
        assert ready.mean(dim=(0, 2, 3)).numpy() == pytest.approx(np.zeros(3), abs=1e-4)
        assert ready.std(dim=(0, 2, 3)).numpy() == pytest.approx(np.ones(3), abs=1e-3)


def test_a_flat_channel_is_no_error() -> None:
    images = np.full((4, 8, 8, 3), 7, np.uint8)
    ready = ImagePreprocessing.fit(images, np.arange(4)).standardise(torch.from_numpy(images))
    assert ready.abs().max() < 1e-5


def test_preprocessing_is_saved_and_loaded(data: TrainingData, tmp_path: Path) -> None:
    fitted = ImagePreprocessing.fit(data.arrays["image"], data.train)
    save_preparations({"image": fitted}, tmp_path / "preprocessing.json")
    assert load_preparations(tmp_path / "preprocessing.json") == {"image": fitted}


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 9, 3), (4, 8, 8, 4)])
def test_arrays_that_are_no_square_colour_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="must be uint8"):
        ImageSource(np.zeros(shape, np.uint8), torch.device("cpu"))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_learning_rate_rises_to_its_peak_and_falls_to_nothing(warmup: float) -> None:
    settings = config(optimizer={"learning_rate": 2.0, "warmup_fraction": warmup}).optimizer
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    peak = int(np.argmax(rates))
    assert max(rates) == pytest.approx(2.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if warmup:
        assert rates[0] < 0.3
    if warmup < 1:
        assert rates[-1] < 0.01


def test_a_constant_schedule_is_constant_after_its_warmup() -> None:
    settings = config(optimizer={"schedule": "constant", "warmup_fraction": 0.2}).optimizer
    assert {learning_rate(settings, step, 50) for step in range(10, 50)} == {settings.learning_rate}


def test_weight_decay_spares_vectors() -> None:
    model = build_model(config(**THOROUGH), (5, 5))
    matrices, vectors = build_optimizer(model, config().optimizer).param_groups
    assert all(p.ndim > 1 for p in matrices["params"])
    assert all(p.ndim == 1 for p in vectors["params"])
    assert vectors["weight_decay"] == 0
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_the_average_of_constant_weights_is_constant_and_of_moving_ones_lags() -> None:
    model = build_model(config(), (5, 5))
    average = WeightAverage(model, 0.9)
    before = {name: value.clone() for name, value in average.model.state_dict().items()}
    average.update(model, 50)
    assert all(torch.allclose(value, before[name]) for name, value in average.model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update(model, 10_000)
    name, value = next(iter(average.model.named_parameters()))
    assert (value - before[name]).mean().item() == pytest.approx(0.1, abs=1e-5)


def test_an_epoch_reports_the_mean_loss_of_its_cases(data: TrainingData) -> None:
    settings = config(
        optimizer={"learning_rate": 1e-30, "weight_decay": 0.0},
        augment={"flip": False, "turn": False},
        precision="float32",
    )
    session = start(settings, data, torch.device("cpu"))
    with torch.no_grad():
        features = session.model(*session.inputs(data.train))
        expected = session.model.objective.loss(features, session.labels[:60]).item()
    assert train_epoch(session, 1) == pytest.approx(expected, rel=1e-5)


BLOCKED = ("ray", "optuna", "mlflow", "sklearn", "scipy", "plotly", "typer", "rich")
ALONE = """
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in {blocked!r} else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_others
import numpy as np
from pathlib import Path
from histotune.core.config import TrialConfig
from histotune.data.splits import TrainingData
from histotune.training.loop import run_trial
rng = np.random.default_rng(0)
images = rng.integers(0, 256, size=(24, 32, 32, 3), dtype=np.uint8)
labels = np.arange(24) % 2
names = np.array([str(n) for n in range(24)])
data = TrainingData({{"image": images}}, {{"image": np.ones(24, bool)}}, labels, names, names, np.arange(16),
                    np.arange(16, 24), ("a", "b"))
model = {{"branches": {{"image": {{"backbone": {backbone!r}}}}}}}
config = TrialConfig.from_dict({{"epochs": 1, "batch_size": 8, "model": model}})
print(run_trial(config, data, Path({folder!r})).state)
"""


@pytest.mark.parametrize("backbone", ["alexnet", "timm/mobilenetv3_small_050"])
def test_training_needs_no_engine_of_search_or_tracking(tmp_path: Path, backbone: str) -> None:
    code = ALONE.format(blocked=BLOCKED, backbone=backbone, folder=str(tmp_path))
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "complete", answer.stderr


def test_predictions_are_not_unpickled(data: TrainingData, tmp_path: Path) -> None:
    run_trial(config(epochs=1), data, tmp_path)
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as saved:
        assert set(saved) == {"ids", "patients", "labels", "logits", "present"}
    assert len(Predictions.load(tmp_path / "predictions.npz").ids) == 30
