"""One contract for every sampler: the default first, never a repeat, only what may be seen, fair to every option."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from histotune.core.config import TrialConfig
from histotune.errors import ConfigError
from histotune.space import Condition, Space, _branches, read_space
from histotune.space._nodes import Choice, Constant, Fixed, Group, Node, Switch
from histotune.tuning import proposer as sampler_module
from histotune.tuning.journal import CONFIG
from histotune.tuning.proposer import EXPLORED, MIN_DRAWS, Proposal, Proposer, explored
from histotune.tuning.samplers import SAMPLERS, check_sampler
from histotune.tuning.schedulers import build_scheduler

FLAT = {
    "dataset": "synthetic",
    "batch_size": {"choice": [16, 32, 64]},
    "optimizer": {
        "learning_rate": {"low": 0.001, "high": 0.009, "step": 0.002},
        "momentum": {"low": 0.5, "high": 0.9, "step": 0.1},
        "weight_decay": {"low": 0.0, "high": 0.3, "step": 0.1, "default": 0.1},
    },
}
CONDITIONAL = FLAT | {
    "loss": {
        "choice": {
            "cross_entropy": {"label_smoothing": {"low": 0.0, "high": 0.2, "step": 0.1}},
            "focal": {"gamma": {"low": 0.5, "high": 2.0, "step": 0.5}, "beta": {"choice": [0.0, 0.9]}},
        }
    }
}
SPACES = {"flat": read_space(FLAT, "flat"), "conditional": read_space(CONDITIONAL, "conditional")}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def score(config: Mapping[str, Any]) -> float:
    """A made-up result, best inside the space."""
    optimizer = config["optimizer"]
    away = 100 * optimizer["learning_rate"] - 0.6, optimizer["momentum"] - 0.7, optimizer["weight_decay"] - 0.12
    return -sum(distance**2 for distance in away)


class Search:
    """Asks a proposer and tells it made-up results, with a history as the journal would keep it."""

    def __init__(self, space: Space, sampler: str, *, seed: int = 0, history: list[FrozenTrial] | None = None) -> None:
        self.history = list(history or [])
        self.digests = {trial.user_attrs["digest"] for trial in self.history}
        self.proposer = Proposer(space, sampler, seed=seed, maximize=True, history=self.history)

    def step(self, *, hide: bool = False) -> Proposal | None:
        proposal = self.proposer.propose(self.digests.__contains__)
        if proposal is None:
            return None
        number = len(self.history)
        self.proposer.running(number)
        self.digests.add(proposal.digest)
        value = None if hide else score(proposal.config)
        trial = create_trial(
            state=TrialState.FAIL if hide else TrialState.COMPLETE,
            value=value,
            params=dict(proposal.params),
            distributions=dict(proposal.distributions),
            user_attrs={CONFIG: proposal.config, "digest": proposal.digest},
        )
        trial.number = number
        self.history.append(trial)
        self.proposer.ended(number, value)
        return proposal

    def steps(self, count: int) -> list[Proposal]:
        """Hide every third trial, as a scheduler would."""
        result = (self.step(hide=number % 3 == 2) for number in range(count))
        return [proposal for proposal in result if proposal is not None]


# The contract


@every_sampler
@every_space
def test_the_default_comes_first_and_nothing_repeats_or_leaves_the_space(sampler: str, space: Space) -> None:
    proposals = Search(space, sampler).steps(25)
    assert proposals[0].config == TrialConfig.from_dict(space.default()).to_dict()
    assert len({proposal.digest for proposal in proposals}) == 25
    assert all(space.accepts(proposal.params) for proposal in proposals)


@every_sampler
@every_space
def test_the_same_seed_proposes_the_same(sampler: str, space: Space) -> None:
    first, second = (Search(space, sampler, seed=3).steps(15) for _ in range(2))
    assert [proposal.digest for proposal in first] == [proposal.digest for proposal in second]


@every_sampler
@every_space
def test_a_continued_search_proposes_nothing_a_second_time(sampler: str, space: Space) -> None:
    first = Search(space, sampler)
    first.steps(12)
    second = Search(space, sampler, history=first.history)
    assert len(second.steps(10)) == 10
    assert len(second.digests) == 22


@every_sampler
@every_space
def test_hidden_trials_are_not_in_the_samplers_study(sampler: str, space: Space) -> None:
    first = Search(space, sampler)
    first.steps(12)
    for search in (first, Search(space, sampler, history=first.history)):
        seen = search.proposer._seen.get_trials(states=[TrialState.COMPLETE, TrialState.RUNNING])
        assert Counter(trial.value for trial in seen) == Counter(
            trial.value for trial in first.history if trial.state == TrialState.COMPLETE
        )


@every_sampler
def test_two_at_once_are_two(sampler: str) -> None:
    proposer = Proposer(SPACES["conditional"], sampler, seed=0, maximize=True)
    digests: set[str] = set()
    for number in range(12):
        proposal = proposer.propose(digests.__contains__)
        assert proposal is not None
        digests.add(proposal.digest)
        proposer.running(number)
        if number > 3:
            proposer.ended(number - 4, score(proposal.config))
    assert len(digests) == 12


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_samplers_that_learn_find_better_than_random_ones(sampler: str) -> None:
    space = read_space(
        {
            "dataset": "synthetic",
            "optimizer": {
                "learning_rate": {"low": 1e-4, "high": 1e-2},
                "momentum": {"low": 0.0, "high": 0.95},
                "weight_decay": {"low": 0.0, "high": 0.3},
            },
        },
        "smooth",
    )
    learnt, drawn = ([score(p.config) for p in Search(space, name).steps(36)[24:]] for name in (sampler, "random"))
    assert sum(learnt) > 0.7 * sum(drawn)  # losses: at most .7 of those of random draws


def test_of_many_trials_the_sampler_sees_the_best_the_latest_and_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "memory", lambda name: 10)
    search = Search(SPACES["conditional"], "random")
    running = search.proposer.propose(lambda digest: False)
    assert running is not None
    search.proposer.running(10_000)
    for number in range(100):
        search.step(hide=number % 5 == 4)
        values = [trial.value for trial in search.history if trial.value is not None]
        seen = search.proposer._seen.get_trials(deepcopy=False)
        assert len(seen) <= 40
        complete = [trial.value for trial in seen if trial.state == TrialState.COMPLETE]
        assert {*sorted(values)[-10:], *values[-10:]} <= set(complete)
    search.proposer.ended(10_000, 7.5)
    assert search.proposer._seen.best_trial.params == running.params
    continued = Search(SPACES["conditional"], "random", history=search.history).proposer._seen.get_trials()
    assert {trial.value for trial in continued} == {*sorted(values)[-10:], *values[-10:]}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_sampler_that_forgets_goes_on(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "memory", lambda name: 3)
    assert len(Search(SPACES["conditional"], sampler).steps(16)) == 16


# The grid


def combinations(space: Space) -> list[dict[str, Any]]:
    return list(space.combinations())


def test_the_grid_holds_every_combination_once() -> None:
    result = combinations(SPACES["conditional"])
    assert len(result) == 3 * 5 * 5 * 4 * (3 + 4 * 2)
    assert len({tuple(sorted(values.items())) for values in result}) == len(result)
    assert all(SPACES["conditional"].accepts(values) for values in result)


def test_a_grid_ends_and_a_continued_one_holds_the_rest() -> None:
    space = read_space({"dataset": "synthetic", "loss": CONDITIONAL["loss"]}, "small")
    first = Search(space, "grid")
    first.steps(5)
    second = Search(space, "grid", history=first.history)
    assert len(second.steps(100)) == 3 + 4 * 2 - 5
    assert second.step() is None
    assert len(second.digests) == 3 + 4 * 2


def test_every_beginning_of_a_grid_is_spread_over_the_space() -> None:
    space = SPACES["conditional"]
    for path in ("batch_size", "optimizer.learning_rate", "loss"):
        counts = Counter(values[path] for values in itertools.islice(space.combinations(), 60))
        assert max(counts.values()) <= 3 * min(counts.values())


@pytest.mark.parametrize("range_", [{"low": 1e-4, "high": 1e-2, "log": True}, {"low": 1e-4, "high": 1e-2}])
def test_a_grid_over_a_range_without_steps_is_refused_with_its_path(range_: dict[str, Any]) -> None:
    space = read_space({"dataset": "synthetic", "optimizer": {"learning_rate": range_}}, "endless")
    with pytest.raises(ConfigError, match=r"endless: optimizer\.learning_rate: .*'step'.*--choices optimizer\.learn"):
        check_sampler("grid", space)
    check_sampler("random", space)


def test_cmaes_is_refused_for_several_metrics() -> None:
    check_sampler("cmaes", SPACES["flat"])
    with pytest.raises(ConfigError, match="improves one metric"):
        check_sampler("cmaes", SPACES["flat"], 2)


def test_whole_numbers_stay_whole_in_a_grid() -> None:
    space = read_space({"dataset": "synthetic", "patience": {"low": 1, "high": 7, "step": 3}}, "whole")
    assert sorted(values["patience"] for values in combinations(space)) == [1, 4, 7]
    assert all(type(values["patience"]) is int for values in combinations(space))


# Fair branches


def switch(draw: st.DrawFn, path: str, depth: int) -> Switch:
    """A switch with one to three options, some of which hold a switch of their own."""
    options = {}
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)):
        children: dict[str, Node] = {"name": Constant(path, name)}
        if draw(st.booleans()):
            children["value"] = Choice(f"{path}.{name}.value", tuple(range(draw(st.integers(1, 4)))), 0, "")
        if depth and draw(st.booleans()):
            children["inner"] = switch(draw, f"{path}.{name}.inner", depth - 1)
        options[name] = Group(children)
    return Switch(path, options, next(iter(options)), "")


@st.composite
def nested_spaces(draw: st.DrawFn) -> Space:
    """Spaces of made-up losses, perhaps with made-up fusions, that hold switches in switches."""
    nodes: dict[str, Node] = {"loss": switch(draw, "loss", 2)}
    if draw(st.booleans()):
        nodes["model"] = Group({"fusion": switch(draw, "model.fusion", 1)})
    return dataclasses.replace(SPACES["flat"], _tree=Group(nodes))


def room(space: Space) -> Counter[Condition]:
    """Count the configurations that each branch holds."""
    return Counter(
        branch for values in space.combinations() for branch in space.branches_of(space.suggest(Fixed(values)))
    )


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(space=nested_spaces(), data=st.data())
def test_every_option_is_proposed_a_few_times_whatever_became_of_its_trials(space: Space, data: st.DataObject) -> None:
    limit = min(sum(1 for _ in space.combinations()), MIN_DRAWS * len(space.branches()))
    search = Search(space, "random")
    for _ in range(limit):
        if data.draw(st.sampled_from([False, False, False, True]), label="interrupted"):
            search = Search(space, "random", history=search.history)
        search.step(hide=data.draw(st.booleans(), label="hidden"))
    assert len(search.digests) == limit
    drawn = Counter(b for trial in search.history for b in space.branches_of(trial.user_attrs[CONFIG]))
    held = room(space)
    assert set(held) == set(space.branches())
    assert all(drawn[branch] >= min(MIN_DRAWS, held[branch]) for branch in held)


def test_an_option_of_many_that_are_always_stopped_is_proposed_with_the_others() -> None:
    space = read_space(
        {
            "dataset": "synthetic",
            "loss": {"choice": {"cross_entropy": {}, "focal": {"gamma": {"low": 0.5, "high": 5.0}}}},
            "model": {"branches": {"image": {"backbone": {"choice": ["alexnet", "alexnet32", "timm/resnet18"]}}}},
            "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
        },
        "tests",
    )
    search = Search(space, "tpe")
    proposals = [search.step(hide=number % 2 == 1) for number in range(3 * MIN_DRAWS + 1)]
    drawn = Counter(branch for p in proposals if p is not None for branch in space.branches_of(p.config))
    assert len(drawn) == 2 + 3
    assert min(drawn.values()) >= MIN_DRAWS


def test_a_space_without_conditions_is_left_to_the_sampler() -> None:
    assert SPACES["flat"].branches() == []
    proposer = Proposer(SPACES["flat"], "tpe", seed=0, maximize=True)
    proposer.propose(lambda digest: False)
    assert next(iter(proposer._attempts())) == (proposer._sampler, {})


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(space=nested_spaces(), data=st.data())
def test_shares_of_a_switch_add_up_to_the_trials_that_came_to_it(space: Space, data: st.DataObject) -> None:
    every = [space.suggest(Fixed(values)) for values in space.combinations()]
    configs = data.draw(st.lists(st.sampled_from(every), max_size=12))
    shares = _branches.shares(space._tree, configs)
    assert len(shares) == len(space.branches())
    for path in {share.path for share in shares}:
        own = [share for share in shares if share.path == path]
        assert sum(share.share for share in own) == pytest.approx(1 if any(share.trials for share in own) else 0)
    assert sum(share.trials for share in shares if share.path == "loss") == len(configs)


# --- a share of chance


def test_chance_makes_its_share_of_the_proposals_where_it_is_cheap() -> None:
    space = read_space(
        {"dataset": "synthetic", "optimizer": {"learning_rate": {"low": 1e-6, "high": 1.0, "log": True}}}, "wide"
    )

    def far(share: float, seed: int) -> int:
        """Count proposals far from the only good place, once the sampler knows it."""
        proposer, seen = Proposer(space, "tpe", seed=seed, maximize=True, explored=share), set[str]()
        away = []
        for number in range(60):
            proposal = proposer.propose(seen.__contains__)
            assert proposal is not None
            seen.add(proposal.digest)
            proposer.running(number)
            away.append(abs(math.log10(proposal.params["optimizer.learning_rate"]) + 3))
            proposer.ended(number, -away[-1])
        return sum(distance > 1.5 for distance in away[20:])

    without, with_chance = (sum(far(share, seed) for seed in range(3)) for share in (0.0, EXPLORED))
    assert without < 15
    assert with_chance - without == pytest.approx(120 * EXPLORED / 2, abs=10), "half of the space is far away"


def test_chance_has_no_share_where_it_would_cost_a_training() -> None:
    asha = build_scheduler("asha", 20)
    assert explored(asha, 4) == EXPLORED
    assert explored(asha, 1) == explored(build_scheduler("none", 20), 4) == 0.0
    assert explored(build_scheduler("asha", 2), 4) == 0.0, "a training too short for a rung"
