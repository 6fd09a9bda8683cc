"""What goes into a search and what comes out of it: resources, events, summary."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from histotune.errors import ConfigError
from histotune.storage.records import TrialRecord

# Why a search came to its end before its budget was spent.
INTERRUPTED, FAILURES, EXHAUSTED = "interrupted", "failures", "exhausted"
CAUGHT = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 5.0  # seconds in which a search ends by itself; a signal after that is raised


class Listener(Protocol):
    """Is called with the events of a search, in the driver process; one that raises is not called again."""

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        """Trial `number` runs, for the first time or again after an interruption."""

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Trial `number` has finished an epoch (from 1)."""

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended: complete, stopped by the scheduler, or failed."""


@dataclass(frozen=True)
class Resources:
    """Resources of one trial.

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
                raise ConfigError(f"{asked} requested, but {where} {numbers} {what}; request less")
        if at_once > fit:
            raise ConfigError(f"{at_once} trials at once requested, but only {fit} fit: {where} {there} (CPUs, GPUs)")
        return self.max_concurrent or fit

    def on(self, nodes: Sequence[tuple[float, float]]) -> Resources:
        """Return the resources on a cluster: a trial takes a GPU by default where a node has one."""
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
class SearchSummary:
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
    """Return how many GPUs this process may use.

    `HISTOTUNE_LOGICAL_GPUS` is for tests of placement on a machine that has none.
    """
    if logical := os.environ.get("HISTOTUNE_LOGICAL_GPUS"):
        return int(logical)
    import torch

    return torch.cuda.device_count()


class Signals:
    """Signals that came since `caught` began."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._first = 0.0

    def install(self) -> None:
        """Catch from now on, also after a library put its own handlers; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in CAUGHT:
                signal.signal(number, self._receive)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catch signals for a while; afterwards they go where they went before."""
        before = {number: signal.getsignal(number) for number in CAUGHT}
        self.install()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and time.monotonic() - self._first > PATIENCE:
            raise KeyboardInterrupt
        self._first = self._first or time.monotonic()
        self.received.append(number)
