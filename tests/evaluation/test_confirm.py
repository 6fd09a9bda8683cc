"""Confirming: the number it gives is of patients whom no network saw, of seeds that no search chose, and resumable.

The contract: the sealed part is not needed, nothing that chooses an epoch sees the fold that is scored, the search's
own score is measured as the search did, and who is tied follows from paired differences corrected after Holm.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.core.config import TrialConfig
from histotune.core.registry import PLUGINS, load_plugins
from histotune.core.runtime import Places
from histotune.data.cohort import UNKNOWN, Cohort
from histotune.errors import ConfigError, DataError, StudyError
from histotune.evaluation._contenders import contenders
from histotune.evaluation._outer_folds import Outer
from histotune.evaluation.confirm import DevelopmentCases, confirm
from histotune.evaluation.confirmation import ConfirmationRow, cheapest, judge, sentence
from histotune.metrics.bootstrap import bootstrap_of_seeds, over_seeds, paired_bootstrap_of_seeds
from histotune.metrics.intervals import ConfidenceInterval, Seeded
from histotune.space import read_space
from histotune.storage import layout
from histotune.storage.records import Parent, Predictions, networks, read_record, write_parent
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.studies.create import StudyRequest, begin
from histotune.training.loop import run_trial
from histotune.tuning.events import Resources
from histotune.tuning.ray_cluster import _mark, _marked

SPACE: dict[str, Any] = {
    "dataset": "synthetic",
    "options": {"cases": 120, "patients": 20, "side": 32},
    "metric": "auroc",
    "epochs": 2,
    "batch_size": 32,
    "model": {"branches": {"image": {"backbone": {"name": "alexnet", "width": 4}}}},
    "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True, "default": 3e-3}},
}
ASKED: dict[str, Any] = {"top": 1, "seeds": 2, "outer": 2, "replicates": 50}
DEADLY = """
import os, pathlib, signal
from histotune.models.losses import (LOSSES, LinearObjective)

class Deadly(LinearObjective):
    def loss(self, features, labels):
        with pathlib.Path({mark!r}).open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

@LOSSES.register("deadly")
def deadly(given):
    'Kills whoever trains with it.'
    return Deadly(given)
