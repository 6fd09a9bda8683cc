"""The search's decisions without an engine: proposals, ends, the journal, and a crash at every point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from histotune.core.config import TrialConfig
from histotune.errors import StudyError
from histotune.space import Space, read_space
from histotune.storage.layout import STOP
from histotune.storage.records import TrialRecord, read_record, write_record
from histotune.storage.study_folder import COMPLETE, FAILED, STOPPED, StudyFolder
from histotune.training.memory import INFEASIBLE
from histotune.tuning.budget import STARTUP, Budget, Ledger
from histotune.tuning.controller import Limits, SearchController
from histotune.tuning.failures import STARTS
from histotune.tuning.journal import RECORD, Journal
from histotune.tuning.proposer import Proposer
from histotune.tuning.resume import ledger, take_up
from histotune.tuning.schedulers import build_scheduler
from histotune.tuning.warm_start import WarmStart

METRIC = "balanced_accuracy"
EPOCHS = 9


@pytest.fixture
def space() -> Space:
    return read_space(
        {
            "dataset": "synthetic",
            "epochs": EPOCHS,
            "loss": {"choice": {"cross_entropy": {}, "focal": {"gamma": {"low": 0.5, "high": 5.0}}}},
            "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
        },
        "tests",
    )


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


def curve(config: Mapping[str, Any]) -> list[float]:
    """A made-up learning curve, best near a learning rate of 0.003."""
    away = abs(np.log10(config["optimizer"]["learning_rate"]) + 2.5)
    return [0.9 - 0.2 * away - 0.3 / epoch for epoch in range(1, EPOCHS + 1)]


class Workers:
    """Trains made-up trials in this process, as a worker does: epoch by epoch, into the trial's folder."""

    def __init__(self, store: StudyFolder, outcome: Callable[[int], str] = lambda number: COMPLETE) -> None:
        self.store, self.outcome = store, outcome
        self.epochs: list[tuple[int, int]] = []

    def work(self, controller: SearchController, steps: int = 100_000) -> None:
        live: dict[int, list[float]] = {}
        for _ in range(steps):
            while (assignment := controller.next()) is not None:
                live[assignment.number] = curve(assignment.config)
                self.store.trial_folder(assignment.number).mkdir(parents=True, exist_ok=True)
            controller.deliver()
            if controller.over():
                return
            for number in list(live):
                if self.advance(controller, number, live[number]):
                    del live[number]

    def advance(self, controller: SearchController, number: int, values: list[float]) -> bool:
        folder = self.store.trial_folder(number)
        if self.outcome(number) == "stillborn":
            controller.died(number, "no such file")
            return True
        controller.begun(number)
        if self.outcome(number) == "killed":
            controller.died(number, "made-up")
            return True
        done = len((folder / "progress").read_text()) if (folder / "progress").exists() else 0
        ended = read_record(folder) is not None
        if not ended and self.outcome(number) == FAILED:
            self.write(folder, FAILED, {}, 0)
        elif not ended and self.outcome(number) == INFEASIBLE:
            self.write(folder, FAILED, {}, 0, INFEASIBLE)
        elif not ended and (folder / STOP).exists():
            self.write(folder, STOPPED, {METRIC: values[done - 1]}, done)
        elif not ended:
            done += 1
            (folder / "progress").write_text("." * done)
            self.epochs.append((number, done))
            if done == EPOCHS:
                self.write(folder, COMPLETE, {METRIC: values[-1]}, done)
            controller.reported(number, done, {METRIC: values[done - 1]})
        if read_record(folder) is None:
            return False
        controller.ended(number)
        return True

    def write(
        self, folder: Path, state: str, metrics: Mapping[str, float], epochs: int, kind: str = "nan_loss"
    ) -> None:
        failure = {"kind": kind, "reason": "made-up"} if state == FAILED else {}
        write_record(folder, {"state": state, "metrics": metrics, "epochs": epochs, **failure})


def begin(
    store: StudyFolder,
    space: Space,
    trials: int | None = None,
    *,
    scheduler: str = "none",
    sampler: str = "tpe",
    seconds: float | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    journal: Journal | None = None,
    start: WarmStart | None = None,
    trial_timeout: float | None = None,
    **options: Any,
) -> SearchController:
    journal = journal or Journal(store.journal, "tests", maximize=True)
    stopper = build_scheduler(scheduler, EPOCHS)
    history = take_up(store, journal, stopper, metric=METRIC, sign=1)
    proposer = Proposer(space, sampler, seed=0, maximize=True, history=journal.trials(), start=start)
    return SearchController(
        store,
        journal,
        proposer,
        stopper,
        history,
        metrics=[METRIC],
        limits=Limits(Budget(trials, seconds, epochs, patience), 2, trial_timeout),
        **options,
    )


