"""Who is stopped early: one contract for every scheduler, and Ray's own code as the reference for each rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from ray.tune.schedulers import MedianStoppingRule
from ray.tune.schedulers.async_hyperband import _Bracket

from histotune.errors import ConfigError
from histotune.tuning.samplers import build_sampler
from histotune.tuning.schedulers import SCHEDULERS, Asha, Hyperband, Median, Scheduler, build_scheduler, rungs

EPOCHS = 52
Heard = tuple[int, int, float]  # trial, epoch, score


@dataclass(frozen=True)
class _RaysTrial:
    """What Ray's rule asks of a trial."""

    trial_id: str


def hear(
    scheduler: Scheduler, seed: int, *, repeats: int = 1, undefined: float = 0.02
) -> tuple[list[Heard], dict[int, int]]:
    """Train made-up trials, four at once; return what was reported and {trial: epoch at which it was stopped}."""
    rng = np.random.default_rng(seed)
    level = {number: rng.normal() for number in range(60)}
    live = dict.fromkeys(range(4), 0)
    observed: list[Heard] = []
    stopped: dict[int, int] = {}
    following = iter(range(4, 60))
    while live:
        number = int(rng.choice(list(live)))
        live[number] += 1
        score = level[number] - 1 / live[number] + 0.1 * rng.normal()
        observed.append((number, live[number], float("nan") if rng.random() < undefined else score))
        stop = [scheduler.report(*observed[-1]) for _ in range(repeats)]
        assert stop == stop[:1] * repeats
        if stop[0]:
            stopped[number] = live[number]
        if stop[0] or live[number] == EPOCHS:
            del live[number]
            live |= {fresh: 0 for fresh in [next(following, None)] if fresh is not None}
    return observed, stopped


# The contract


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_that_is_heard_again_counts_once(name: str, seed: int) -> None:
    once, thrice = (hear(build_scheduler(name, EPOCHS), seed, repeats=repeats) for repeats in (1, 3))
    assert repr(once) == repr(thrice)  # NaN included


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_scheduler_that_hears_the_past_again_decides_as_if_it_had_been_there(name: str, seed: int) -> None:
    there, later = build_scheduler(name, EPOCHS), build_scheduler(name, EPOCHS)
    observed, _ = hear(there, seed)
    for number, epoch, score in sorted(observed, key=lambda row: row[:2]):  # trial by trial, and no undefined score
        if score == score:
            later.report(number, epoch, score)
    for number in range(1000, 1030):
        for epoch in range(1, EPOCHS + 1):
            score = np.sin(number) - 1 / epoch
            assert there.report(number, epoch, score) == later.report(number, epoch, score)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_stops_before_its_grace_and_nothing_at_the_end(name: str, seed: int) -> None:
    scheduler = build_scheduler(name, EPOCHS)
    _, stopped = hear(scheduler, seed)
    assert all(scheduler.grace <= epoch < EPOCHS for epoch in stopped.values())
    assert bool(stopped) == (name != "none")


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("best", range(0, 60, 7))
def test_the_best_is_never_stopped(name: str, best: int) -> None:
    scheduler = build_scheduler(name, EPOCHS)
    rng = np.random.default_rng(best)
    for number in range(60):
        level = 10.0 if number == best else rng.normal()
        for epoch in range(1, EPOCHS + 1):
            if scheduler.report(number, epoch, level - 1 / epoch):
                assert number != best
                break


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "none"])
def test_an_undefined_score_is_the_worst_and_nobody_is_measured_by_it(name: str) -> None:
    scheduler = build_scheduler(name, EPOCHS)
    nan = float("nan")
    for number, score in enumerate([nan, nan, nan, 0.1, 0.2, 0.3, 0.4]):
        assert not any(scheduler.report(number, epoch, score) for epoch in range(1, EPOCHS + 1))
    assert any(scheduler.report(7, epoch, nan) for epoch in range(1, EPOCHS + 1))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_shortest_trainings_run_to_their_end(name: str, epochs: int) -> None:
    scheduler = build_scheduler(name, epochs)
    assert not any(scheduler.report(number, epochs, -float(number)) for number in range(20))


