"""Population based training: who gives way, who goes on from whom, with which parameters, and through every crash."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changed_studies import reread
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.data.cohort import Cohort
from histotune.data.splits import TrainingData
from histotune.errors import ConfigError
from histotune.space import Space, load_space, read_space
from histotune.storage.layout import STOP, kept_checkpoint
from histotune.storage.records import Parent, read_parent, read_record, write_parent, write_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.studies.disk import waste
from histotune.studies.leaderboard import leaderboard
from histotune.training.checkpoint import Checkpoint, TrainingProgress
from histotune.training.loop import epochs
from histotune.training.session import start
from histotune.training.trial_folder import conclude
from histotune.tuning.budget import Budget
from histotune.tuning.controller import Limits, SearchController
from histotune.tuning.journal import CONFIG, DIGEST, PARENT, RECORD, Journal
from histotune.tuning.options import Sampling
from histotune.tuning.pbt import FACTORS, PbtQueue, check_scheduler, explore, free
from histotune.tuning.proposer import Proposer
from histotune.tuning.resume import ledger, take_up
from histotune.tuning.run import run
from histotune.tuning.schedulers import PopulationBasedTraining

METRIC, EPOCHS = "balanced_accuracy", 10
SPACE = {
    "dataset": "synthetic",
    "epochs": EPOCHS,
    "batch_size": {"choice": [8, 16]},
    "model": {"head": {"feature_dim": {"low": 8, "high": 16}}},
    "loss": {
        "choice": {
            "cross_entropy": {},
            "focal": {"gamma": {"low": 0.5, "high": 5.0, "step": 0.5}, "beta": {"choice": [0.9, 0.99, 0.999]}},
            "cfal": {"centres": {"choice": [1, 2]}, "sigma": {"low": 80, "high": 430, "step": 50}},
        }
    },
    "optimizer": {
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "name": {"choice": ["adamw", "sgd"]},
    },
    "augment": {"flip": {"choice": [True, False]}, "color_jitter": {"choice": [0.0, 0.1, 0.2]}},
}
FREE = {
    "loss.focal.gamma",
    "loss.focal.beta",
    "loss.cfal.sigma",
    "optimizer.learning_rate",
    "augment.flip",
    "augment.color_jitter",
}


@pytest.fixture(scope="module")
def space() -> Space:
    return read_space(SPACE, "tests")


# Parameters


def draw(space: Space, seed: int) -> dict[str, Any]:
    """Draw {parameter: value} at random."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    trial = study.ask()
    space.suggest(trial)
    return dict(trial.params)


def test_only_what_fits_the_weights_may_change(space: Space) -> None:
    assert {parameter.path for parameter in free(space)} == FREE


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6))
def test_a_descendant_lies_in_the_space_and_differs_only_where_it_may(seed: int) -> None:
    space = read_space(SPACE, "tests")
    params = draw(space, seed)
    moved = explore(space, params, np.random.default_rng(seed))
    assert moved is not None
    assert moved != params
    assert space.accepts(moved)
    assert {path for path in params if moved[path] != params[path]} <= FREE


def test_numbers_move_by_a_fifth_and_choices_to_a_neighbour_but_for_those_drawn_anew(space: Space) -> None:
    near = {"optimizer.learning_rate": 0, "augment.color_jitter": 0}
    for seed in range(400):
        params = draw(space, 7) | {"optimizer.learning_rate": 0.01, "augment.color_jitter": 0.0}
        moved = explore(space, params, np.random.default_rng(seed))
        assert moved is not None
        near["optimizer.learning_rate"] += any(
            moved["optimizer.learning_rate"] == pytest.approx(0.01 * factor) for factor in FACTORS
        )
        near["augment.color_jitter"] += moved["augment.color_jitter"] in (0.0, 0.1)
    assert near["optimizer.learning_rate"] == pytest.approx(300, abs=40)
    assert near["augment.color_jitter"] == pytest.approx(300 + 100 * 2 / 3, abs=40)