"""
UNSURE = ConfidenceInterval(float("nan"), float("nan"), float("nan"))
Started = tuple[StudyFolder, Cohort, Places]


def started(folder: Path, rates: list[float], **changes: Any) -> Started:
    """Begin a study and train a trial for every learning rate."""
    places = Places(folder / "runs", folder / "cache")
    store, cohorts = begin(StudyRequest(read_space(SPACE | changes, "tried")), "tried", places)
    cohort = next(iter(cohorts.values()))
    data, default = store.training_data(cohort), read_space(store.settings.space, "tried").default()
    for number, rate in enumerate(rates):
        config = TrialConfig.from_dict(default | {"optimizer": default["optimizer"] | {"learning_rate": rate}})
        record = run_trial(config, data, store.trial_folder(number), metric="auroc", probed=False)
        assert record.state == COMPLETE
    return store, cohort, places


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Started:
    """A study without folds with its default, trial 0, and another one; read-only."""
    return started(tmp_path_factory.mktemp("tried"), [3e-3, 1e-2])


@pytest.fixture(scope="module")
def confirmed(tried: Started) -> tuple[Started, dict[str, Any]]:
    """The same, confirmed with two seeds and two outer folds; read-only."""
    store, _, places = tried
    confirm(store, places, top=1, seeds=2, outer=2, replicates=50)
    return tried, json.loads((store.folder / "confirm" / "confirm.json").read_text())


@pytest.fixture
def study(tried: Started, tmp_path: Path) -> Started:
    """The study before it was confirmed, of its own."""
    store, cohort, places = tried
    shutil.copytree(store.folder, tmp_path / "runs" / "tried", ignore=shutil.ignore_patterns("confirm"))
    return StudyFolder(tmp_path / "runs" / "tried"), cohort, Places(tmp_path / "runs", places.cache)


def seed_folders(store: StudyFolder) -> list[Path]:
    return sorted((store.folder / "confirm" / "outer-2").glob("*/seed-*"))


def bits(store: StudyFolder) -> dict[str, bytes]:
    """Return every saved prediction of a confirmation."""
    result: dict[str, bytes] = {}
    for folder in seed_folders(store):
        name = f"{folder.parent.name}/{folder.name}"
        result |= {
            f"{name}/{place.name}": Predictions.load(place / layout.OUTER_PREDICTIONS).logits.tobytes()
            for place in networks(folder)
        }
        result[name] = Predictions.load(folder / "predictions.npz").logits.tobytes()
    return result


def dealt(outer: Outer, seed: int) -> np.ndarray:
    """Return the outer fold of every case of the development part."""
    folds = outer.dealt(seed).folds
    assert folds is not None
    return folds[0][folds[0] > 0]


# --- what is trained and scored


def test_every_patient_of_the_development_part_is_scored_once_per_seed_by_strangers(
    confirmed: tuple[Started, dict[str, Any]],
) -> None:
    (store, cohort, _), text = confirmed
    table, outer = store.split, Outer(store, cohort, 2)
    development = table[table["part"] != "test"].set_index("id")
    folders = seed_folders(store)
    assert len(folders) == 2 * len(text["contenders"])
    for folder in folders:
        saved = Predictions.load(folder / "predictions.npz")
        assert sorted(saved.ids) == sorted(development.index)
        own = development.loc[saved.ids, "patient"].to_numpy(str)
        assert saved.patients.tolist() == own.tolist()
        cuts = outer.dealt(int(folder.name.removeprefix("seed-"))).cuts()
        for k, (cut, place) in enumerate(zip(cuts, networks(folder), strict=True), start=1):
            carved = outer.carved(cut, k, int(folder.name.removeprefix("seed-")))
            parts = [set(cut.patients[rows]) for rows in (carved.train, carved.val, cut.val)]
            assert sum(map(len, parts)) == len(set.union(*parts))
            assert set.union(*parts) == set(own)
            assert Predictions.load(place / layout.OUTER_PREDICTIONS).ids.tolist() == cut.ids[cut.val].tolist()
            assert not (place / "model.safetensors").exists(), "what they were trained for is done"
    assert (dealt(outer, 10_001) != dealt(outer, 10_002)).any(), "a seed is another deal"


def test_nothing_of_the_scored_fold_chooses_the_epoch(
    confirmed: tuple[Started, dict[str, Any]], tmp_path: Path
) -> None:
    (store, cohort, _), _ = confirmed
    outer, folder = Outer(store, cohort, 2), seed_folders(store)[0]
    config = TrialConfig.from_dict(read_record(folder).config())  # type: ignore[union-attr]
    cut = outer.dealt(config.seed).cuts()[0]
    hidden = cut.labels.copy()
    hidden[cut.val] = UNKNOWN
    blind = replace(outer.carved(cut, 1, config.seed), labels=hidden)
    record = run_trial(config, blind, tmp_path / "blind", metric="auroc", probed=False)
    kept = read_record(networks(folder)[0])
    assert kept is not None
    assert record.best_epoch == kept.best_epoch
    assert record.predictions().logits.tobytes() == kept.predictions().logits.tobytes()


def test_the_sealed_labels_are_not_needed(study: Started, tmp_path: Path) -> None:
    store, _, places = study
    shutil.copytree(places.cache, tmp_path / "cache")
    sealed = [store.folder / "sealed" / "labels.csv", *(tmp_path / "cache").rglob("labels.csv")]
    assert len(sealed) == 2
    for path in sealed:
        path.unlink()
    result = confirm(store, Places(places.runs, tmp_path / "cache"), top=1, seeds=2, outer=2, replicates=20)
    assert result.seeds == 2
    assert store.openings() == []


def add_trial(store: StudyFolder, changes: dict[str, dict[str, Any]]) -> str:
    """Add the best of all trials to a study, as if it had trained with other parameters; returns its name."""
    trial, folder = store.trials()[1], store.trial_folder(2)
    config = TrialConfig.from_dict(trial.config() | {key: trial.config()[key] | new for key, new in changes.items()})
    shutil.copytree(trial.folder, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    record = json.loads((folder / "metrics.json").read_text())
    record |= {"digest": config.digest(), "metrics": record["metrics"] | {"auroc": 1.0}}
    (folder / "metrics.json").write_text(json.dumps(record))
    return "trial 2"


def agrees(store: StudyFolder, other: tuple[Started, dict[str, Any]]) -> None:
    """Check that a confirmation has the bits and the numbers of another one."""
    assert bits(store) == bits(other[0][0])
    text = json.loads((store.folder / "confirm" / "confirm.json").read_text())
    same = ("confirmed", "optimism_gap", "per_seed", "against_best", "tied")
    for one, again in zip(text["contenders"], other[1]["contenders"], strict=True):
        assert [one[key] for key in same] == [again[key] for key in same]


def test_what_was_interrupted_here_goes_on_in_workers_to_the_same_bits(
    confirmed: tuple[Started, dict[str, Any]], study: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, places = study
    module = importlib.import_module(
        "histotune.training.loop"
    )  # `histotune.train` is a function to those who use the package
    real, began = module.train_epoch, iter(range(1, 100))

    def interrupted(*given: Any) -> float:
        if next(began) == 7:
            raise KeyboardInterrupt
        return float(real(*given))

    monkeypatch.setattr(module, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        confirm(store, places, **ASKED)
    ended = sorted((store.folder / "confirm").rglob("folds/*/metrics.json"))
    assert len(ended) == 3, "six epochs are three trainings of two"
    times = [path.stat().st_mtime_ns for path in ended]
    message: list[str] = []
    confirm(store, places, **ASKED, resources=Resources(0.5, 0, 2), say=message.append)
    assert [path.stat().st_mtime_ns for path in ended] == times
    assert re.search(r"(4|8) trainings, 2 of them done, 2 at once", message[0])
    assert len(message) == len(seed_folders(store)), "one line ahead, and one for each but the first, which had ended"
    agrees(store, confirmed)
    again: list[str] = []
    confirm(store, places, **ASKED, resources=Resources(), say=again.append)
    assert len(again) == 1, "nothing is left to train"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_leaves_no_worker_and_goes_on(
    confirmed: tuple[Started, dict[str, Any]], study: Started, number: signal.Signals
) -> None:
    store, _, places = study
    asked = ["confirm", "tried", "--top", "1", "--seeds", "2", "--outer", "2", "--runs", str(places.runs)]
    command = [sys.executable, "-m", "histotune", *asked, "--cache", str(places.cache)]
    owner = store.folder / "confirm"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list(owner.rglob("folds/*/metrics.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, errors
        assert "run the same command again to continue" in errors
        assert not _marked(_mark(owner))
    assert not (owner / "confirm.json").exists()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not _marked(_mark(owner))
    assert bits(store) == bits(confirmed[0][0])


@pytest.mark.slow  # its short siblings: a job that is given up in test_pool, a configuration that fails below
def test_a_configuration_whose_workers_die_is_named_and_left_out(study: Started, tmp_path: Path) -> None:
    store, _, places = study
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "deadly.py").write_text(DEADLY.format(mark=str(tmp_path / "deaths")))
    load_plugins(tmp_path / "plugins")
    name = add_trial(store, {"loss": {"name": "deadly"}})
    try:
        result = confirm(store, places, **ASKED, resources=Resources(0.5, 0, 2))
    finally:
        PLUGINS.remove(tmp_path / "plugins")
    died, default = result.contenders
    assert died.name == name
    assert died.failed.startswith("killed: its worker died 3 times")
    assert 3 <= len((tmp_path / "deaths").read_text()) <= 6, "two seeds at once, at most"
    assert (default.name, result.best, default.failed) == ("default", "default", "")


@pytest.mark.slow
def test_after_a_kill_the_bits_are_the_same(confirmed: tuple[Started, dict[str, Any]], study: Started) -> None:
    store, _, places = study
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "confirm_process.py"), str(store.folder)]
    died = subprocess.run([*command, str(places.cache), "6"], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (store.folder / "confirm").is_dir()
    confirm(store, places, top=1, seeds=2, outer=2, replicates=50)
    agrees(store, confirmed)


# --- what is measured


def test_scores_are_those_of_the_search_and_of_plain_measurement(confirmed: tuple[Started, dict[str, Any]]) -> None:
    (store, cohort, _), text = confirmed
    outer = Outer(store, cohort, 2)
    for row in text["contenders"]:
        trial = store.trials()[row["number"]]
        assert row["search_score"] == trial.metrics["auroc"]
        records = [read_record(folder) for folder in seed_folders(store) if folder.parent.name == row["digest"]]
        assert row["per_seed"] == pytest.approx([record.metrics["auroc"] for record in records if record])
        assert row["confirmed"]["value"] == pytest.approx(np.mean(row["per_seed"]))
        assert row["optimism_gap"]["value"] == pytest.approx(row["search_score"] - row["confirmed"]["value"])
        assert row["against_best"]["value"] <= 0
        assert row["parameters"] == trial.parameters
        places = [
            place for folder in seed_folders(store) if folder.parent.name == row["digest"] for place in networks(folder)
        ]
        assert row["latency_ms"] == min(read_record(place).metrics["latency_ms"] for place in places)  # type: ignore[union-attr]
        saved = [record.predictions() for record in records if record]
        strata = np.stack([dealt(outer, seed) for seed in (10_001, 10_002)])
        plain = bootstrap_of_seeds(
            "auroc",
            [_softmax(one.logits) for one in saved],
            saved[0].labels,
            saved[0].patients,
            strata=strata,
            replicates=50,
        )
        assert [row["confirmed"][key] for key in ("low", "high")] == pytest.approx([plain.low, plain.high])
    assert re.search("folds, (trial 1|the default configuration), the best of the search, reaches 0", text["sentence"])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("repeats", [1, 2])
def test_with_folds_the_last_epoch_counts_and_the_search_is_measured_by_its_own_folds(
    tmp_path: Path, repeats: int
) -> None:
    store, cohort, places = started(tmp_path, [3e-3], folds=2, repeats=repeats)
    result = confirm(store, places, top=1, seeds=2, replicates=20)
    assert (result.outer, [row.name for row in result.contenders]) == (2, ["default"])
    trial, row = store.trials()[0], result.contenders[0]
    outer = Outer(store, cohort, 2)
    assert DevelopmentCases(store, outer, 20)._search(trial).values.mean() == pytest.approx(trial.metrics["auroc"])
    assert row.optimism_gap.value == pytest.approx(trial.metrics["auroc"] - row.confirmed.value)
    assert outer.trained_on == 0.5
    assert not result.beats_default
    for folder in seed_folders(store):
        record = read_record(folder)
        assert record is not None
        assert record.best_epoch == 2


def test_a_search_over_noise_is_found_out(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = tiny_folder({f"p{at:02d}": {"benign": 4, "tumour": 4} for at in range(20)})
    space = read_space(SPACE | {"dataset": "image_folder", "options": {}, "image_size": 16}, "noise")
    places = Places(tmp_path / "runs", tmp_path / "cache")
    store, cohorts = begin(StudyRequest(space, data), "noise", places)
    train = store.training_data(cohorts[16])
    for number in range(10):
        config = TrialConfig.from_dict(space.default() | {"optimizer": {"learning_rate": 1e-3 * 1.3**number}})
        run_trial(config, train, store.trial_folder(number), metric="auroc", probed=False)
    result = confirm(store, places, top=1, seeds=3, outer=2, replicates=200)
    winner = result.contenders[0]
    assert winner.search_score > 0.58, "the best of ten looks good"
    assert winner.confirmed.low < 0.5 < winner.confirmed.high
    assert winner.optimism_gap.value > 0.05
    assert not result.beats_default
    assert (
        f"reaches {winner.confirmed} AUROC; its score in the search was {winner.search_score:.3f}, an optimism gap"
        in result.sentence
    )
    assert (
        "not significantly better than chance (0.500) and not significantly better than the default configuration"
        in result.sentence
    )
    assert set(result.tied) == {row.name for row in result.contenders}
    assert result.recommended == "", "nothing is worth recommending"


# --- who competes, who is tied, who is recommended


def test_each_configuration_competes_once(study: Started) -> None:
    store, cohort, _ = study
    data, base = store.training_data(cohort), store.trials()[1].config()
    copies = {2: base | {"seed": 7}, 3: base | {"optimizer": base["optimizer"] | {"learning_rate": 0.05}}}
    for number, config in copies.items():
        run_trial(TrialConfig.from_dict(config), data, store.trial_folder(number), metric="auroc", probed=False)
    write_parent(store.trial_folder(3), Parent(1, 1))
    names = {one.name for one in contenders(store, 10)}
    best = max((1, 2, 3), key=lambda number: store.trials()[number].metrics["auroc"])
    assert names == {"default", f"trial {best}"}, "another seed is the same, a descendant stands for its line"
    assert contenders(store, 10)[-1].config.seed == 0


def seeded(rng: np.random.Generator, quality: float, labels: np.ndarray, shared: np.ndarray) -> list[np.ndarray]:
    """Draw five trainings of a model: [n, 2] probabilities each."""
    scores = [(2 * labels - 1) * quality + shared + rng.normal(0, 0.4, len(labels)) for _ in range(5)]
    return [np.stack([1 - p, p], axis=1) for p in (1 / (1 + np.exp(-score)) for score in scores)]


@pytest.mark.parametrize("seed", range(4))
def test_the_tied_are_those_of_a_calculation_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, patients = rng.integers(2, size=240), np.repeat(np.arange(40), 6).astype(str)
    shared = rng.normal(0, 1, 240)
    qualities = {"trial 4": 0.6, "trial 1": 0.55, "trial 9": 0.45, "default": 0.2, "trial 2": 0.3}
    drawn = {name: seeded(rng, quality, labels, shared) for name, quality in qualities.items()}
    result = {name: over_seeds("auroc", one, labels, patients, replicates=400) for name, one in drawn.items()}
    judged = judge(result, "auroc")
    means = {name: float(one.values.mean()) for name, one in result.items()}
    assert judged.best == max(means, key=means.__getitem__)
    p = {
        name: paired_bootstrap_of_seeds("auroc", one, drawn[judged.best], labels, patients, replicates=400).p
        for name, one in drawn.items()
        if name != judged.best
    }
    out, worst = [], 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):  # Holm, step by step
        worst = max(worst, p[name] * (len(p) - rank))
        assert judged.against_best[name]["p_corrected"] == pytest.approx(min(1.0, worst))
        out += [name] if worst <= 0.05 else []
    assert "default" in out
    assert list(judged.tied) == [name for name in qualities if name not in out]
    assert judged.against_default["default"]["value"] == 0


def test_less_is_better_where_it_is() -> None:
    drawn = np.random.default_rng(0).normal(0, 0.01, (3, 200))
    result = {
        name: Seeded(np.full(3, value), value + drawn, np.zeros((3, 0)), 30)
        for name, value in {"trial 1": 0.5, "default": 0.4}.items()
    }
    judged = judge(result, "nll")
    assert (judged.best, list(judged.tied)) == ("default", ["default"])


def row(name: str, **changes: Any) -> ConfirmationRow:
    about = {
        "number": 1,
        "digest": "d",
        "search_score": 0.7,
        "confirmed": ConfidenceInterval(0.6, 0.5, 0.7),
        "optimism_gap": UNSURE,
    }
    return ConfirmationRow(**{"name": name, "latency_ms": 1.0, "parameters": 100, **about, **changes})


def test_the_cheapest_goes_by_latency_then_weights_then_score() -> None:
    slow, quick = row("trial 1", latency_ms=2.0, parameters=5), row("trial 2")
    assert cheapest([slow, quick], 1.0) == ("trial 2", "1.00 ms a case")
    small = row("trial 3", latency_ms=1.05, parameters=50)
    assert cheapest([slow, quick, small], 1.0) == ("trial 3", "1.05 ms a case and 50 weights")
    better = row("trial 4", confirmed=ConfidenceInterval(0.65, 0.5, 0.7))
    assert cheapest([slow, quick, better], 1.0)[0] == "trial 4"
    assert cheapest([slow, quick, better], -1.0)[0] == "trial 2"
    untimed = row("trial 5", latency_ms=float("nan"), parameters=1)
    few = row("trial 6", parameters=85)
    assert cheapest([few, better], 1.0) == (
        "trial 4",
        "1.00 ms a case and 100 weights, about the same as others with a lower score",
    )
    assert cheapest([slow, untimed], 1.0)[0] == "trial 1", "what was not timed is not called quick"
    assert cheapest([untimed], 1.0) == ("trial 5", "1 weights")


@pytest.mark.parametrize(
    ("low", "difference", "said"),
    [
        (
            0.55,
            {"value": 0.1, "low": 0.02, "high": 0.2, "p": 0.01},
            "significantly better than the default configuration by +0.100 [+0.020",
        ),
        (
            0.55,
            {"value": 0.1, "low": -0.1, "high": 0.3, "p": 0.4},
            "not significantly better than the default configuration (0.500)",
        ),
        (0.45, {"value": 0.1, "low": 0.02, "high": 0.2, "p": 0.01}, "not significantly better than chance (0.500)."),
        (
            0.55,
            {"value": -0.1, "low": -0.2, "high": -0.02, "p": 0.01},
            "was 0.700: significantly worse than the default configuration by -0.100 [-0.200, -0.020], p = 0.010.",
        ),
        (
            0.45,
            {"value": -0.1, "low": -0.2, "high": -0.02, "p": 0.01},
            "better than chance (0.500) and significantly worse than the default configuration by -0.100",
        ),
    ],
)
def test_the_sentence_says_what_the_numbers_say(low: float, difference: dict[str, float], said: str) -> None:
    judged = judge({"trial 1": Seeded(np.array([0.6, 0.6]), np.full((2, 9), 0.6), np.zeros((2, 0)), 9)}, "auroc")
    judged = replace(judged, against_default={"trial 1": difference})
    text, beats = sentence(row("trial 1", confirmed=ConfidenceInterval(0.6, low, 0.7)), judged, "auroc", 2)
    assert said in text
    assert beats == (difference["p"] < 0.05 and difference["value"] > 0)


# --- what cannot be


def test_what_makes_no_sense_is_refused_before_anything_is_trained(study: Started, tmp_path: Path) -> None:
    store, _, places = study
    for wrong, words in (
        ({"top": 0}, "top=0"),
        ({"seeds": 1}, "seeds=1: .*at least 2"),
        ({"outer": 1}, "outer=1: .*at least 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            confirm(store, places, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="into 16 parts needs at least 16"):
        confirm(store, places, outer=16)
    shutil.rmtree(store.folder / "trials")
    (store.folder / "trials.json").unlink(missing_ok=True)
    with pytest.raises(StudyError, match="no complete trial to confirm: continue it"):
        confirm(store, places)
    assert not (store.folder / "confirm").exists()


def test_a_class_in_too_few_patients_is_refused(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    rare = {f"p{at}": {"benign": 4, **({"tumour": 4} if at < 5 else {})} for at in range(14)}
    space = read_space(SPACE | {"dataset": "image_folder", "options": {}, "image_size": 16}, "rare")
    places = Places(tmp_path / "runs", tmp_path / "cache")
    store, cohorts = begin(StudyRequest(space, tiny_folder(rare)), "rare", places)
    config = TrialConfig.from_dict(space.default())
    run_trial(config, store.training_data(cohorts[16]), store.trial_folder(0), metric="auroc", probed=False)
    with pytest.raises(DataError, match="tumour"):
        confirm(store, places, outer=5)
    assert not (store.folder / "confirm").exists()


def test_a_thinned_training_part_is_refused(tmp_path: Path) -> None:
    places = Places(tmp_path / "runs", tmp_path / "cache")
    store, _ = begin(StudyRequest(read_space(SPACE, "thin"), imbalance="90:10"), "thin", places)
    with pytest.raises(ConfigError, match="thins its training part"):
        confirm(store, places)


def test_a_configuration_that_fails_is_named_and_left_out(study: Started) -> None:
    store, _, places = study
    add_trial(store, {"optimizer": {"learning_rate": 1e38, "clip_norm": 0.0}})
    result = confirm(store, places, top=1, seeds=2, outer=2, replicates=20)
    failed, default = result.contenders
    assert failed.failed.startswith("nan_loss")
    assert (default.name, result.best) == ("default", "default")
    assert result.recommended != failed.name
    assert any("trial 2 could not be trained again" in note for note in result.notes)


def test_the_command_says_it_in_words_and_in_json(
    confirmed: tuple[Started, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, _, places), text = confirmed
    monkeypatch.setenv("HISTOTUNE_CACHE", str(places.cache))
    base = ["confirm", "tried", "--top", "1", "--seeds", "2", "--outer", "2", "--runs", str(places.runs)]
    answer = CliRunner().invoke(app, base)
    assert answer.exit_code == 0, answer.output
    assert text["sentence"].split("reaches")[0] in answer.stdout
    for word in (
        "optimism gap",
        "Best after confirming",
        " recommended" if not text["recommended"] else "Recommended, as the cheapest",
    ):
        assert word in answer.stdout
    plain = json.loads(CliRunner().invoke(app, [*base, "--json"]).stdout)
    assert [row["name"] for row in plain["contenders"]] == [row["name"] for row in text["contenders"]]
    wrong = CliRunner().invoke(app, ["confirm", "tryed", "--runs", str(places.runs)])
    assert wrong.exit_code == 2
    assert "Did you mean 'tried'" in wrong.stderr
