"""Population based training (Jaderberg et al., 2017) as a chain of trials: who goes on from whose checkpoint, and how.

A trial that gave way at a turn (`schedulers.PopulationBasedTraining`) is replaced by a descendant: a new trial with its
own number and folder that begins from the checkpoint which one of the best had at that turn, with other parameters.
Its parent stands in the line of its proposal in the journal and in its folder. Which descendants are due follows from
the journal alone, so that it is the same when a search is continued after a crash.

The sampler proposes whenever no descendant is due, and learns from no descendant: its score belongs to a history of
parameters and not to those that it ended with.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FixedTrial, FrozenTrial

from histotune.core.config import TrialConfig
from histotune.errors import ConfigError
from histotune.space import Choice, Range, SearchParameter, Space
from histotune.storage import layout
from histotune.storage.records import Parent, TrialRecord
from histotune.storage.study_folder import STOPPED, StudyFolder
from histotune.training.checkpoint import kept_after
from histotune.tuning.journal import PARENT, RECORD
from histotune.tuning.proposer import Proposal
from histotune.tuning.remote_storage import RemoteStorage
from histotune.tuning.schedulers import PopulationBasedTraining, Scheduler, build_scheduler

FACTORS, RESAMPLED = (0.8, 1.2), 0.25  # of a number, and the share of parameters that are drawn anew
_DRAWS = 20  # until the parameters differ from the parent's
_OPTIMIZER = ("learning_rate", "weight_decay", "momentum", "clip_norm")
_FREE = (*(f"optimizer.{name}" for name in _OPTIMIZER), "model.head.dropout")


class PbtQueue:
    """Hands out descendants and keeps the checkpoints that they may begin from.

    Args:
        store: the study's files.
        remote: the storage through which trial folders travel, where one is.
        population: whom the trials are measured by; every earlier trial is recorded in it.
        space: where parameters may go.
        seed: of the search.
        history: every trial so far.
    """

    def __init__(
        self,
        store: StudyFolder,
        remote: RemoteStorage | None,
        population: PopulationBasedTraining,
        space: Space,
        *,
        seed: int,
        history: Sequence[FrozenTrial] = (),
    ) -> None:
        self._store, self._remote, self._population, self._space, self._seed = store, remote, population, space, seed
        self._params: dict[int, Mapping[str, Any]] = {trial.number: trial.params for trial in history}
        self._due: Counter[int] = Counter()
        self._young: dict[int, Parent] = {}  # descendants that have not ended, whose parents' checkpoints must stay
        self._born = 0
        self._reached: dict[int, int] = {}  # the last epoch of each trial; a crash may have lost the folder some
        self._held: dict[int, set[int]] = {turn: set() for turn in population.turns}
        checkpoints = f"{layout.TRIALS}/*/{layout.KEPT_CHECKPOINTS}"
        for path in store.folder.glob(checkpoints) if remote is None else remote.find(checkpoints):
            self._held.setdefault(kept_after(path), set()).add(int(path.parent.name))
        for trial in history:
            if PARENT in trial.user_attrs:
                parent = Parent(*trial.user_attrs[PARENT])
                self._due[parent.epoch] -= 1
                self._born += 1
                if not trial.state.is_finished():
                    self._young[trial.number] = parent
            record = trial.user_attrs.get(RECORD, {})
            self._reached[trial.number] = max([record.get("epochs", 0), *trial.intermediate_values])
            if record.get("state") == STOPPED:
                self._give_way(trial.number)

    def next(self) -> tuple[Proposal, Parent] | None:
        """Return the descendant that is due and its parent; None when none is.

        One that can have no parent, because nobody among the best has a checkpoint left, is owed no longer.
        """
        for turn in self._population.turns:
            while self._due[turn] > 0:
                rng = np.random.default_rng([self._seed, self._born, turn])
                for number in rng.permutation(self._population.elite(turn)).tolist():
                    proposal = self._descendant(Parent(number, turn), rng)
                    if proposal is not None:
                        return proposal, Parent(number, turn)
                self._due[turn] -= 1
        return None

    def begun(self, number: int, params: Mapping[str, Any], parent: Parent | None) -> None:
        """Record a new trial: a descendant when it has a parent."""
        self._params[number] = params
        if parent is not None:
            self._young[number] = parent
            self._due[parent.epoch] -= 1
            self._born += 1

    def reported(self, number: int, epoch: int) -> None:
        """Delete checkpoints of trials that fell behind, after an epoch that the population has recorded."""
        self._reached[number] = epoch
        if epoch in self._population.turns:
            self._held[epoch].add(number)
            self._sweep(epoch)

    def ended(self, record: TrialRecord) -> None:
        """Record an ended trial: one that gave way is replaced by a descendant."""
        parent = self._young.pop(record.number, None)
        if parent is not None:
            self._sweep(parent.epoch)
        if record.state == STOPPED:
            self._give_way(record.number)

    def close(self) -> None:
        """Free every checkpoint that was kept: nothing will begin from them."""
        for turn, numbers in self._held.items():
            for number in numbers:
                self._free(Parent(number, turn))
            numbers.clear()

    def _give_way(self, number: int) -> None:
        turn = self._reached.get(number, 0)
        if turn in self._population.turns:
            self._due[turn] += 1

    def _descendant(self, parent: Parent, rng: np.random.Generator) -> Proposal | None:
        params = self._params.get(parent.number, {})
        if not self._has(parent) or not self._space.accepts(params):
            return None
        moved = explore(self._space, params, rng)
        if moved is None:
            return None
        replay = FixedTrial(moved)
        config = TrialConfig.from_dict(self._space.suggest(replay))
        return Proposal(config.to_dict(), config.digest(), moved, replay.distributions)

    def _sweep(self, turn: int) -> None:
        wanted = {*self._population.best(turn), *(p.number for p in self._young.values() if p.epoch == turn)}
        for number in self._held[turn] - wanted:
            self._free(Parent(number, turn))
        self._held[turn] &= wanted

    def _has(self, parent: Parent) -> bool:
        folder = self._store.trial_folder(parent.number)
        if self._remote is not None:
            return self._remote.has(folder, layout.kept_checkpoint(parent.epoch))
        return (folder / layout.kept_checkpoint(parent.epoch)).exists()

    def _free(self, parent: Parent) -> None:
        folder = self._store.trial_folder(parent.number)
        (folder / layout.kept_checkpoint(parent.epoch)).unlink(missing_ok=True)
        if self._remote is not None:
            self._remote.remove(folder, layout.kept_checkpoint(parent.epoch))


def explore(space: Space, params: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
    """Return a trial's parameters with those changed that may change in mid-training; None when none can.

    A number is multiplied by 0.8 or 1.2 and stays in its range and on its grid, a choice among numbers moves to a
    neighbour; with probability 1/4 a parameter is drawn anew. What decides the shape of the network or of the
    optimiser's state, and the batch, are the parent's.
    """
    result = [parameter for parameter in free(space) if parameter.path in params]
    for _ in range(_DRAWS):
        moved = dict(params) | {p.path: _moved(p, params[p.path], rng) for p in result}
        if moved != params:
            return moved
    return None


def free(space: Space) -> list[Range | Choice]:
    """Return the parameters of a space that may change while a network trains."""
    return [p for p in space.parameters() if not _structural(p) and isinstance(p, (Range, Choice))]


def check_scheduler(name: str, space: Space, folds: int = 0) -> Scheduler:
    """Build a scheduler for a space.

    Raises:
        ConfigError: there is none of that name, or the space searches nothing that `pbt` may change in mid-training,
            or the trials of the study train on `folds`.
    """
    scheduler = build_scheduler(name, space.epochs())
    if isinstance(scheduler, PopulationBasedTraining) and folds:
        raise ConfigError(
            f"scheduler 'pbt' hands on the checkpoint of one training, and with {folds} folds a trial has {folds} of "
            "them: choose asha, hyperband, median or none, or leave folds out"
        )
    if isinstance(scheduler, PopulationBasedTraining) and not free(space):
        raise ConfigError(
            f"scheduler 'pbt' changes {', '.join(_FREE)}, augment.* and the real numbers of loss.* in mid-training, "
            f"and the space {space.name!r} searches none of them: choose asha, hyperband, median or none, or give "
            "--range optimizer.learning_rate=1e-4:1e-2:log"
        )
    return scheduler


def _structural(parameter: SearchParameter) -> bool:
    """Whether a parameter must stay what it was when the weights began."""
    if parameter.path.startswith("loss."):
        return not _numbers(parameter)
    return parameter.path not in _FREE and not parameter.path.startswith("augment.")


def _numbers(parameter: SearchParameter) -> bool:
    """Whether a parameter's values are real numbers: whole ones may be shapes, such as centres per class."""
    if isinstance(parameter, Range):
        return not parameter.whole
    return isinstance(parameter, Choice) and all(type(option) is float for option in parameter.options)


