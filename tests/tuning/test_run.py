"""A search with a real Ray, a real journal and real trainings; and what is refused before Ray starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from histotune.data.cohort import Cohort
from histotune.errors import ConfigError, StudyError
from histotune.space import Space, read_space
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import COMPLETE, FAILED, StudyFolder
from histotune.tuning.budget import Budget
from histotune.tuning.events import Resources, SearchSummary
from histotune.tuning.options import Callbacks, Cluster, Sampling
from histotune.tuning.ray_cluster import MARK, _folder, _mark, _marked
from histotune.tuning.run import run

LOOPBACK, LOOPBACK_6 = "0100007F", "0000000000000000FFFF00000100007F"
TINY = {
    "dataset": "synthetic",
    "epochs": 6,
    "batch_size": 32,
    "loss": {"choice": {"cross_entropy": {}, "focal": {"gamma": {"low": 0.5, "high": 5.0}}}},
    "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}


@pytest.fixture(scope="module")
def space() -> Space:
    return read_space(TINY, "tiny")


@dataclass
class Ears:
    """Hears everything."""

    heard: list[tuple[str, int]] = field(default_factory=list)

    doors: set[str] = field(default_factory=set)
    mark: str = ""

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        self.heard.append(("started", number))

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        assert "auroc" in metrics
        self.heard.append((f"epoch {epoch}", number))
        self.doors |= listening(_marked(self.mark))

    def ended(self, record: TrialRecord) -> None:
        self.heard.append((record.state, record.number))


@dataclass
class Searched:
    """A study after two searches of it."""

    store: StudyFolder
    first: SearchSummary
    second: SearchSummary
    ears: Ears


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory,
    small_cohort: Cohort,
    new_study: Callable[[Path], StudyFolder],
    space: Space,
) -> Searched:
    ears, home = Ears(), tmp_path_factory.mktemp("home")
    store = new_study(tmp_path_factory.mktemp("runs") / "small")
    ears.mark = _mark(store.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        first = run(store, space, {32: small_cohort.folder}, Budget(4), callbacks=Callbacks(listeners=[ears]))
        second = run(store, space, {32: small_cohort.folder}, Budget(6), callbacks=Callbacks(listeners=[ears]))
    assert not (home / ".ray").exists(), "Ray wrote its token where others may read it"
    return Searched(store, first, second, ears)


def test_a_search_ends_with_exactly_the_trials_asked_for(searched: Searched) -> None:
    assert [record.number for record in searched.store.trials()] == list(range(6))
    assert (searched.first.reason, searched.first.ended) == ("trials", 4)
    assert (searched.second.reason, searched.second.ended) == ("trials", 6)
    assert searched.second.complete + searched.second.stopped == 2


def test_the_journal_is_one_that_optuna_opens_and_agrees_with_the_folders(searched: Searched) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(searched.store.journal))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    records = searched.store.trials()
    for trial, record in zip(study.get_trials(), records, strict=True):
        complete = record.state == COMPLETE
        assert trial.state == (TrialState.COMPLETE if complete else TrialState.FAIL)
        assert trial.value == (record.metrics["balanced_accuracy"] if complete else None)
        assert trial.user_attrs["digest"] == record.digest
        assert trial.user_attrs["config"] == record.config()
        assert list(trial.intermediate_values) == [row["epoch"] for row in record.curve()]


def test_the_first_trial_is_the_default_and_ran_to_its_end(searched: Searched, space: Space) -> None:
    first = searched.store.trials()[0]
    assert (first.state, first.epochs) == (COMPLETE, 6)
    assert first.config()["optimizer"]["learning_rate"] == space.default()["optimizer"]["learning_rate"]


def test_listeners_hear_every_trial_in_order(searched: Searched) -> None:
    for record in searched.store.trials():
        observed = [what for what, number in searched.ears.heard if number == record.number]
        assert observed == ["started", *(f"epoch {e}" for e in range(1, record.epochs + 1)), record.state]


def test_ray_listens_on_loopback_only(searched: Searched) -> None:
    assert searched.ears.doors  # which of the two is heard depends on the moments at which we look
    assert searched.ears.doors <= {LOOPBACK, LOOPBACK_6}


def test_nothing_is_left_behind(searched: Searched) -> None:
    mark = _mark(searched.store.folder)
    assert not _marked(mark)
    assert not _folder(mark).exists()
    assert MARK not in os.environ
    left = {path.name for folder in (searched.store.folder / "trials").iterdir() for path in folder.iterdir()}
    assert not left & {"checkpoint.pt", "stop"}


def test_a_trial_that_raises_is_a_result_and_the_search_goes_on(
    small_study: StudyFolder, small_cohort: Cohort, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "broken.py").write_text(
        "from histotune.models.losses import LOSSES\n\n"
        "@LOSSES.register('broken_plugin')\n"
        "def broken(given, *, probability: float = 0.0):\n"
        "    '''Fail.'''\n"
        "    if given.feature_dim > 4:\n"
        "        raise KeyError('made-up')\n"
        "    return LOSSES.build('cross_entropy', given)\n"
    )
    from histotune.core.registry import load_plugins

    load_plugins(plugins)
    space = read_space(TINY | {"epochs": 1, "loss": {"choice": ["cross_entropy", "broken_plugin"]}}, "broken")
    summary = run(
        small_study,
        space,
        {32: small_cohort.folder},
        Budget(5),
        sampling=Sampling("random", "none"),
        cluster=Cluster(plugins=[plugins]),
    )
    states = {record.config()["loss"]["name"]: record for record in small_study.trials()}
    assert states["cross_entropy"].state == COMPLETE
    assert (states["broken_plugin"].state, states["broken_plugin"].kind) == (FAILED, "error")
    assert "made-up" in states["broken_plugin"].reason
    assert summary.failed == sum(record.state == FAILED for record in small_study.trials()) > 0


def listening(processes: list[int]) -> set[str]:
    """Return the addresses, as the kernel writes them, on which these processes take connections."""
    sockets = set()
    for process in processes:
        with contextlib.suppress(OSError):
            sockets |= {str(handle.readlink()) for handle in Path(f"/proc/{process}/fd").iterdir()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


# Refused before anything starts


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(cpus_per_trial=10_000), "10000 CPUs per trial requested, but this machine has"),
        (Resources(gpus_per_trial=64), "64 GPUs per trial requested, but this machine has"),
        (Resources(max_concurrent=10_000), "1 CPUs per trial x 10000 trials at once requested"),
        (Resources(max_concurrent=0), "at least 1, got 0"),
        (Resources(cpus_per_trial=0), "more than 0 CPUs"),
    ],
)
def test_more_than_there_is_is_refused_with_the_numbers(
    small_study: StudyFolder, space: Space, resources: Resources, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run(small_study, space, {32: small_study.folder}, Budget(1), resources)
    assert not small_study.journal.exists()


def test_as_many_trials_run_at_once_as_fit() -> None:
    assert Resources(cpus_per_trial=0.5).check() == 2 * Resources().check()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), (20, 20)])
def test_times_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert Budget.of(time=text).seconds == seconds


@pytest.mark.parametrize("wrong", [{"time": "soon"}, {"time": "-3"}, {"time": 0}, {"trials": 0}])
def test_impossible_budgets_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"time|trials"):
        Budget.of(**wrong)


def test_a_size_that_was_not_prepared_is_refused(small_study: StudyFolder, space: Space) -> None:
    with pytest.raises(ConfigError, match=r"sizes \[32\], but the cohort was prepared at \[64\]"):
        run(small_study, space, {64: small_study.folder}, Budget(1))


def test_a_second_search_of_a_study_says_who_holds_it(small_study: StudyFolder, space: Space) -> None:
    with small_study.lock("a test"), pytest.raises(StudyError, match="a test"):
        run(small_study, space, {32: small_study.folder}, Budget(1))
