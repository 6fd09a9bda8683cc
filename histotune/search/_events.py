"""What goes into a search and what comes out of it: budget, resources, events, summary."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from histotune.errors import ConfigError
from histotune.store import TrialRecord

DEFAULT_TRIALS = 20
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# Why a search came to its end.
TRIALS, TIME, INTERRUPTED, FAILURES, EXHAUSTED = "trials", "time", "interrupted", "failures", "exhausted"


class Listener(Protocol):
    """Hears of a search from within the driver process; what it raises ends its hearing, never the search."""

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear that trial `number` runs, for the first time or again after an interruption."""

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Hear of an epoch (from 1) of trial `number`."""

    def ended(self, record: TrialRecord) -> None:
        """Hear that a trial ended: complete, stopped by the scheduler, or failed."""


@dataclass(frozen=True)
class Budget:
    """When a search is over.

    Args:
        trials: ended trials that the study shall have in all, those of earlier searches included.
        seconds: time of this search; what then runs is left to be resumed.
    """

    trials: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse a search that would never end, or never begin."""
        if self.trials is None and self.seconds is None:
            raise ConfigError("a search needs an end: give a number of trials, a time, or both")
        if self.trials is not None and self.trials < 1:
            raise ConfigError(f"trials must be at least 1, got {self.trials}")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ConfigError(f"time must be a positive number of seconds, got {self.seconds}")

    @classmethod
    def of(cls, *, trials: int | None = None, time: str | float | None = None) -> Budget:
        """Read a budget as a user writes it; 20 trials where nothing is given.

        >>> Budget.of(time="1.5h")
        Budget(trials=None, seconds=5400.0)
        """
        if trials is None and time is None:
            return cls(DEFAULT_TRIALS)
        return cls(trials, None if time is None else _seconds(time))


@dataclass(frozen=True)
class Resources:
    """What one trial takes of this machine.

    Args:
        cpus_per_trial: CPUs, and threads, of one trial.
        gpus_per_trial: GPUs of one trial; a fraction shares a GPU, 0 trains on the CPU, None takes one where there are.
        max_concurrent: trials at once; None runs as many as fit.
    """

    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None

    def check(self, nodes: Sequence[tuple[float, float]] | None = None) -> int:
        """Return how many trials run at once.

        Args:
            nodes: (CPUs, GPUs) of every node of a cluster; None asks this machine.

        Raises:
            ConfigError: more is asked than there is; with the numbers.
        """
        there = [(available_cpus(), available_gpus())] if nodes is None else nodes
        where = "this machine has" if nodes is None else f"the cluster's {len(nodes)} nodes have"
        if self.cpus_per_trial <= 0 or self.gpus < 0:
            raise ConfigError(f"a trial needs more than 0 CPUs and at least 0 GPUs, got {self}")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ConfigError(f"max_concurrent must be at least 1, got {self.max_concurrent}")
        at_once, fit = self.max_concurrent or 1, sum(self._fit(*node) for node in there)
        for place, what, each in ((0, "CPUs", self.cpus_per_trial), (1, "GPUs", self.gpus)):
            has = [node[place] for node in there]
            if each * at_once > sum(has) + 1e-9 or each > max(has) + 1e-9:
                asked = f"{each:g} {what} per trial" + (f" x {at_once} trials at once" if at_once > 1 else "")
                numbers = " + ".join(f"{number:g}" for number in has)
                raise ConfigError(f"{asked} asked, but {where} {numbers} {what}; ask for less")
        if at_once > fit:
            raise ConfigError(f"{at_once} trials at once asked, but only {fit} fit: {where} {there} (CPUs, GPUs)")
        return self.max_concurrent or fit

    def on(self, nodes: Sequence[tuple[float, float]]) -> Resources:
        """Return the resources on a cluster: a trial takes a GPU where nothing is said and a node has one."""
        default = float(any(gpus >= 1 for _, gpus in nodes))
        return replace(self, gpus_per_trial=default if self.gpus_per_trial is None else self.gpus_per_trial)

    def _fit(self, cpus: float, gpus: float) -> int:
        fit = [cpus / self.cpus_per_trial] + ([gpus / self.gpus] if self.gpus else [])
        return math.floor(min(fit) + 1e-9)

    @property
    def gpus(self) -> float:
        """GPUs of one trial."""
        return float(available_gpus() > 0) if self.gpus_per_trial is None else self.gpus_per_trial

    @property
    def threads(self) -> int:
        """CPU threads of one trial."""
        return max(1, round(self.cpus_per_trial))


@dataclass(frozen=True)
class Summary:
    """How a search ended.

    Attributes:
        reason: `trials`, `time`, `interrupted`, `failures` or `exhausted`.
        message: the reason as a sentence for a person.
        ended: trials of the study that have ended, in all searches.
        complete, stopped, failed: those that this search ended, by state.
        unfinished: trials that the next search of the study takes up again.
        seconds: duration of this search.
        notes: what else a person should know, such as a listener that failed.
    """

    reason: str
    message: str
    ended: int
    complete: int
    stopped: int
    failed: int
    unfinished: int
    seconds: float
    notes: tuple[str, ...] = ()


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def available_gpus() -> int:
    """Return how many GPUs this process may use.

    `HISTOTUNE_LOGICAL_GPUS` is for tests of placement on a machine that has none.
    """
    if logical := os.environ.get("HISTOTUNE_LOGICAL_GPUS"):
        return int(logical)
    import torch

    return torch.cuda.device_count()


def _seconds(time: str | float) -> float:
    if isinstance(time, (int, float)):
        return float(time)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smhd]?)\s*", time)
    if not found:
        raise ConfigError(f"time {time!r}: expected seconds, or a number with s, m, h or d, such as 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2] or "s"]
