"""Proposals: Optuna's samplers, shown only what they may learn from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from histotune.config import TrialConfig
from histotune.errors import ConfigError, suggest
from histotune.search.start import Known, Start
from histotune.space import Space

STARTUP_TRIALS, CANDIDATES = 5, 64
DRAWS, RANDOM_DRAWS = 20, 200  # of a repeated configuration: first by the sampler, then at random


@dataclass(frozen=True)
class Proposal:
    """A configuration that was never tried, and where in the space it lies."""

    config: dict[str, Any]
    digest: str
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


class Proposer:
    """Asks a sampler for configurations over a study in memory that holds only what the sampler may see.

    It sees complete trials with their value and running ones without (so that it does not propose beside them).
    Trials that were stopped or failed, and trials from outside the present space, it does not see.

    Args:
        space: where to look.
        sampler: `tpe` or `random`.
        seed: of the sampler; the number of earlier trials is mixed in, so that a continued search draws anew.
        maximize: whether more of the metric is better.
        others: the same of further metrics; the proposals then look for a Pareto front.
        history: every trial so far.
        start: configurations that come right after the default, and trials of another study to learn from.
    """

    def __init__(
        self,
        space: Space,
        sampler: str,
        *,
        seed: int,
        maximize: bool,
        others: Sequence[bool] = (),
        history: list[FrozenTrial] | None = None,
        start: Start | None = None,
    ) -> None:
        history = history or []
        self._space = space
        self._sampler = build_sampler(sampler, _mix(seed, len(history), 0))
        self._random = RandomSampler(seed=_mix(seed, len(history), 1))
        self._seen = optuna.create_study(
            directions=["maximize" if more else "minimize" for more in (maximize, *others)], sampler=self._sampler
        )
        self._drafts: dict[int, int] = {}
        self._draft = -1
        start = start or Start()
        for known in start.known:
            self._learn(known)
        for trial in history:
            self._show(trial)
        for params in [*([] if history else [space.default_parameters()]), *start.first]:
            if space.accepts(params):
                self._seen.enqueue_trial(dict(params))

    def propose(self, known: Callable[[str], bool]) -> Proposal | None:
        """Propose a configuration whose digest is not `known`; the first of a study is the space's default.

        Returns:
            None when hundreds of draws in a row brought nothing new: the space has been tried.
        """
        for draw in range(DRAWS + RANDOM_DRAWS):
            self._seen.sampler = self._sampler if draw < DRAWS else self._random
            trial = self._seen.ask()
            config = TrialConfig.from_dict(self._space.suggest(trial))
            if not known(config.digest()):
                self._draft = trial.number
                return Proposal(config.to_dict(), config.digest(), trial.params, trial.distributions)
            self._seen.tell(trial.number, state=TrialState.FAIL)
        return None

    def running(self, number: int) -> None:
        """Hear that the last proposal runs as trial `number`."""
        self._drafts[number] = self._draft

    def ended(self, number: int, value: float | Sequence[float] | None) -> None:
        """Hear how a trial ended: with a value (one per metric) to learn from, or with None, which hides it."""
        draft = self._drafts.pop(number, None)
        if draft is None:
            return
        if value is None:
            self._seen.tell(draft, state=TrialState.FAIL)
        else:
            self._seen.tell(draft, value)

    def _learn(self, known: Known) -> None:
        """Add a trial of another study, unless the present space is a narrower one."""
        if self._space.accepts(known.params):
            replay = _Replay(known.params)
            self._space.suggest(replay)
            params, distributions = dict(known.params), replay.distributions
            self._seen.add_trial(create_trial(values=known.values, params=params, distributions=distributions))

    def _show(self, trial: FrozenTrial) -> None:
        """Add an earlier trial as it would stand if the present space had proposed it."""
        if trial.state not in (TrialState.COMPLETE, TrialState.RUNNING) or not self._space.accepts(trial.params):
            return
        replay = _Replay(trial.params)
        self._space.suggest(replay)
        complete = trial.state == TrialState.COMPLETE
        self._seen.add_trial(
            create_trial(
                state=trial.state,
                values=trial.values if complete else None,
                params=dict(trial.params),
                distributions=replay.distributions,
            )
        )
        self._drafts[trial.number] = len(self._seen.get_trials(deepcopy=False)) - 1


class _Replay:
    """Answers draws from known values and keeps the distributions that asked for them."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.distributions[name] = optuna.distributions.FloatDistribution(low, high, log=log, step=step)
        return float(self._params[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.distributions[name] = optuna.distributions.IntDistribution(low, high, log=log, step=step)
        return int(self._params[name])

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.distributions[name] = optuna.distributions.CategoricalDistribution(choices)
        return self._params[name]


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        # `group` splits a conditional space into parts that occur together; Optuna calls it experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            seed=seed,
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=STARTUP_TRIALS,
            n_ei_candidates=CANDIDATES,
        )


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "random": lambda seed: RandomSampler(seed=seed)}
"""Name -> builder from a seed."""


def build_sampler(name: str, seed: int) -> BaseSampler:
    """Build a sampler by name.

    Raises:
        ConfigError: there is none of that name; the nearest is offered.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"unknown sampler {name!r}. {suggest(name, SAMPLERS)}")
    return SAMPLERS[name](seed)


def _mix(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
