"""What follows when a worker dies or a trial fails: again, on record, or the end of the search; and who hangs."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from histotune.errors import ConfigError, TrialFailed
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import FAILED
from histotune.training import memory

STARTS = 3  # of a trial whose worker dies under it; the last death is its result
STILLBIRTHS = 5  # workers in a row that die before they begin: it is not the trial's fault, and will not get better
FAILURES_IN_A_ROW = 5
LEAST, TIMES = 600.0, 10.0  # seconds, and multiples of the longest wait for an epoch so far, that are never a hang
LOOK = 30.0  # seconds that a gap between two looks counts at most: the driver may have been suspended itself


class FailurePolicy:
    """Counts deaths by trial, stillbirths and failures in a row, and watches who is silent.

    Args:
        deaths: {number: how often its worker died} in earlier searches.
        watch: finds trials that hang.

    Attributes:
        end: why the search cannot go on, as a sentence; "" while it can.
    """

    def __init__(self, deaths: Counter[int], watch: HangDetector) -> None:
        self.end = ""
        self._deaths, self._watch = deaths, watch
        self._begun: set[int] = set()
        self._hung: set[int] = set()
        self._stillborn = 0
        self._row = ("", 0)  # kind of the latest failures, and how many in a row

    def begun(self, number: int) -> None:
        """Record that a worker is ready for a trial: if it dies from now on, the trial may have killed it."""
        if number not in self._begun:
            self._watch.record(number)
        self._begun.add(number)
        self._stillborn = 0

    def epoch(self, number: int) -> None:
        """Record that a trial finished an epoch."""
        self._watch.record(number, epoch=True)

    def gone(self, number: int) -> None:
        """Record that a trial no longer runs."""
        self._watch.forget(number)

    def hanging(self, now: float) -> list[int]:
        """Return the trials that have been silent for too long, each once."""
        hung = self._watch.look(now)
        self._hung.update(hung)
        return hung

    def deaths(self, number: int) -> int:
        """Return how often a trial's worker died under it."""
        return self._deaths[number]

    def died(self, number: int, folder: Path, reason: str, *, starved: bool) -> TrialFailed | None:
        """Decide what follows when the worker of a trial is gone: None to start it again, else what to record.

        Args:
            folder: the trial's.
            starved: the worker was killed for want of memory.
        """
        if number not in self._begun:
            self._stillborn += 1
            if self._stillborn >= STILLBIRTHS:
                self.end = f"{STILLBIRTHS} workers in a row died before they began: {reason}"
            return None
        self._begun.discard(number)
        hung = number in self._hung
        self._hung.discard(number)
        if starved and not hung:
            return memory.verdict(folder, TrialFailed(memory.OUT_OF_MEMORY, reason))
        self._deaths[number] += 1
        if self._deaths[number] < STARTS:
            return None
        if hung:
            reason = f"no epoch for {self._watch.limit:.0f} s, so it was killed"
        how_often = f"its worker died {self._deaths[number]} times, the last time: {reason}"
        return TrialFailed("hung" if hung else "killed", how_often)

    def count(self, record: TrialRecord, *, fits: bool = False) -> None:
        """Record how a trial ended: too many failures of a kind in a row are the end.

        Infeasible trials are not, where it `fits`, that is where some trial of the study fits into memory or may do:
        the sampler learns from them where the boundary is.
        """
        kind, times = self._row
        if record.state != FAILED:
            self._row = ("", 0)
            return
        self._row = (record.kind, times + 1 if record.kind == kind else 1)
        if self._row[1] >= FAILURES_IN_A_ROW and not (fits and record.kind == memory.INFEASIBLE):
            self.end = f"{FAILURES_IN_A_ROW} trials in a row failed with {record.kind}: {record.reason}"


class HangDetector:
    """Measures how long running trials have been silent.

    A trial is silent since its worker started, or since the last epoch that it reported. Silence is added up between
    two looks, and a gap between looks counts 30 s at most, so that a clock that jumps, a driver that was suspended or
    a slow mirror makes no trial count as hung.

    Args:
        limit: seconds of silence that are too long; None goes by what was seen, ten times the longest wait for an
            epoch so far and at least ten minutes; 0 means never.
        longest: the longest epoch of earlier searches, seconds.
    """

    def __init__(self, limit: float | None = None, *, longest: float = 0.0) -> None:
        if limit is not None and not 0 <= limit < math.inf:
            raise ConfigError(f"trial_timeout must be a number of seconds, or 0 for never, got {limit}")
        self._given, self._longest = limit, longest
        self._silence: dict[int, float] = {}
        self._looked: float | None = None

    @property
    def limit(self) -> float:
        """Seconds of silence after which a trial hangs."""
        if self._given is None:
            return max(LEAST, TIMES * self._longest)
        return self._given or math.inf

    def record(self, number: int, *, epoch: bool = False) -> None:
        """Record that the trial's worker is alive; `epoch`: that it has finished one."""
        if epoch:
            self._longest = max(self._longest, self._silence.get(number, 0.0))
        self._silence[number] = 0.0

    def forget(self, number: int) -> None:
        """Watch the trial no more."""
        self._silence.pop(number, None)

    def look(self, now: float) -> list[int]:
        """Look at the clock, which may jump, and return the trials that hang; each is named once."""
        passed = 0.0 if self._looked is None else min(max(0.0, now - self._looked), LOOK)
        self._looked = now
        for number in self._silence:
            self._silence[number] += passed
        hung = [number for number, silence in self._silence.items() if silence > self.limit]
        for number in hung:
            self.forget(number)
        return hung