def test_a_space_with_nothing_to_change_is_refused() -> None:
    fixed = read_space({"dataset": "synthetic", "batch_size": {"choice": [8, 16]}}, "fixed")
    assert explore(fixed, {"batch_size": 8}, np.random.default_rng(0)) is None
    with pytest.raises(ConfigError, match=r"'pbt' changes optimizer\.learning_rate.*'fixed' searches none"):
        check_scheduler("pbt", fixed)
    assert check_scheduler("asha", fixed).turns == ()
    for name in ("idc", "crc", "demo"):
        assert check_scheduler("pbt", load_space(name)).turns


# Who gives way


@pytest.mark.parametrize(
    ("total", "turns"), [(1, ()), (2, (1,)), (3, (1, 2)), (10, (2, 4, 6, 8)), (52, (10, 20, 30, 40))]
)
def test_the_turns_leave_a_descendant_something_to_train(total: int, turns: tuple[int, ...]) -> None:
    assert PopulationBasedTraining(total).turns == turns


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True))
def test_the_worst_quarter_gives_way_to_the_best(scores: list[float]) -> None:
    population = PopulationBasedTraining(EPOCHS)
    for number, score in enumerate(scores):
        seen = scores[:number]
        stopped = population.report(number, 2, score)
        assert stopped == (len(seen) >= 3 and score < np.percentile(seen, 25))
    best = sorted(range(len(scores)), key=lambda number: -scores[number])
    elite = population.elite(2)
    assert elite == best[: len(elite)]
    assert len(elite) == min(5, -(-len(scores) // 4))
    assert population.best(2) == best[:5]


def test_an_epoch_that_is_no_turn_has_no_best() -> None:
    assert PopulationBasedTraining(EPOCHS).best(3) == PopulationBasedTraining(EPOCHS).elite(3) == [], (
        "a study that began with other epochs"
    )


# A search without an engine


class Workers:
    """Trains made-up trials in this process: a trial's score grows with its epochs and its closeness to a good rate."""

    def __init__(self, store: StudyFolder) -> None:
        self.store = store
        self.epochs: list[tuple[int, int]] = []
        self.most_kept = 0

    def work(self, controller: SearchController) -> None:
        live: dict[int, Mapping[str, Any]] = {}
        while True:
            while (assignment := controller.next()) is not None:
                folder = self.store.trial_folder(assignment.number)
                folder.mkdir(parents=True, exist_ok=True)
                if assignment.parent is not None and not (folder / "progress").exists():
                    source = self.store.trial_folder(assignment.parent.number) / kept_checkpoint(
                        assignment.parent.epoch
                    )
                    write_parent(folder, assignment.parent)
                    files.write_text(folder / "progress", source.read_text())
                live[assignment.number] = assignment.config
            controller.deliver()
            if controller.over():
                return
            for number in list(live):
                if self.advance(controller, number, live[number]):
                    del live[number]
            self.most_kept = max(self.most_kept, len(list(self.store.folder.glob("trials/*/checkpoint-*.pt"))))

    def advance(self, controller: SearchController, number: int, config: Mapping[str, Any]) -> bool:
        folder = self.store.trial_folder(number)
        controller.begun(number)
        done = (
            [float(one) for one in (folder / "progress").read_text().split()] if (folder / "progress").exists() else []
        )
        if read_record(folder) is None and (folder / STOP).exists():
            self.write(folder, STOPPED, done)
        elif read_record(folder) is None:
            away = abs(np.log10(config["optimizer"]["learning_rate"]) + 2.5)
            done.append((done[-1] if done else 0.5) + 0.04 - 0.02 * away)
            text = " ".join(map(str, done))
            files.write_text(folder / "progress", text)
            if len(done) in PopulationBasedTraining(EPOCHS).turns:
                files.write_text(folder / kept_checkpoint(len(done)), text)
            self.epochs.append((number, len(done)))
            if len(done) == EPOCHS:
                self.write(folder, COMPLETE, done)
            controller.reported(number, len(done), {METRIC: done[-1]})
        if read_record(folder) is None:
            return False
        controller.ended(number)
        return True

    def write(self, folder: Path, state: str, done: list[float]) -> None:
        write_record(folder, {"state": state, "metrics": {METRIC: done[-1]}, "epochs": len(done)})


def begin(
    store: StudyFolder, space: Space, budget: Budget, journal: Journal | None = None
) -> tuple[SearchController, PbtQueue]:
    journal = journal or Journal(store.journal, "tests", maximize=True)
    population = PopulationBasedTraining(EPOCHS)
    history = take_up(store, journal, population, metric=METRIC, sign=1)
    past = journal.trials()
    proposer = Proposer(space, "tpe", seed=0, maximize=True, history=past)
    queue = PbtQueue(store, None, population, space, seed=0, history=past)
    controller = SearchController(
        store, journal, proposer, population, history, metrics=[METRIC], limits=Limits(budget, 3), queue=queue
    )
    return controller, queue


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


def trials_of(store: StudyFolder) -> list[Any]:
    return Journal(store.journal, "tests", maximize=True).trials()


def test_every_trial_that_gives_way_has_one_descendant(store: StudyFolder, space: Space) -> None:
    workers = Workers(store)
    controller, queue = begin(store, space, Budget(40))
    workers.work(controller)
    trials = trials_of(store)
    stopped = [t.user_attrs[RECORD]["epochs"] for t in trials if t.user_attrs[RECORD]["state"] == STOPPED]
    born = [t for t in trials if PARENT in t.user_attrs]
    assert len(trials) == 40
    assert stopped
    assert len(stopped) - 3 <= len(born) <= len(stopped), "but those that the budget left no place for"
    for trial in born:
        parent = trials[trial.user_attrs[PARENT][0]]
        assert DIGEST not in trial.user_attrs, "a plain training of the same configuration is no repetition"
        assert trial.user_attrs[CONFIG] != parent.user_attrs[CONFIG]
        assert min(trial.intermediate_values) == trial.user_attrs[PARENT][1] + 1
        assert read_parent(store.trial_folder(trial.number)) == Parent(*trial.user_attrs[PARENT])
    assert trials[0].state == TrialState.COMPLETE, "the default runs to its end"
    assert workers.most_kept <= len(PopulationBasedTraining(EPOCHS).turns) * (PopulationBasedTraining.KEPT + 3)
    queue.close()
    assert not list(store.folder.glob("trials/*/checkpoint-*.pt"))


def test_epochs_of_a_parent_are_not_spent_twice(store: StudyFolder, space: Space) -> None:
    workers = Workers(store)
    controller, _ = begin(store, space, Budget(25))
    workers.work(controller)
    spent = ledger(trials_of(store), 1)
    assert spent.trained == len(workers.epochs) == len(set(workers.epochs))
    assert any(PARENT in trial.user_attrs for trial in trials_of(store))
    again = StudyFolder(store.folder.parent / "again")
    workers = Workers(again)
    workers.work(begin(again, space, Budget(epochs=120))[0])
    assert len(workers.epochs) == 120


def test_the_sampler_learns_from_no_descendant(store: StudyFolder, space: Space) -> None:
    Workers(store).work(begin(store, space, Budget(25))[0])
    trials = trials_of(store)
    proposer = Proposer(space, "tpe", seed=0, maximize=True, history=trials)
    own = [t for t in trials if t.state == TrialState.COMPLETE and PARENT not in t.user_attrs]
    assert len(proposer._seen.get_trials()) == len(own) < sum(t.state == TrialState.COMPLETE for t in trials)


class Crash(Exception):
    pass


class Mortal(Journal):
    """A journal whose process dies just before or just after one of its writes."""

    fatal, after = 0, False

    def propose(self, *arguments: Any) -> int:
        number: int = self._write(super().propose, *arguments)
        return number

    def report(self, *arguments: Any) -> None:
        self._write(super().report, *arguments)

    def note(self, *arguments: Any) -> None:
        self._write(super().note, *arguments)

    def _write(self, write: Callable[..., Any], *arguments: Any) -> Any:
        self.fatal -= 1
        if self.fatal == 0 and not self.after:
            raise Crash
        answer = write(*arguments)
        if self.fatal == 0:
            raise Crash
        return answer


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("every", [2, 5, 13, 40])
def test_crashes_owe_neither_more_nor_less(store: StudyFolder, space: Space, every: int, after: bool) -> None:
    workers, lives = Workers(store), itertools.count()
    for attempt in lives:
        mortal = Mortal(store.journal, "tests", maximize=True)
        mortal.fatal, mortal.after = every + attempt % 3, after
        try:
            workers.work(begin(store, space, Budget(24), mortal)[0])
            break
        except Crash:
            continue
    trials = trials_of(store)
    assert [record.number for record in store.trials()] == list(range(24)) == [t.number for t in trials]
    assert len(workers.epochs) == len(set(workers.epochs)), "an epoch was trained twice"
    stopped = [t for t in trials if t.user_attrs[RECORD]["state"] == STOPPED]
    born = [t for t in trials if PARENT in t.user_attrs]
    assert len(stopped) - 3 <= len(born) <= len(stopped)
    assert next(lives) > 1
    spent = ledger(trials, 1)
    assert spent.trained == len(workers.epochs)


def test_a_search_that_goes_on_without_its_checkpoints_asks_the_sampler(store: StudyFolder, space: Space) -> None:
    controller, queue = begin(store, space, Budget(12))
    Workers(store).work(controller)
    queue.close()
    before = len(trials_of(store))
    controller, _ = begin(store, space, Budget(20))
    assignment = controller.next()
    assert assignment is not None
    assert assignment.parent is None
    assert len(trials_of(store)) == before + 1


# A real training


@pytest.fixture
def data(small_study: StudyFolder, small_cohort: Cohort) -> TrainingData:
    return small_study.training_data(small_cohort)


def config(**changes: Any) -> TrialConfig:
    values = {
        "epochs": 5,
        "batch_size": 32,
        "model": {"head": {"feature_dim": 8}},
        "loss": {"name": "cfal"},
        "ema_decay": 0.9,
    }
    return TrialConfig.from_dict(values | changes)


@pytest.mark.filterwarnings("ignore:affinities vanish")
def test_a_descendant_with_its_parents_parameters_is_its_parent_bit_by_bit(data: TrainingData, tmp_path: Path) -> None:
    def trained(name: str) -> TrainingProgress:
        """Train until epoch 4, to the checkpoint that an interruption leaves."""
        training = epochs(config(), data, tmp_path / name, keep=(2,))
        while next(training).number < 4:
            pass
        training.close()
        progress = Checkpoint(tmp_path / name).load()
        assert progress is not None
        return progress

    parent = trained("parent")
    Checkpoint(tmp_path / "child").inherit(tmp_path / "parent" / kept_checkpoint(2), config().digest())
    child = trained("child")
    assert child.best_epoch > child.inherited == 2
    curves = [[{k: v for k, v in row.items() if k != "seconds"} for row in one.curve] for one in (parent, child)]
    assert curves[0] == curves[1]
    for part in ("model", "average"):
        assert parent.state[part].keys() == child.state[part].keys()
        assert all(torch.equal(parent.state[part][name], child.state[part][name]) for name in parent.state[part])
    moments = [one.state["optimizer"]["state"] for one in (parent, child)]
    assert all(torch.equal(moments[0][k]["exp_avg"], moments[1][k]["exp_avg"]) for k in moments[0])
    assert (tmp_path / "child" / "environment.json").exists()


@pytest.mark.filterwarnings("ignore:affinities vanish")
@pytest.mark.parametrize("loss", ["cfal", "focal", "ldam", "arcface"])
def test_a_descendant_trains_with_its_own_parameters(data: TrainingData, tmp_path: Path, loss: str) -> None:
    first = config(loss={"name": loss}, optimizer={"name": "sgd", "weight_decay": 1e-3, "momentum": 0.8})
    own = {"name": loss, "beta": 0.9} | ({"sigma": 200.0} if loss == "cfal" else {})
    second = config(loss=own, optimizer={"name": "sgd", "weight_decay": 1e-2, "momentum": 0.5})
    list(epochs(first, data, tmp_path / "parent", keep=(2,)))
    Checkpoint(tmp_path / "child").inherit(tmp_path / "parent" / kept_checkpoint(2), second.digest())
    progress = Checkpoint(tmp_path / "child").load()
    assert progress is not None
    fresh, taken = start(second, data), start(second, data)
    taken.load_state(progress.state)
    for one, other in zip(fresh.optimizer.param_groups, taken.optimizer.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}
    features = torch.randn(16, 8)
    labels = torch.arange(16) % 2
    for name, tensor in taken.model.objective.state_dict().items():
        fresh.model.objective.state_dict()[name].copy_(tensor)  # the same head: what is left is the parameters
    assert fresh.model.objective.loss(features, labels) == taken.model.objective.loss(features, labels)
    assert list(epochs(second, data, tmp_path / "child"))[-1].finished


def test_the_best_epoch_of_a_descendant_is_its_own() -> None:
    progress = TrainingProgress("", 0.0, inherited=2)
    progress.curve = [{"epoch": 1}, {"epoch": 2}]
    progress.best_epoch, progress.best_value = 2, 0.9
    for value in (0.5, 0.7, 0.6):
        progress.add({"nll": 0.5}, value)
    assert (progress.best_epoch, progress.best_value) == (4, 0.7)


@pytest.mark.filterwarnings("ignore:affinities vanish")
def test_a_descendant_pays_for_its_own_seconds(data: TrainingData, tmp_path: Path) -> None:
    list(epochs(config(), data, tmp_path / "parent", keep=(2,)))
    write_parent(tmp_path / "child", Parent(0, 2))
    Checkpoint(tmp_path / "child").inherit(tmp_path / "parent" / kept_checkpoint(2), config().digest())
    training = epochs(config(), data, tmp_path / "child")
    next(training)
    training.close()
    record = conclude(tmp_path / "child", STOPPED)
    assert record.epochs == 3
    assert record.seconds == record.curve()[-1]["seconds"]


# The whole search


TINY = """
dataset: synthetic
epochs: 5
batch_size: 8
optimizer: {learning_rate: {low: 1.0e-6, high: 1.0e-1, log: true}}
"""


def check(store: StudyFolder, trials: int) -> list[Parent]:
    """Every trial ended once and says where it came from; returns the parents of the descendants."""
    records = store.trials()
    assert [record.number for record in records] == list(range(trials))
    parents = []
    for record, trial in zip(records, Journal(store.journal, "small", maximize=False).trials(), strict=True):
        assert [row["epoch"] for row in record.curve()] == list(range(1, record.epochs + 1))
        parent = read_parent(record.folder)
        assert trial.user_attrs.get(PARENT) == (None if parent is None else list(parent))
        if parent is not None:
            parents.append(parent)
            shared = records[parent.number].curve()[: parent.epoch]
            assert record.curve()[: parent.epoch] == shared
            assert record.best_epoch > parent.epoch
    assert not list(store.folder.glob("trials/*/checkpoint*.pt")), "what was kept is gone"
    notes = leaderboard(store)["note"]
    assert notes.str.contains("continues trial").sum() == len(parents)
    return parents


def test_a_real_search_with_descendants(small_study: StudyFolder, small_cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    space = load_space(tmp_path / "tiny.yaml")
    text = json.loads((small_study.folder / "study.json").read_text())
    files.write_json(small_study.folder / "study.json", text | {"metric": "nll"})  # less is better
    reread(small_study)
    summary = run(small_study, space, {32: small_cohort.folder}, Budget(20), sampling=Sampling(scheduler="pbt"))
    assert (summary.ended, summary.unfinished, summary.failed) == (20, 0, 0)
    assert check(small_study, 20)


def test_what_is_kept_is_shown_and_freed(small_study: StudyFolder, data: TrainingData) -> None:
    folder = small_study.trial_folder(0)
    list(epochs(config(epochs=3, loss={"name": "cross_entropy"}), data, folder, keep=(1, 2)))
    assert [one.path.name for one in waste(small_study)] == [kept_checkpoint(1), kept_checkpoint(2)]
