"""What goes into a search and what comes out of it: resources, events, summary."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from histotune.errors import ConfigError
from histotune.store import TrialRecord

# Why a search came to its end before its budget was spent.
INTERRUPTED, FAILURES, EXHAUSTED = "interrupted", "failures", "exhausted"


class Listener(Protocol):
    """Hears of a search from within the driver process; what it raises ends its hearing, never the search."""

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear that trial `number` runs, for the first time or again after an interruption."""

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Hear of an epoch (from 1) of trial `number`."""

    def ended(self, record: TrialRecord) -> None:
        """Hear that a trial ended: complete, stopped by the scheduler, or failed."""


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

    def check(self) -> int:
        """Return how many trials run at once.

        Raises:
            ConfigError: more is asked than there is; with the numbers.
        """
        cpus, gpus = available_cpus(), available_gpus()
        if self.cpus_per_trial <= 0 or self.gpus < 0:
            raise ConfigError(f"a trial needs more than 0 CPUs and at least 0 GPUs, got {self}")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ConfigError(f"max_concurrent must be at least 1, got {self.max_concurrent}")
        at_once = self.max_concurrent or 1
        for what, each, there in (("CPUs", self.cpus_per_trial, cpus), ("GPUs", self.gpus, gpus)):
            if each * at_once > there + 1e-9:
                asked = f"{each:g} {what} per trial" + (f" x {at_once} trials at once" if at_once > 1 else "")
                raise ConfigError(f"{asked} asked, but this machine has {there} {what}; ask for less")
        if self.max_concurrent is not None:
            return self.max_concurrent
        fit = [cpus / self.cpus_per_trial] + ([gpus / self.gpus] if self.gpus else [])
        return max(1, math.floor(min(fit) + 1e-9))

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
        reason: `trials`, `time`, `epochs`, `patience`, `interrupted`, `failures` or `exhausted`.
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
    """Return how many GPUs this process may use."""
    import torch

    return torch.cuda.device_count()
