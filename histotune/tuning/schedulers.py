"""Early stopping: pure decisions on reported values, without clock, process or file."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from statistics import fmean

import numpy as np

from histotune.errors import ConfigError, suggest

SHORT = 15  # epochs of a training that is long enough for one rung


class Scheduler:
    """Never stops a trial; the base of those that do.

    An epoch that is reported again, after a crash, counts once. An undefined score (NaN) is below every other, and no
    other trial is measured by it.

    Attributes:
        grace: the first epoch after which a trial may be stopped.
        turns: epochs after which a trial's checkpoint is kept for others to go on from.
    """

    grace: float = math.inf
    turns: tuple[int, ...] = ()

    def report(self, number: int, epoch: int, score: float, league: str = "") -> bool:
        """Record the score of a trial after an epoch (from 1; more is better); return whether to stop the trial.

        Trials are compared within a league: one that reads a weak modality alone is worth its end when it is the best
        of those that do, for what it adds to others.
        """
        return False


class Asha(Scheduler):
    """Asynchronous successive halving, stopping variant (Li et al., 2020).

    At each rung a trial goes on when its score is within the best 1/eta of the scores that were seen there before.
    The first trials at a rung go on: of fewer than eta there is no best third.

    Args:
        epochs: epochs of a full training.
        grace: epoch of the first rung; None places the rungs by the length of a training, see `rungs`.
        eta: factor between rungs; a share of 1 - 1/eta is stopped at each.
        skip: so many of the first rungs are left out.
    """

    def __init__(self, epochs: int, *, grace: int | None = None, eta: float = 3.0, skip: int = 0) -> None:
        if eta <= 1 or (grace is not None and grace < 1):
            raise ConfigError(f"asha needs eta > 1 and grace >= 1, got {eta=}, {grace=}")
        self.eta = eta
        self.rungs = rungs(epochs, grace, eta)[skip:]
        self.grace = min(self.rungs, default=math.inf)
        self._scores: dict[tuple[str, int], dict[int, float]] = {}

    def report(self, number: int, epoch: int, score: float, league: str = "") -> bool:
        """Record the score if the epoch is a rung; stop the trial if it is not among the best there."""
        if epoch not in self.rungs:
            return False
        seen = self._scores.setdefault((league, epoch), {})
        return _behind(seen, number, score, worst=1 - 1 / self.eta, least=self.eta)


class Hyperband(Scheduler):
    """Asynchronous Hyperband (Li et al., 2018, 2020): brackets of `Asha` that begin to stop at different rungs.

    With k rungs there are k + 1 brackets; bracket s has the last s rungs, so that the last one stops nobody. Trials
    fill the brackets by their number, ceil((k + 1) / (s + 1) * eta^s) in each, the most severe first, then again:
    which bracket a trial is in needs no memory.
    """

    def __init__(self, epochs: int, *, grace: int | None = None, eta: float = 3.0) -> None:
        depth = len(rungs(epochs, grace, eta))
        self.brackets = [Asha(epochs, grace=grace, eta=eta, skip=skip) for skip in range(depth + 1)]
        self.grace = self.brackets[0].grace
        sizes = [math.ceil((depth + 1) / (rung + 1) * eta**rung) for rung in range(depth, -1, -1)]
        self._turns = [bracket for bracket, size in zip(self.brackets, sizes, strict=True) for _ in range(size)]

    def bracket(self, number: int) -> Asha:
        """Return the bracket of a trial."""
        return self._turns[number % len(self._turns)]

    def report(self, number: int, epoch: int, score: float, league: str = "") -> bool:
        """Stop the trial if its bracket does."""
        return self.bracket(number).report(number, epoch, score, league)


class Median(Scheduler):
    """The median stopping rule (Golovin et al., 2017).

    A trial is stopped when the best score that it had is below the median of what other trials had on average, from
    the grace epoch to the present one. Those that did not come as far do not count, and there must be three others.

    Args:
        epochs: epochs of a full training.
        grace: None stands for a third of a training, see `rungs` for why.
    """

    OTHERS = 3

    def __init__(self, epochs: int, *, grace: int | None = None) -> None:
        if grace is not None and grace < 1:
            raise ConfigError(f"median needs grace >= 1, got {grace=}")
        self.grace: int = max(2, round(epochs / 3)) if grace is None else grace
        self._last = epochs
        self._scores: dict[int, dict[int, float]] = {}
        self._means: dict[tuple[str, int], list[tuple[float, int]]] = {}  # by league and epoch: (mean, trial), sorted

    def report(self, number: int, epoch: int, score: float, league: str = "") -> bool:
        """Record the score; stop the trial if its best is below the others' median."""
        own = self._scores.setdefault(number, {})
        if not math.isnan(score):
            own.setdefault(epoch, score)
        if not self.grace <= epoch < self._last:
            return False
        means = self._means.setdefault((league, epoch), [])
        place, others = len(means), len(means)
        if not math.isnan(score):
            entry = (fmean(value for at, value in own.items() if self.grace <= at <= epoch), number)
            place = bisect_left(means, entry)
            if means[place : place + 1] != [entry]:
                means.insert(place, entry)
            others = len(means) - 1
        if others < self.OTHERS:
            return False
        middle = ((others - 1) // 2, others // 2)
        median = sum(means[at + (at >= place)][0] for at in middle) / 2
        return max((value for at, value in own.items() if at <= epoch), default=-math.inf) < median


class PopulationBasedTraining(Scheduler):
    """Truncation in population based training (Jaderberg et al., 2017), at five turns of a training.

    A trial whose score after a turn is in the worst quarter of those that were seen there is stopped; in its place
    one of the best quarter is trained on with other parameters, see `pbt.PbtQueue`. The first three trials at a
    turn go on.

    Args:
        epochs: epochs of a full training.
    """

    SEEN, QUARTER = 4, 0.25
    KEPT = 5  # of the best at a turn, their checkpoints may be gone on from

    def __init__(self, epochs: int) -> None:
        step = max(1, round(epochs / 5))
        self.turns = tuple(range(step, epochs - step + 1, step))
        self.grace = min(self.turns, default=math.inf)
        self._scores: dict[int, dict[int, float]] = {turn: {} for turn in self.turns}

    def report(self, number: int, epoch: int, score: float, league: str = "") -> bool:
        """Record the score if the epoch is a turn; stop the trial if it is among the worst there, of all leagues."""
        return _behind(self._scores.get(epoch), number, score, worst=self.QUARTER, least=self.SEEN)

    def best(self, turn: int) -> list[int]:
        """Return the trials with the best scores at a turn, the best first, `KEPT` at most; none at another epoch."""
        scores = self._defined(turn)
        return sorted(scores, key=lambda trial: (-scores[trial], trial))[: self.KEPT]

    def elite(self, turn: int) -> list[int]:
        """Return those of the best that are within the best quarter."""
        return self.best(turn)[: math.ceil(self.QUARTER * len(self._defined(turn)))]

    def _defined(self, turn: int) -> dict[int, float]:
        return {trial: score for trial, score in self._scores.get(turn, {}).items() if not math.isnan(score)}


def _behind(scores: dict[int, float] | None, number: int, score: float, *, worst: float, least: float) -> bool:
    """Put a trial's score among those of an epoch, {trial: score}; return whether it is among the worst of them.

    Args:
        scores: None where trials are not compared after that epoch.
        worst: share of the scores that counts as worst; an undefined score is below every other.
        least: trials, this one included, below which none is.
    """
    if scores is None:
        return False
    own = scores.setdefault(number, score)
    others = [other for trial, other in scores.items() if trial != number and not math.isnan(other)]
    if len(others) + 1 < least:
        return False
    return math.isnan(own) or own < float(np.percentile(others, 100 * worst))


def rungs(epochs: int, grace: int | None = None, eta: float = 3.0) -> tuple[int, ...]:
    """Return the epochs at which trials are compared.

    Without `grace` they stand at epochs/eta, epochs/eta^2, ...; one for a short training, one more for each factor
    of sqrt(eta) in length above 15 epochs, but none before the second epoch. The learning rate is annealed over a
    training, so that what tells good from bad is its stage, not a number of epochs: of 18 trainings of 10 epochs on
    IDC, the rank correlation between the validation AUROC after epoch k and in the end was .1 for k = 2, .4 for
    k = 4 and .6 for k = 6.
    With `grace` they stand at grace, grace * eta, ..., without the one that would save less than a third.

    >>> rungs(8), rungs(20), rungs(52), rungs(300)
    ((3,), (7,), (2, 6, 17), (4, 11, 33, 100))
    >>> rungs(52, grace=2), rungs(20, grace=2), rungs(2)
    ((2, 6, 18), (2, 6), ())
    """
    if grace is None:
        depth = 1 + max(0, math.floor(2 * math.log(epochs / SHORT, eta)))
        result = [round(epochs / eta**k) for k in range(depth, 0, -1)]
    else:
        result = [round(grace * eta**k) for k in range(64) if round(grace * eta**k) <= epochs * 2 / 3]
    return tuple(rung for rung in result if rung >= (2 if grace is None else 1))


SCHEDULERS: dict[str, Callable[[int], Scheduler]] = {
    "asha": Asha,
    "hyperband": Hyperband,
    "median": Median,
    "pbt": PopulationBasedTraining,
    "none": lambda epochs: Scheduler(),
}
"""Name -> builder from the epochs of a full training."""


def build_scheduler(name: str, epochs: int) -> Scheduler:
    """Build a scheduler by name.

    Raises:
        ConfigError: there is none of that name; the nearest is offered.
    """
    if name not in SCHEDULERS:
        raise ConfigError(f"unknown scheduler {name!r}. {suggest(name, SCHEDULERS)}")
    return SCHEDULERS[name](epochs)
