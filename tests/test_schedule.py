"""Who is stopped early: as Ray's own asynchronous successive halving would, at rungs that fit the training."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers.async_hyperband import _Bracket

from histotune.errors import ConfigError
from histotune.search.samplers import build_sampler
from histotune.search.schedule import Asha, Scheduler, build_scheduler, rungs


@pytest.mark.parametrize(("epochs", "expected"), [(2, ()), (6, (2,)), (20, (7,)), (52, (6, 17)), (300, (11, 33, 100))])
def test_rungs_follow_the_length_of_a_training(epochs: int, expected: tuple[int, ...]) -> None:
    assert Asha(epochs).rungs == expected


@pytest.mark.parametrize("seed", range(10))
def test_asha_decides_as_rays_does_once_there_are_three(seed: int) -> None:
    rng, ours, theirs = np.random.default_rng(seed), Asha(52, grace=2), _Bracket(2, 52, 3, 0)
    peers: Counter[int] = Counter()
    for number in range(40):
        level = rng.normal()
        for epoch in range(1, 52):
            score = level - 1 / epoch + 0.1 * rng.normal()
            decision = ours.report(number, epoch, score)
            expected = theirs.on_result(SimpleNamespace(trial_id=str(number)), epoch, score) == "STOP"
            assert decision == (expected and peers[epoch] >= 2)
            peers[epoch] += 1
            if decision:
                break


def test_an_epoch_that_is_heard_again_counts_once() -> None:
    once, twice = Asha(20, grace=2), Asha(20, grace=2)
    for number, score in enumerate([0.5, 0.9, 0.1, 0.7, 0.95, 0.2]):
        first = once.report(number, 2, score)
        assert [twice.report(number, 2, score) for _ in range(3)] == [first] * 3


def test_an_undefined_score_is_the_worst() -> None:
    asha = Asha(20, grace=2)
    assert not any(asha.report(number, 2, score) for number, score in enumerate([float("nan"), 0.1, 0.2]))
    assert asha.report(3, 2, float("nan"))
    assert not asha.report(4, 2, 0.3)


def test_the_first_trials_at_a_rung_go_on() -> None:
    asha = Asha(20, grace=2)
    assert [asha.report(number, 2, score) for number, score in enumerate([0.9, 0.1, 0.2])] == [False, False, True]


def test_unknown_schedulers_and_samplers_offer_the_known() -> None:
    with pytest.raises(ConfigError, match="Known: asha, none"):
        build_scheduler("ahsa", 3)
    with pytest.raises(ConfigError, match="Did you mean 'tpe'"):
        build_sampler("tpee", 0)


def test_no_scheduler_never_stops() -> None:
    assert not Scheduler().report(3, 2, -1.0)
    assert rungs(1) == rungs(1, grace=2) == ()