def journal_of(store: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(store.journal))
    study = optuna.load_study(study_name="tests", storage=optuna.storages.JournalStorage(backend))
    return study.get_trials()


# Proposing


def test_the_first_trial_is_the_default_and_none_repeats(store: StudyFolder, space: Space) -> None:
    Workers(store).work(begin(store, space, 12))
    configs = [trial.user_attrs["config"] for trial in journal_of(store)]
    assert configs[0] == TrialConfig.from_dict(space.default()).to_dict()
    assert len({TrialConfig.from_dict(config).digest() for config in configs}) == 12


def test_given_configurations_are_trained_once_right_after_the_default(store: StudyFolder, space: Space) -> None:
    mine = [space.locate({"loss": {"name": "focal", "gamma": gamma}}) for gamma in (1.0, 4.0)]
    start = WarmStart(first=[mine[0], space.default_parameters(), mine[1], mine[0]])
    workers = Workers(store)
    for trials in (1, 2, 4):
        workers.work(begin(store, space, trials, start=start))
    assert [t.params for t in journal_of(store)[:3]] == [space.default_parameters(), *mine]
    digests = [t.user_attrs["digest"] for t in journal_of(store)]
    assert len(set(digests)) == len(digests) == 4


def test_the_sampler_does_not_see_stopped_and_failed_trials(store: StudyFolder, space: Space) -> None:
    Workers(store, lambda number: FAILED if number == 4 else COMPLETE).work(begin(store, space, 25, scheduler="asha"))
    trials = journal_of(store)
    hidden = [t for t in trials if t.user_attrs[RECORD]["state"] != COMPLETE]
    assert {t.user_attrs[RECORD]["state"] for t in hidden} == {STOPPED, FAILED}
    assert all(t.state == TrialState.FAIL and t.value is None for t in hidden)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    seen = Proposer(space, "tpe", seed=0, maximize=True, history=trials)._seen.get_trials()
    assert [(t.params, t.value) for t in seen] == [(t.params, t.value) for t in complete]


def test_the_sampler_learns_what_does_not_fit_and_a_continued_search_still_knows(
    store: StudyFolder, space: Space
) -> None:
    journal = Journal(store.journal, "tests", maximize=True)

    def outcome(number: int) -> str:
        fits = journal.trials()[number].params["optimizer.learning_rate"] < 1e-2
        return COMPLETE if fits else INFEASIBLE

    for trials in (20, 40):  # the second search knows it from the journal alone
        Workers(store, outcome).work(begin(store, space, trials, journal=journal))
    unfit = np.array([outcome(number) == INFEASIBLE for number in range(40)])
    assert unfit.sum() > 2
    assert unfit[20:].mean() < 0.3, "of a space of which a third does not fit"
    seen = Proposer(space, "tpe", seed=0, maximize=True, history=journal.trials())._seen.get_trials()
    assert [bool(trial.constraints) for trial in seen] == unfit.tolist()


def test_facts_of_a_hidden_trial_stay_in_the_journal(store: StudyFolder, space: Space) -> None:
    Workers(store).work(begin(store, space, 12, scheduler="asha"))
    stopped = next(t for t in journal_of(store) if t.user_attrs[RECORD]["state"] == STOPPED)
    facts = stopped.user_attrs[RECORD]
    assert facts["epochs"] == max(stopped.intermediate_values) < EPOCHS
    assert facts["metrics"][METRIC] == stopped.intermediate_values[facts["epochs"]]


