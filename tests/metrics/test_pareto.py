"""Several metrics: the front is Optuna's, the first metric ranks and prunes, costs are measured and never in front."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from changed_studies import reread
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection

from histotune.core.config import unparse
from histotune.core.files import write_json
from histotune.data.cohort import Cohort
from histotune.errors import ConfigError
from histotune.metrics.pareto import front
from histotune.metrics.scores import COSTS, METRICS, check_metrics, score
from histotune.space import read_space
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.studies.leaderboard import leaderboard
from histotune.study import Study
from histotune.tuning.budget import Budget
from histotune.tuning.run import run

NewStudy = Callable[[Path], StudyFolder]
Values = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), max_size=12)
DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
ASKED = ["balanced_accuracy", "latency_ms", "parameters"]


@given(Values)
def test_the_front_is_optunas(values: list[tuple[int, int, int]]) -> None:
    study = optuna.create_study(directions=DIRECTIONS)
    for row in values:
        study.add_trial(optuna.create_trial(values=list(map(float, row))))
    result = front(np.array(values, float).reshape(-1, 3), [1, -1, 1])
    assert np.flatnonzero(result).tolist() == sorted(trial.number for trial in study.best_trials)


def test_what_is_unknown_is_not_on_the_front() -> None:
    assert front(np.array([[np.nan, 0.0], [0.1, 9.0]]), [1, -1]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["latency_ms"], "first metric ranks trials, .* 'latency_ms' cannot"),
        (["parameters", "auroc"], "'parameters' cannot"),
        (["auroc", "auroc"], "'auroc' is listed twice"),
        (["auroc", "latency"], "unknown metric 'latency'. Did you mean 'latency_ms'"),
        ([], "name one such as 'balanced_accuracy'"),
    ],
)
def test_what_cannot_lead_a_search_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_metrics(names)


@pytest.mark.parametrize("name", sorted(COSTS))
def test_a_cost_is_less_the_better_and_no_function_of_scores(name: str) -> None:
    assert not METRICS[name].higher_is_better
    with pytest.raises(ConfigError, match="measured, not computed"):
        score(name, np.array([[0.5, 0.5]]), np.array([1]))


def test_a_study_of_one_metric_from_before_still_opens(trained_study: StudyFolder) -> None:
    settings = unparse(trained_study.settings)
    del settings["others"]
    write_json(trained_study.folder / "study.json", settings)
    reread(trained_study)
    assert trained_study.settings.metrics == ["balanced_accuracy"]
    assert "front" not in leaderboard(trained_study)
    best = Study(trained_study).pareto_front()
    assert best["name"].tolist() == [leaderboard(trained_study).query("kind == 'trial'")["name"].iloc[0]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, small_cohort: Cohort, new_study: NewStudy) -> StudyFolder:
    """A study of three metrics after two searches with a real Ray."""
    store = new_study(tmp_path_factory.mktemp("runs") / "several")
    settings = dataclasses.replace(store.settings, others=ASKED[1:])
    write_json(store.folder / "study.json", unparse(settings))
    reread(store)
    width = {"low": 8, "high": 32, "log": True}
    space = read_space(
        {
            "dataset": "synthetic",
            "epochs": 4,
            "batch_size": 32,
            "model": {"branches": {"image": {"backbone": {"name": "alexnet", "width": width}}}},
            "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
        },
        "several",
    )
    for trials in (5, 9):
        run(store, space, {32: small_cohort.folder}, Budget(trials))
    return store


def test_optuna_reads_the_same_front_from_the_journal(searched: StudyFolder) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(searched.journal))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    on_front = Study(searched).pareto_front()["number"]
    assert sorted(on_front) == sorted(trial.number for trial in study.best_trials)
    for trial, record in zip(study.get_trials(), searched.trials(), strict=True):
        complete = record.state == COMPLETE
        assert trial.values == ([record.metrics[name] for name in ASKED] if complete else None)
        assert len(trial.intermediate_values) == record.epochs  # of the first metric, for pruning


def test_the_first_metric_ranks_and_stopped_trials_are_not_on_the_front(searched: StudyFolder) -> None:
    board = leaderboard(searched)
    ranked = board[board["state"] == COMPLETE]
    assert ranked["balanced_accuracy"].is_monotonic_decreasing
    assert not board.loc[board["state"] == STOPPED, "front"].any()
    assert board.loc[board["front"], "kind"].eq("trial").all()
    assert board["front"].any()


def test_complete_trials_have_their_costs(searched: StudyFolder) -> None:
    for record in searched.trials():
        if record.state == COMPLETE:
            assert record.metrics["parameters"] == record.parameters > 0
            assert 0 < record.metrics["latency_ms"] < 10_000
