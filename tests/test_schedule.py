"""Who is stopped early: as Ray's own asynchronous successive halving would, at rungs that fit the training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from histotune.errors import ConfigError
from histotune.search.sampler import build_sampler
from histotune.search.schedule import Asha, Scheduler, build_scheduler, rungs


@pytest.mark.parametrize(
    ("epochs", "expected"), [(2, ()), (3, (2,)), (20, (2, 6)), (52, (2, 6, 18)), (300, (11, 33, 99))]
)
def test_rungs_follow_the_length_of_a_training(epochs: int, expected: tuple[int, ...]) -> None:
    assert Asha(epochs).rungs == expected


@pytest.mark.parametrize("seed", range(10))
def test_asha_decides_as_rays_does(seed: int) -> None:
    from ray.tune.schedulers.async_hyperband import _Bracket

    rng, ours = np.random.default_rng(seed), Asha(52, grace=2)
    theirs = _Bracket(2, 52, 3, 0)
    for number in range(40):
        level = rng.normal()
        for epoch in range(1, 52):
            score = level - 1 / epoch + 0.1 * rng.normal()
            decision = theirs.on_result(SimpleNamespace(trial_id=str(number)), epoch, score) == "STOP"
            assert ours.report(number, epoch, score) == decision
            if decision:
                break


def test_an_epoch_that_is_heard_again_counts_once() -> None:
    once, twice = Asha(20), Asha(20)
    for number, score in enumerate([0.5, 0.9, 0.1, 0.7, 0.95, 0.2]):
        first = once.report(number, 2, score)
        assert [twice.report(number, 2, score) for _ in range(3)] == [first] * 3


def test_an_undefined_score_is_the_worst() -> None:
    asha = Asha(20)
    assert not asha.report(0, 2, float("nan"))
    assert not asha.report(1, 2, 0.1)
    assert asha.report(2, 2, float("nan"))


def test_unknown_schedulers_and_samplers_offer_the_known() -> None:
    with pytest.raises(ConfigError, match="Known: asha, none"):
        build_scheduler("ahsa", 3)
    with pytest.raises(ConfigError, match="Did you mean 'tpe'"):
        build_sampler("tpee", 0)


def test_no_scheduler_never_stops() -> None:
    assert not Scheduler().report(3, 2, -1.0)
    assert rungs(1, 2, 3.0) == ()
