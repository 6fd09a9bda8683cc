"""Who hangs is decided on what was seen: waits, not clocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from histotune.errors import ConfigError
from histotune.tuning.failures import LEAST, TIMES, HangDetector


def looks(watch: HangDetector, seconds: float, *, start: float = 0.0, every: float = 1.0) -> list[int]:
    """Look once in a while, for as long, and return who was accused."""
    return [number for now in np.arange(start, start + seconds + every / 2, every) for number in watch.look(float(now))]


def test_who_is_silent_for_longer_than_the_limit_hangs_once() -> None:
    watch = HangDetector(60.0)
    watch.record(3)
    assert looks(watch, 60) == []
    assert looks(watch, 600, start=61) == [3]


def test_every_epoch_begins_a_new_wait() -> None:
    watch = HangDetector(60.0)
    for start in range(0, 500, 50):
        watch.record(0, epoch=True)
        assert looks(watch, 50, start=start) == []


def test_the_limit_grows_with_the_longest_epoch() -> None:
    watch = HangDetector()
    watch.record(0)
    assert watch.limit == LEAST
    looks(watch, 500)
    watch.record(0, epoch=True)
    assert watch.limit == TIMES * 500
    assert HangDetector(longest=100.0).limit == TIMES * 100


@pytest.mark.parametrize("jump", [1e9, 3600.0, -3600.0, -1e9])
def test_a_clock_that_jumps_accuses_nobody(jump: float) -> None:
    watch = HangDetector(60.0)
    watch.record(0)
    assert looks(watch, 20) == []
    assert looks(watch, 8, start=20 + jump) == []
    assert looks(watch, 100, start=29 + jump) == [0], "and the wait goes on"


def test_zero_waits_for_ever() -> None:
    watch = HangDetector(0)
    watch.record(0)
    assert looks(watch, 1e6, every=30.0) == []


@pytest.mark.parametrize("wrong", [-1.0, math.inf, math.nan])
def test_a_limit_that_is_no_time_is_refused(wrong: float) -> None:
    with pytest.raises(ConfigError, match="trial_timeout"):
        HangDetector(wrong)
