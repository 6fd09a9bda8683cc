"""When a search is over: the budgets a user gives, and what the study has spent of them; pure and replayable."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

from histotune.errors import ConfigError

DEFAULT_TRIALS = 20
STARTUP = 5  # trials that a sampler draws at random before it learns: patience does not judge it by them
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

TRIALS, TIME, EPOCHS, PATIENCE = "trials", "time", "epochs", "patience"  # why a search ended: a budget is spent


@dataclass
class Ledger:
    """What a study has spent, all its searches together; built again from the journal when a search goes on.

    Attributes:
        ended: ended trials: complete, stopped and failed.
        trained: epochs of all trials; an epoch that is trained again after a crash counts once.
        best: the best score of a complete trial (more is better), -inf before the first.
        best_at: how many trials had ended when the best one had, it included.
    """

    ended: int = 0
    trained: int = 0
    best: float = -math.inf
    best_at: int = 0
    _reached: dict[int, int] = field(default_factory=dict)  # trial -> its last epoch

    def train(self, number: int, epoch: int) -> None:
        """Record an epoch (from 1) of a trial."""
        before = self._reached.get(number, 0)
        self._reached[number] = max(before, epoch)
        self.trained += self._reached[number] - before

    def inherit(self, number: int, epochs: int) -> None:
        """Record that a trial begins with epochs that another one trained: they are not spent twice."""
        self._reached[number] = epochs

    def end(self, number: int, epochs: int, score: float | None) -> None:
        """Record the end of a trial; a stopped or failed one has no score. A tie with the best is no gain."""
        self.train(number, epochs)
        self.ended += 1
        if score is not None and score > self.best:
            self.best, self.best_at = score, self.ended

    @property
    def since_best(self) -> int:
        """Trials that have ended since the best one had."""
        return self.ended - self.best_at


@dataclass(frozen=True)
class Budget:
    """When a search is over; of several budgets the one that is spent first ends it.

    Args:
        trials: ended trials that the study shall have in all, those of earlier searches included.
        seconds: time of this search; what then runs is left to be resumed.
        epochs: epochs of training of the study in all, those of stopped and failed trials included; what then runs is
            left to be resumed.
        patience: the search ends when none of the last `patience` ended trials was better than the best complete one
            before them. Stopped and failed trials count: a search that brings nothing but those has come to its end,
            too. It never ends so before `patience` trials and those of the sampler's start-up have ended. No new trial
            begins then, what runs is trained to its end; should it be better, the search goes on.
    """

    trials: int | None = None
    seconds: float | None = None
    epochs: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        """Refuse a search that would never end, or never begin."""
        counts = {"trials": self.trials, "epochs_total": self.epochs, "patience": self.patience}
        if self.seconds is None and all(count is None for count in counts.values()):
            raise ConfigError("a search needs an end: give trials, a time, epochs_total or patience, or several")
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ConfigError(f"{name} must be at least 1, got {count}")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ConfigError(f"time must be a positive number of seconds, got {self.seconds}")

    @classmethod
    def of(
        cls,
        *,
        trials: int | None = None,
        time: str | float | None = None,
        epochs_total: int | None = None,
        patience: int | None = None,
    ) -> Budget:
        """Read a budget as a user writes it; 20 trials where nothing is given.

        >>> Budget.of(time="1.5h").seconds
        5400.0
        """
        if trials is None and time is None and epochs_total is None and patience is None:
            return cls(DEFAULT_TRIALS)
        return cls(trials, None if time is None else _seconds(time), epochs_total, patience)

    def after(self, seconds: float) -> Budget:
        """Return what is left when some of the time has gone by already."""
        return self if self.seconds is None else replace(self, seconds=max(1e-3, self.seconds - seconds))

    def full(self, ended: int) -> bool:
        """Whether the budget of trials is spent."""
        return self.trials is not None and ended >= self.trials

    def stale(self, ledger: Ledger) -> bool:
        """Whether patience has run out."""
        if self.patience is None or ledger.ended < self.patience + STARTUP:
            return False
        return ledger.since_best >= self.patience

    def cut(self, ledger: Ledger, seconds: float) -> tuple[str, str] | None:
        """Return (reason, sentence) when the search ends now, whatever runs; `seconds` is how long it has lasted."""
        if self.seconds is not None and seconds > self.seconds:
            return TIME, f"the time limit of {self.seconds:g} s is reached"
        if self.epochs is not None and ledger.trained >= self.epochs:
            return EPOCHS, f"{ledger.trained} epochs of {self.epochs} have been trained"
        return None

    def enough(self, ledger: Ledger) -> tuple[str, str] | None:
        """Return (reason, sentence) when the search ends as soon as nothing runs."""
        if self.full(ledger.ended):
            return TRIALS, f"{ledger.ended} trials have ended"
        if self.stale(ledger):
            return PATIENCE, f"none of the last {ledger.since_best} trials was better than the best before them"
        return None

    def spent(self, ledger: Ledger, seconds: float) -> str:
        """Return how much of each budget is spent, as text.

        >>> Budget(20, epochs=600, patience=10).spent(Ledger(ended=7, trained=27, best_at=3), 0)
        '7/20 trials, 27/600 epochs, 4/10 trials without a better one'
        """
        parts = [f"{ledger.ended}/{self.trials} trials" if self.trials else f"{ledger.ended} trials"]
        if self.epochs:
            parts.append(f"{ledger.trained}/{self.epochs} epochs")
        if self.seconds:
            parts.append(f"{_clock(seconds)}/{_clock(self.seconds)}")
        if self.patience:
            parts.append(f"{ledger.since_best}/{self.patience} trials without a better one")
        return ", ".join(parts)


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _seconds(time: str | float) -> float:
    if isinstance(time, (int, float)):
        return float(time)
    result = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smhd]?)\s*", time)
    if not result:
        raise ConfigError(f"time {time!r}: expected seconds, or a number with s, m, h or d, such as 90s, 30m or 2h")
    return float(result[1]) * _UNITS[result[2] or "s"]
