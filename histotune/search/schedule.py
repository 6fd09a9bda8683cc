"""Who is stopped early: a pure decision on reported values, without clock, process or file."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from histotune.errors import ConfigError, suggest

RUNGS = 3  # below the full training: more rungs judge earlier than a curve can tell anything


class Scheduler:
    """Never stops a trial; the base of those that do.

    An epoch that is reported again, after a crash, counts once.
    """

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Hear the score of a trial after an epoch (from 1; more is better); return whether to stop the trial."""
        return False


class Asha(Scheduler):
    """Asynchronous successive halving, stopping variant (Li et al., 2020).

    At each rung a trial goes on when its score is within the best 1/eta of the scores that were seen there before.

    Args:
        epochs: epochs of a full training.
        grace: epoch of the first rung; None takes 2, or 1/27 of long trainings.
        eta: factor between rungs, and the share that is stopped is 1 - 1/eta.
    """

    def __init__(self, epochs: int, *, grace: int | None = None, eta: float = 3.0) -> None:
        if eta <= 1 or (grace is not None and grace < 1):
            raise ConfigError(f"asha needs eta > 1 and grace >= 1, got {eta=}, {grace=}")
        self.eta = eta
        self.rungs = rungs(epochs, max(2, round(epochs / eta**RUNGS)) if grace is None else grace, eta)
        self._scores: dict[int, dict[int, float]] = {rung: {} for rung in self.rungs}

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Record the score if the epoch is a rung; stop the trial if it is not among the best there."""
        scores = self._scores.get(epoch)
        if scores is None:
            return False
        own = scores.setdefault(number, score)
        others = [other for trial, other in scores.items() if trial != number and not math.isnan(other)]
        if not others or math.isnan(own):
            return bool(others)  # an undefined score is below every other
        return own < float(np.percentile(others, 100 * (1 - 1 / self.eta)))


def rungs(epochs: int, grace: int, eta: float) -> tuple[int, ...]:
    """Return the epochs at which trials are compared; a rung that saves less than a third of a training is left out.

    >>> rungs(20, 2, 3.0), rungs(52, 2, 3.0), rungs(5, 2, 3.0), rungs(2, 2, 3.0)
    ((2, 6), (2, 6, 18), (2,), ())
    """
    found, rung = [], float(grace)
    while round(rung) <= epochs * 2 / 3:
        found.append(round(rung))
        rung *= eta
    return tuple(found)


SCHEDULERS: dict[str, Callable[[int], Scheduler]] = {"asha": Asha, "none": lambda epochs: Scheduler()}
"""Name -> builder from the epochs of a full training."""


def build_scheduler(name: str, epochs: int) -> Scheduler:
    """Build a scheduler by name.

    Raises:
        ConfigError: there is none of that name; the nearest is offered.
    """
    if name not in SCHEDULERS:
        raise ConfigError(f"unknown scheduler {name!r}. {suggest(name, SCHEDULERS)}")
    return SCHEDULERS[name](epochs)
