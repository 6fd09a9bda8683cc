"""Disk: what is kept, what may go, what never goes, and what is refused before it is full."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.core.format import megabytes
from histotune.core.runtime import Places
from histotune.data.cohort import EMBEDDINGS
from histotune.data.modalities.bag import join
from histotune.data.splits import TrainingData
from histotune.ensembles.merge import merge
from histotune.errors import ConfigError, StudyError
from histotune.exports.export import export_ensemble, export_trial
from histotune.storage.layout import CHECKPOINT, WEIGHTS
from histotune.storage.records import TrialEnd, TrialRecord, write_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.studies.disk import need, preflight, tidy, waste
from histotune.training.session import shapes
from histotune.tuning.ray_cluster import temporary_folder
from histotune.tuning.retention import ModelRetention

METRIC = "balanced_accuracy"


def kept(store: StudyFolder) -> set[int]:
    """Return the trials that have their weights."""
    return {record.number for record in store.trials() if (record.folder / WEIGHTS).exists()}


def ended(store: StudyFolder, number: int, value: float, state: TrialEnd = COMPLETE) -> TrialRecord:
    """Write a made-up trial with weights."""
    folder = store.trial_folder(number)
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"0" * 1000)
    (folder / "config.yaml").write_text(yaml.safe_dump(TrialConfig().to_dict()))
    write_record(folder, {"state": state, "metrics": {METRIC: value}, "epochs": 1})
    return TrialRecord(number, state, folder, metrics={METRIC: value})


def test_the_best_keep_their_weights_whatever_the_order(small_study: StudyFolder) -> None:
    values = [0.5, 0.9, 0.7, 0.9, 0.6, float("nan"), 0.8, 0.95]
    keeper = ModelRetention(small_study, 3)
    for number, value in enumerate(values):
        keeper.ended(ended(small_study, number, value))
    assert kept(small_study) == {7, 1, 3}
    again = ModelRetention(small_study, 3)  # a search that goes on
    again.ended(ended(small_study, 8, 0.99))
    assert kept(small_study) == {7, 1, 8}


def test_weights_of_stopped_trials_go_at_once_and_zero_keeps_all(small_study: StudyFolder) -> None:
    ModelRetention(small_study, 0).ended(ended(small_study, 0, 0.9, STOPPED))
    assert kept(small_study) == {0}
    ModelRetention(small_study, 5).ended(ended(small_study, 1, 0.9, STOPPED))
    assert kept(small_study) == set()


def test_a_negative_number_to_keep_is_refused(small_study: StudyFolder) -> None:
    with pytest.raises(ConfigError, match="keep_models must be at least 0, got -1"):
        ModelRetention(small_study, -1)


def test_members_of_ensembles_stay(trained_study: StudyFolder) -> None:
    merged = merge(trained_study, top=2)
    assert {one.path.parent.name for one in waste(trained_study, 0)} == {
        f"{number:05d}" for number in range(3) if number not in merged.members
    }
    keeper = ModelRetention(trained_study, 1)
    keeper.ended(ended(trained_study, 3, 1.0))
    assert set(merged.members) <= kept(trained_study)


def test_gc_shows_first_and_frees_then(trained_study: StudyFolder, tmp_path: Path) -> None:
    places = Places.of(trained_study.folder.parent, tmp_path / "cache")
    first = trained_study.trial_folder(0)
    (first / CHECKPOINT).write_bytes(b"0" * 5000)
    (first / ".metrics.json.abc").write_bytes(b"0" * 10)
    ended(trained_study, 3, 0.9, STOPPED)
    running = trained_study.trial_folder(4)
    running.mkdir()
    (running / CHECKPOINT).write_bytes(b"0" * 7000)
    control = trained_study.controls / "colour"
    control.mkdir(parents=True)
    (control / WEIGHTS).write_bytes(b"0")
    temporary_folder(trained_study.folder).mkdir()
    (tmp_path / "cache" / "old").mkdir(parents=True)
    (tmp_path / "cache" / "old" / "cohort.json").write_text('{"digest": "nobody"}')
    (tmp_path / "cache" / EMBEDDINGS).mkdir()
    (tmp_path / "cache" / EMBEDDINGS / "0123.npy").write_bytes(b"0" * 100)

    shown = tidy(places, keep=2)
    assert shown.freed == 0
    assert {one.path.name for one in shown.found} == {
        CHECKPOINT,
        ".metrics.json.abc",
        WEIGHTS,
        "old",
        EMBEDDINGS,
        temporary_folder(trained_study.folder).name,
    }
    assert all(one.path.exists() for one in shown.found)
    before = trained_study.trials()

    freed = tidy(places, keep=2, remove=True)
    assert freed.freed == sum(one.size for one in shown.found) > 6000
    assert not any(one.path.exists() for one in shown.found)
    assert trained_study.trials() == before
    assert len(kept(trained_study)) == 2
    assert (running / CHECKPOINT).exists(), "an unfinished trial goes on from it"
    assert (control / WEIGHTS).exists(), "controls stay"
    assert tidy(places, keep=2).found == []


def test_a_study_in_use_is_left_alone(trained_study: StudyFolder, tmp_path: Path) -> None:
    places = Places.of(trained_study.folder.parent, tmp_path / "cache")
    with trained_study.lock("a test"):
        assert tidy(places, keep=0, remove=True).skipped == [trained_study.folder.name]
        with pytest.raises(StudyError, match="a test"):
            tidy(places, trained_study.folder.name, keep=0, remove=True)
    assert kept(trained_study) == {0, 1, 2}


def test_an_export_of_freed_weights_says_what_to_do(trained_study: StudyFolder, tmp_path: Path) -> None:
    merged = merge(trained_study, top=3)
    number = merged.members[0]
    (trained_study.trial_folder(number) / WEIGHTS).unlink()
    for export in (
        lambda: export_trial(trained_study, number, tmp_path / "one"),
        lambda: export_ensemble(trained_study, merged, tmp_path / "all"),
    ):
        with pytest.raises(StudyError, match=rf"weights of trial {number} are not there.*train it again with"):
            export()
    assert merge(trained_study, top=3).metrics == merged.metrics, "predictions are enough to combine"


def test_a_search_that_cannot_fit_is_refused_with_the_numbers(
    small_study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrialConfig()
    ask: dict[str, Any] = {"trials": 50, "checkpoints": 2, "keep": 20}
    needed = need(small_study, config, **ask)
    assert needed < need(small_study, config, trials=50, checkpoints=2, keep=0)
    line = preflight(small_study, config, at_once=2, cpus=2, gpus=0, memory=10**9, **ask)
    assert "are free" in line
    assert "1.0 GB of memory" in line
    assert "memory" not in preflight(small_study, config, at_once=2, cpus=2, gpus=0, memory=None, **ask), (
        "a cluster's nodes differ"
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed * 1.1))
    with pytest.warns(UserWarning, match="that is tight"):
        preflight(small_study, config, at_once=2, cpus=2, gpus=0, memory=10**9, **ask)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(StudyError, match=r"needs about .* of disk, .* are free.*histotune gc"):
        preflight(small_study, config, at_once=2, cpus=2, gpus=0, memory=10**9, **ask)


def test_the_disk_that_networks_of_any_modality_need_is_known(
    small_study: StudyFolder, small_data: TrainingData
) -> None:
    count = len(small_data.ids)
    bags = join([np.ones((3, 4))] * count, [np.zeros((3, 2))] * count)
    data = replace(
        small_data, arrays={"patches": bags}, present={"patches": np.ones(count, bool)}, kinds={"patches": "bag"}
    )
    branch = {"modality": "patches", "backbone": {"name": "attention_mil", "dim": 500}}
    config = TrialConfig.from_dict({"model": {"branches": {"patches": branch}}})
    given = shapes(config, data)
    assert (given["patches"].kind, given["patches"].shape) == ("bag", (4,))
    assert need(small_study, config, trials=1, checkpoints=0, keep=0, given=given) > 4 * (4 + 128) * 500


def test_the_command_shows_and_frees(trained_study: StudyFolder, tmp_path: Path) -> None:
    where = ["--runs", str(trained_study.folder.parent), "--cache", str(tmp_path / "cache")]
    command = ["gc", trained_study.folder.name, "--keep", "1", *where]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "weights beyond the 1 best" in shown.output
    assert "--yes does it" in shown.output
    assert len(kept(trained_study)) == 3
    assert "Freed" in CliRunner().invoke(app, [*command, "--yes"]).output
    assert len(kept(trained_study)) == 1
    assert "Nothing to free" in CliRunner().invoke(app, command).output
    assert CliRunner().invoke(app, ["gc", "smal", *where]).exit_code == 2
    assert megabytes(2e9) == "2.0 GB"


def test_who_asks_for_the_holder_does_not_keep_a_search_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study" / "lock"
    with files.lock(path, "an earlier search"):
        pass
    with path.open("r", encoding="utf-8") as asking:
        # as `holder` has it for a moment, which ends while the lock waits
        assert filelock.lock_descriptor(asking.fileno(), blocking=False)
        monkeypatch.setattr("time.sleep", lambda seconds: asking.close())
        with files.lock(path, "a search"):
            assert "a search" in files.holder(path)
