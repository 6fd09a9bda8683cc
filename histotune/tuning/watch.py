"""Who has been silent for too long: a pure decision on times, without clock, process or file."""

from __future__ import annotations

import math

from histotune.errors import ConfigError

LEAST, TIMES = 600.0, 10.0  # seconds, and multiples of the longest wait for an epoch so far, that are never a hang
LOOK = 30.0  # seconds between two looks that count at most: who was away himself cannot say who was silent


class Watch:
    """Measures how long running trials have been silent.

    A trial is silent from its worker's last word, or from the last epoch that it reported. Silence is added up between
    two looks, and a gap between looks counts 30 s at most, so that a clock that jumps, a driver that was suspended or
    a mirror that was slow accuses nobody.

    Args:
        limit: seconds of silence that are too long; None goes by what was seen, ten times the longest wait for an
            epoch so far and at least ten minutes; 0 never accuses.
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

    def heard(self, number: int, *, epoch: bool = False) -> None:
        """Hear that the trial's worker is alive; `epoch` says that it brought one."""
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