# Each rule


@pytest.mark.parametrize(
    ("epochs", "expected"), [(2, ()), (6, (2,)), (20, (7,)), (30, (3, 10)), (52, (2, 6, 17)), (300, (4, 11, 33, 100))]
)
def test_rungs_follow_the_length_of_a_training(epochs: int, expected: tuple[int, ...]) -> None:
    assert Asha(epochs).rungs == expected


@pytest.mark.parametrize("seed", range(10))
def test_asha_decides_as_rays_does_once_there_are_three(seed: int) -> None:
    rng, ours, theirs = np.random.default_rng(seed), Asha(EPOCHS, grace=2), _Bracket(2, EPOCHS, 3, 0)
    peers: Counter[int] = Counter()
    for number in range(40):
        level = rng.normal()
        for epoch in range(1, EPOCHS):
            score = level - 1 / epoch + 0.1 * rng.normal()
            decision = ours.report(number, epoch, score)
            expected = theirs.on_result(SimpleNamespace(trial_id=str(number)), epoch, score) == "STOP"
            assert decision == (expected and peers[epoch] >= 2)
            peers[epoch] += 1
            if decision:
                break


@pytest.mark.parametrize("grace", [1, 5, 17])
@pytest.mark.parametrize("seed", range(4))
def test_median_decides_as_rays_does(seed: int, grace: int) -> None:
    theirs = MedianStoppingRule("epoch", "score", "max", grace_period=grace, min_samples_required=3)
    nobody_waits = cast(Any, SimpleNamespace(get_live_trials=list))
    trials = [cast(Any, _RaysTrial(str(number))) for number in range(60)]

    class Both(Median):
        def report(self, number: int, epoch: int, score: float, league: str = "") -> bool:
            decision = super().report(number, epoch, score)
            answer = theirs.on_trial_result(nobody_waits, trials[number], {"epoch": epoch, "score": score})
            assert decision == (epoch < EPOCHS and answer == "STOP")
            return decision

    _, stopped = hear(Both(EPOCHS, grace=grace), seed, undefined=0.0)
    assert stopped


def test_the_first_trials_at_a_rung_go_on() -> None:
    asha = Asha(20, grace=2)
    assert [asha.report(number, 2, score) for number, score in enumerate([0.9, 0.1, 0.2])] == [False, False, True]


def test_hyperbands_brackets_begin_at_different_rungs() -> None:
    hyperband = Hyperband(EPOCHS)
    assert [bracket.rungs for bracket in hyperband.brackets] == [(2, 6, 17), (6, 17), (17,), ()]
    turns = Counter(hyperband.bracket(number).grace for number in range(27 + 12 + 6 + 4))
    assert turns == {2: 27, 6: 12, 17: 6, float("inf"): 4}  # n of Li et al., 2018, for s_max = 3
    assert hyperband.bracket(49) is hyperband.bracket(0)


def test_a_bracket_of_hyperband_is_an_asha_of_its_own() -> None:
    hyperband = Hyperband(EPOCHS)
    alone = {id(bracket): Asha(EPOCHS, skip=skip) for skip, bracket in enumerate(hyperband.brackets)}
    rng = np.random.default_rng(0)
    for number in range(120):
        for epoch in (2, 6, 17):
            score = rng.normal()
            expected = alone[id(hyperband.bracket(number))].report(number, epoch, score)
            assert hyperband.report(number, epoch, score) == expected


def test_unknown_schedulers_and_samplers_offer_the_known() -> None:
    with pytest.raises(ConfigError, match="Known: asha, hyperband, median, none"):
        build_scheduler("sha-256", 3)
    with pytest.raises(ConfigError, match="Did you mean 'tpe'"):
        build_sampler("tpee", 0)


@pytest.mark.parametrize("build", [Asha, Hyperband, Median])
def test_a_grace_before_the_first_epoch_is_refused(build: Callable[..., Scheduler]) -> None:
    with pytest.raises(ConfigError, match="grace"):
        build(20, grace=0)


def test_rungs_that_would_save_nothing_are_left_out() -> None:
    assert rungs(1) == rungs(1, grace=2) == ()