def test_the_default_is_never_stopped(store: StudyFolder, space: Space) -> None:
    poor = read_space(space.to_dict(), "tests", fix=[], ranges=["optimizer.learning_rate=1e-4:1e-1:log"])
    worst = read_space(
        {**poor.to_dict(), "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True, "default": 1e-1}}},
        "tests",
    )
    Workers(store).work(begin(store, worst, 10, scheduler="asha"))
    records = store.trials()
    assert records[0].state == COMPLETE
    assert any(record.state == STOPPED for record in records)


def test_a_space_that_has_been_tried_ends_the_search(store: StudyFolder) -> None:
    space = read_space({"dataset": "synthetic", "epochs": EPOCHS, "batch_size": {"choice": [8, 16, 32]}}, "tests")
    controller = begin(store, space, 10)
    Workers(store).work(controller)
    summary = controller.summary()
    assert (summary.reason, summary.ended) == ("exhausted", 3)


def test_a_continued_random_search_draws_anew(store: StudyFolder, space: Space) -> None:
    for trials in (5, 10):
        Workers(store).work(begin(store, space, trials, sampler="random"))
    rates = [t.params["optimizer.learning_rate"] for t in journal_of(store)]
    assert len(set(rates)) == 10


def test_a_narrowed_space_learns_from_what_lies_inside_it(store: StudyFolder, space: Space) -> None:
    Workers(store).work(begin(store, space, 15))
    narrow = read_space(space.to_dict(), "tests", ranges=["optimizer.learning_rate=1e-3:1e-2:log"])
    seen = Proposer(narrow, "tpe", seed=0, maximize=True, history=journal_of(store))._seen.get_trials()
    assert 0 < len(seen) < 15
    assert {t.distributions["optimizer.learning_rate"] for t in seen} == {
        optuna.distributions.FloatDistribution(1e-3, 1e-2, log=True)
    }


# Ends


def test_the_budget_counts_the_trials_of_earlier_searches(store: StudyFolder, space: Space) -> None:
    for trials, new in ((12, 12), (20, 8), (20, 0), (15, 0)):
        controller = begin(store, space, trials)
        Workers(store).work(controller)
        assert controller.summary().complete == new
    assert len(store.trials()) == 20


def test_the_time_is_up_for_all_at_once(store: StudyFolder, space: Space) -> None:
    now = 0.0

    def clock() -> float:
        return now

    controller = begin(store, space, seconds=100.0, clock=clock)
    Workers(store).work(controller, steps=25)
    now = 101.0
    Workers(store).work(controller)
    summary = controller.summary()
    assert (summary.reason, summary.unfinished) == ("time", 2)
    assert summary.ended == len(store.trials()) == summary.complete
    assert controller.next() is None


def replayed(store: StudyFolder) -> Ledger:
    return ledger(Journal(store.journal, "tests", maximize=True).trials(), 1)


def test_epochs_of_stopped_and_failed_trials_are_paid_for(store: StudyFolder, space: Space) -> None:
    workers = Workers(store, lambda number: FAILED if number % 5 == 3 else COMPLETE)
    controller = begin(store, space, epochs=100, scheduler="asha")
    workers.work(controller)
    summary = controller.summary()
    assert (summary.reason, summary.message) == ("epochs", "100 epochs of 100 have been trained")
    assert len(workers.epochs) == 100
    assert {record.state for record in store.trials()} == {COMPLETE, STOPPED, FAILED}


def test_what_runs_when_the_epochs_are_spent_goes_on_with_more(store: StudyFolder, space: Space) -> None:
    workers = Workers(store)
    controller = begin(store, space, epochs=EPOCHS + 4)
    workers.work(controller)
    assert controller.summary().unfinished == 2
    again = begin(store, space, epochs=EPOCHS + 4)
    assert again.over()
    assert again.summary().reason == "epochs"
    workers.work(begin(store, space, epochs=2 * EPOCHS))
    assert workers.epochs == list(dict.fromkeys(workers.epochs)), "an epoch was trained twice"
    assert [record.state for record in store.trials()] == [COMPLETE] * 2
    assert replayed(store).trained == len(workers.epochs) == 2 * EPOCHS


@pytest.mark.parametrize("patience", [1, 4, 9])
def test_patience_ends_a_search_that_no_longer_gets_better(store: StudyFolder, space: Space, patience: int) -> None:
    controller = begin(store, space, 300, patience=patience, scheduler="asha")
    Workers(store).work(controller)
    summary, spent = controller.summary(), replayed(store)
    assert summary.reason == "patience"
    assert summary.unfinished == 0
    assert spent.since_best >= patience
    assert patience + STARTUP <= summary.ended < 300
    assert spent.best == max(r.metrics["balanced_accuracy"] for r in store.trials() if r.state == COMPLETE)


@pytest.mark.parametrize("patience", [3, 6])
def test_a_search_in_pieces_ends_where_one_in_one_piece_does(tmp_path: Path, space: Space, patience: int) -> None:
    one, pieces = StudyFolder(tmp_path / "one"), StudyFolder(tmp_path / "pieces")
    Workers(one).work(begin(one, space, patience=patience, sampler="random", epochs=10_000))
    workers = Workers(pieces)
    for _ in range(1000):
        controller = begin(pieces, space, patience=patience, sampler="random", epochs=10_000)
        workers.work(controller, steps=7)
        if controller.over():
            break
    spent = replayed(pieces)
    assert controller.summary().reason == "patience"
    assert spent.since_best >= patience
    assert spent.ended == len(pieces.trials()) >= patience + STARTUP
    assert spent.trained == len(workers.epochs)
    assert replayed(one).since_best >= patience


def test_the_first_budget_that_is_spent_ends_the_search(store: StudyFolder, space: Space) -> None:
    for budget, reason in (((3, None, 1000, 50), "trials"), ((50, None, 40, 50), "epochs")):
        trials, seconds, epochs, patience = budget
        controller = begin(store, space, trials, seconds=seconds, epochs=epochs, patience=patience)
        Workers(store).work(controller)
        assert controller.summary().reason == reason


def test_five_failures_of_a_kind_in_a_row_end_the_search(store: StudyFolder, space: Space) -> None:
    controller = begin(store, space, 30)
    Workers(store, lambda number: FAILED if number not in (2, 5) else COMPLETE).work(controller)
    summary = controller.summary()
    assert summary.reason == "failures"
    assert "5 trials in a row failed with nan_loss: made-up" in summary.message
    assert summary.ended < 20


def test_infeasible_trials_do_not_end_a_search_of_which_one_trial_fits(store: StudyFolder, space: Space) -> None:
    controller = begin(store, space, 8)
    Workers(store, lambda number: INFEASIBLE if number else COMPLETE).work(controller, steps=EPOCHS - 2)
    assert controller.summary().failed >= 5, "while the default has not ended"
    for trials in (16, 32):  # the second search knows it from the journal
        controller = begin(store, space, trials)
        Workers(store, lambda number: INFEASIBLE if number else COMPLETE).work(controller)
        assert (controller.summary().reason, controller.summary().ended) == ("trials", trials)


@pytest.mark.parametrize("default", [INFEASIBLE, FAILED])
def test_five_infeasible_trials_in_a_row_end_a_search_of_which_none_fits(
    store: StudyFolder, space: Space, default: str
) -> None:
    for ended in (range(5, 8), range(10, 16)):
        controller = begin(store, space, 30)
        Workers(store, lambda number: INFEASIBLE if number else default).work(controller)
        summary = controller.summary()
        assert (summary.reason, summary.complete) == ("failures", 0)
        assert "5 trials in a row failed with infeasible: made-up" in summary.message
        assert summary.ended in ended


def test_a_trial_whose_worker_dies_starts_again_a_few_times(store: StudyFolder, space: Space) -> None:
    controller = begin(store, space, 4)
    Workers(store, lambda number: "killed" if number == 1 else COMPLETE).work(controller)
    records = {record.number: record for record in store.trials()}
    assert (records[1].state, records[1].kind) == (FAILED, "killed")
    assert f"died {STARTS} times" in records[1].reason
    assert [records[n].state for n in (0, 2, 3)] == [COMPLETE] * 3


def test_a_trial_that_hangs_three_times_is_a_result_and_a_late_epoch_is_not(store: StudyFolder, space: Space) -> None:
    now = 0.0

    def clock() -> float:
        return now

    controller = begin(store, space, 4, clock=clock, trial_timeout=100.0)
    for _ in range(STARTS):
        assignment = controller.next()
        assert assignment is not None
        assert assignment.number == 0
        store.trial_folder(0).mkdir(parents=True, exist_ok=True)
        controller.begun(0)
        for seconds in range(95, 0, -5):
            now += 5
            assert controller.hanging() == [], f"{seconds} s too early"
        controller.reported(0, 1, {METRIC: 0.5})
        now += 1e9  # the clock jumps
        assert controller.hanging() == []
        result: list[int] = []
        for _ in range(30):
            now += 5
            result += controller.hanging()
        assert result == [0]
        controller.died(0, "killed by signal 9")
    record = store.trials()[0]
    assert (record.state, record.kind) == (FAILED, "hung")
    assert "no epoch for 100 s" in record.reason


def test_workers_that_cannot_begin_end_the_search_and_cost_no_trial(store: StudyFolder, space: Space) -> None:
    controller = begin(store, space, 4)
    Workers(store, lambda number: "stillborn").work(controller)
    summary = controller.summary()
    assert (summary.reason, summary.ended, summary.unfinished) == ("failures", 0, 2)
    assert "5 workers in a row died before they began: no such file" in summary.message
    Workers(store).work(begin(store, space, 4))
    assert [record.state for record in store.trials()] == [COMPLETE] * 4


def test_a_listener_that_raises_is_dropped_and_named(store: StudyFolder, space: Space) -> None:
    observed: list[tuple[str, int]] = []

    class Broken:
        def started(self, number: int, config: Mapping[str, Any]) -> None:
            raise RuntimeError("no server")

        def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
            raise AssertionError

        def ended(self, record: TrialRecord) -> None:
            raise AssertionError

    class Whole:
        def started(self, number: int, config: Mapping[str, Any]) -> None:
            observed.append(("started", number))

        def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
            observed.append(("reported", number))

        def ended(self, record: TrialRecord) -> None:
            observed.append(("ended", record.number))

    controller = begin(store, space, 3, listeners=[Broken(), Whole()])
    Workers(store).work(controller)
    controller.deliver()
    assert controller.summary().notes == ("Broken was dropped after an error: RuntimeError('no server')",)
    for number in range(3):
        assert [what for what, n in observed if n == number] == ["started", *["reported"] * EPOCHS, "ended"]


# Crashes


class Crash(Exception):
    """The process is gone."""


class Mortal(Journal):
    """A journal whose process dies at a given write: just before it, or just after."""

    writes, fatal, after = 0, -1, False

    def _write(self, write: Callable[..., Any], *arguments: Any) -> Any:
        self.writes += 1
        if self.writes == self.fatal and not self.after:
            raise Crash
        result = write(*arguments)
        if self.writes == self.fatal:
            raise Crash
        return result

    def propose(self, *arguments: Any) -> int:
        number: int = self._write(super().propose, *arguments)
        return number

    def report(self, *arguments: Any) -> None:
        self._write(super().report, *arguments)

    def note(self, *arguments: Any) -> None:
        self._write(super().note, *arguments)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("every", [1, 2, 3, 7, 20])
def test_crashes_lose_nothing_and_repeat_nothing(store: StudyFolder, space: Space, every: int, after: bool) -> None:
    workers = Workers(store)
    for attempt in range(1000):
        mortal = Mortal(store.journal, "tests", maximize=True)
        mortal.fatal, mortal.after = every + attempt % 3, after
        try:
            workers.work(begin(store, space, 8, scheduler="asha", journal=mortal))
            break
        except Crash:
            continue
    records, trials = store.trials(), journal_of(store)
    assert [record.number for record in records] == list(range(8)) == [t.number for t in trials]
    assert all(t.state.is_finished() for t in trials)
    assert len(workers.epochs) == len(set(workers.epochs)), "an epoch was trained twice"
    assert [t.user_attrs[RECORD]["state"] for t in trials] == [record.state for record in records]


def test_a_torn_last_line_and_a_dead_process_lock_are_mended(store: StudyFolder, space: Space) -> None:
    Workers(store).work(begin(store, space, 3))
    before = store.journal.read_bytes()
    store.journal.write_bytes(before + b'{"op_code": 4, "study_')
    Path(f"{store.journal}.lock").symlink_to(store.journal)
    Workers(store).work(begin(store, space, 5))
    assert store.journal.read_bytes().startswith(before)
    assert len(journal_of(store)) == len(store.trials()) == 5


def test_a_damaged_journal_says_so(store: StudyFolder, space: Space) -> None:
    Workers(store).work(begin(store, space, 2))
    lines = store.journal.read_bytes().splitlines(keepends=True)
    lines[3] = b"not a line of a journal\n"
    store.journal.write_bytes(b"".join(lines))
    with pytest.raises(StudyError, match="is damaged"):
        Journal(store.journal, "tests", maximize=True)


def test_folders_that_a_lost_journal_does_not_know_keep_their_numbers(store: StudyFolder, space: Space) -> None:
    Workers(store).work(begin(store, space, 4))
    store.journal.unlink()
    before = {record.number: record.metrics for record in store.trials()}
    Workers(store).work(begin(store, space, 6))
    after = {record.number: record.metrics for record in store.trials()}
    assert len(after) == 6
    assert all(after[number] == metrics for number, metrics in before.items())