def _moved(parameter: Range | Choice, value: Any, rng: np.random.Generator) -> Any:
    if isinstance(parameter, Range):
        if rng.random() < RESAMPLED:
            return _snapped(parameter, _drawn(parameter, rng), value)
        return _snapped(parameter, value * rng.choice(FACTORS), value)
    options: Collection[Any] = parameter.options
    if rng.random() < RESAMPLED or not all(type(option) in (int, float) for option in options):
        return parameter.options[int(rng.integers(len(options)))]
    ordered = sorted(parameter.options)
    place = ordered.index(value) + int(rng.choice((-1, 1)))
    return ordered[min(max(place, 0), len(ordered) - 1)]


def _drawn(parameter: Range, rng: np.random.Generator) -> float:
    if parameter.log:
        return float(math.exp(rng.uniform(math.log(parameter.low), math.log(parameter.high))))
    return float(rng.uniform(parameter.low, parameter.high))


def _snapped(parameter: Range, wanted: float, before: float) -> float:
    """Return the number of the range next to `wanted`; where there are steps, another than before if it can be."""
    step = parameter.step if parameter.step is not None else (1 if parameter.whole else None)
    inside = float(min(max(wanted, parameter.low), parameter.high))
    if step is None:
        return inside
    steps = round((inside - parameter.low) / step)
    now = round((before - parameter.low) / step)
    if steps == now and wanted != before:
        steps += 1 if wanted > before else -1
    most = math.floor((parameter.high - parameter.low) / step + 1e-9)
    value = parameter.low + min(max(steps, 0), most) * step
    return int(value) if parameter.whole else round(value, 12)
