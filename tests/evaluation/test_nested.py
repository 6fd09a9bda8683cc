"""Nested cross-validation: every outer search is blind to its outer fold, and its winner is evaluated there once."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import histotune
from histotune.cli.app import app
from histotune.core.config import TrialConfig
from histotune.errors import ConfigError, DataError, StudyError
from histotune.evaluation.nested import Nested, nested_search
from histotune.metrics.scores import score
from histotune.space import load_space
from histotune.storage.records import Predictions
from histotune.storage.study_folder import StudyFolder
from histotune.studies.options import SearchOptions
from histotune.study import open_study
from histotune.training.loop import run_trial
from histotune.tuning.events import SearchSummary
from histotune.tuning.options import Callbacks

SPACE: dict[str, Any] = {
    "dataset": "synthetic",
    "options": {"cases": 160, "patients": 24, "side": 32},
    "metric": "auroc",
    "epochs": 1,
    "batch_size": 32,
    "model": {"branches": {"image": {"backbone": {"name": "alexnet", "width": 4}}}},
    "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True, "default": 3e-3}},
}
Found = tuple[StudyFolder, SearchSummary | None]
Search = Callable[..., Found]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The space in a file; studies and cohorts go to a folder of their own."""
    monkeypatch.setenv("HISTOTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HISTOTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tried.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path / "tried.yaml"


def two_rates(space: str | Path, options: SearchOptions, callbacks: Callbacks) -> Found:
    """Search without Ray: two learning rates, in this process."""
    from histotune.studies.create import StudyRequest, begin

    loaded = load_space(space)
    request = StudyRequest(loaded, options.data, **vars(options.protocol))
    store, cohorts = begin(request, options.study, options.places)
    for number, rate in enumerate((3e-3, 2e-2)):
        config = TrialConfig.from_dict(loaded.default() | {"optimizer": {"learning_rate": rate}})
        run_trial(config, store.training_data(cohorts[32]), store.trial_folder(number), metric="auroc", probed=False)
    return store, None


def nested(file: Path, outer: int = 2, searching: Search = two_rates, **keywords: Any) -> Nested:
    """Call what the public function calls, with another search."""
    given = inspect.signature(histotune.search).bind(file, **keywords)
    given.apply_defaults()
    return nested_search(file, SearchOptions.of(given.arguments), outer=outer, searching=searching)


def parts(store: StudyFolder) -> dict[str, set[str]]:
    table = store.split
    return {part: set(table.loc[table["part"] == part, "patient"]) for part in ("train", "val", "test")}


@pytest.mark.parametrize("folds", [None, 2])
def test_each_winner_is_evaluated_on_patients_whom_its_search_never_saw(file: Path, folds: int | None) -> None:
    result = nested(file, folds=folds)
    store = open_study("tried").store
    whole = parts(store)
    development, scored, values = whole["train"] | whole["val"], set[str](), []
    for number in (1, 2):
        own = StudyFolder(store.folder / "outer" / str(number))
        inside = parts(own)
        assert inside["test"].isdisjoint(inside["train"] | inside["val"])
        assert set.union(*inside.values()) == development, "whom the study sealed stays sealed"
        assert own.settings.folds == (folds or 0)
        known = (own.folder / "labels.csv").read_text()
        saved = Predictions.load(own.folder / "outer.npz")
        assert set(saved.patients) == inside["test"]
        assert not any(f"\n{case}," in known for case in saved.ids)
        assert len(own.openings()) == 1
        values.append(score("auroc", np.exp(saved.logits), saved.labels))
        scored |= inside["test"]
    assert scored == development
    assert store.openings() == []
    assert result.nested.value == pytest.approx(np.mean(values))
    assert [one.score for one in result.folds] == pytest.approx(values)
    assert result.nested.low < result.nested.value < result.nested.high
    assert result.gap == pytest.approx(result.inner - result.nested.value)
    assert str(result).startswith(f"What a search of 2 trials chooses reaches {result.nested} AUROC")
    assert [one.trials for one in result.folds] == [2] * len(result.folds)
    assert json.loads((store.folder / "nested.json").read_text())["nested"]["value"] == result.nested.value


def test_the_same_call_goes_on_and_opens_no_fold_twice(file: Path) -> None:
    calls: list[str] = []

    def dying(space: str | Path, options: SearchOptions, callbacks: Callbacks) -> Found:
        calls.append(str(options.study))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return two_rates(space, options, callbacks)

    with pytest.raises(KeyboardInterrupt):
        nested(file, searching=dying)
    first = nested(file)
    again = nested(file)
    assert _told(first) == _told(again)
    assert [one.openings for one in again.folds] == [1, 1]
    with pytest.raises(StudyError, match="began with 2 outer folds, not 3"):
        nested(file, 3)


def test_a_search_over_noise_is_called_no_better_than_chance(file: Path, tiny_folder: Callable[..., Path]) -> None:
    data = tiny_folder({f"p{at:02d}": {"benign": 4, "tumour": 4} for at in range(20)})
    noise = yaml.safe_load(file.read_text()) | {"dataset": "image_folder", "options": {}, "image_size": 32}
    file.write_text(yaml.safe_dump(noise))
    result = nested(file, data=data, folds=2)
    assert f"{result.nested} AUROC on patients that it never saw (2 outer folds of" in result.sentence
    assert "patients): not significantly better than chance (0.500)." in result.sentence


def _told(result: Nested) -> dict[str, Any]:
    return {name: value for name, value in result.to_dict().items() if name != "time"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"outer": 1}, "outer=1: .* at least 2"),
        ({"outer": 2, "warm_start": "other"}, "--outer does not go with --warm-start: its trials were chosen"),
        ({"outer": 2, "join": True}, "--outer does not go with --join"),
        ({"outer": 2, "imbalance": "90:10"}, "thins its training part"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_there(
    file: Path, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        histotune.nested_search(file, **asked)
    assert not (file.parent / "runs").exists()


def test_more_outer_folds_than_patients_are_refused(file: Path) -> None:
    with pytest.raises(DataError, match="into 40 parts needs at least 40"):
        nested(file, 40)


@pytest.mark.slow
def test_the_command_searches_with_ray_once_for_each_fold(file: Path) -> None:
    command = ["search", str(file), "--outer", "2", "--trials", "2", "--json", "--max-concurrent", "1"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    assert [one["outer"] for one in json.loads(answer.stdout)["folds"]] == [1, 2]
    assert [len(StudyFolder(file.parent / "runs/tried/outer" / str(k)).trials()) for k in (1, 2)] == [2, 2]
    wrong = CliRunner().invoke(app, [*command, "--join"])
    assert wrong.exit_code == 2
    assert "--outer does not go with --join" in wrong.stderr


def test_what_search_does_not_take_is_refused_by_its_name(file: Path) -> None:
    with pytest.raises(TypeError, match="fold"):
        histotune.nested_search(file, outer=2, fold=3)
    with pytest.raises(ConfigError, match="unknown metric 'auro'"):
        histotune.nested_search(file, outer=2, metric="auro")
    assert not (file.parent / "runs").exists()
