"""The samplers by name: Optuna's own, set up for small conditional studies, and the grid."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from threadpoolctl import threadpool_limits

from histotune.errors import ConfigError, suggest
from histotune.space import Space

STARTUP_TRIALS, CANDIDATES = 5, 64
GRID = "grid"


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


class _OneThreadGP(GPSampler):
    """Optuna's sampler without threads of its own: a hundred points need none, and the processors are the trials'."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with threadpool_limits(1):
            return super().sample_relative(study, trial, search_space)


def _gp(seed: int) -> BaseSampler:
    """Gaussian process over the parameters that every trial has; TPE proposes those of a single option."""
    logging.getLogger("optuna._gp").setLevel(logging.ERROR)  # it warns whenever it is sure of its optimum
    return _OneThreadGP(
        seed=seed,
        n_startup_trials=STARTUP_TRIALS,
        independent_sampler=TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
        warn_independent_sampling=False,
    )


def _cmaes(seed: int) -> BaseSampler:
    """CMA-ES over the numbers that every trial has; TPE proposes choices and what only one option has.

    A continued search begins its own distribution anew, from the middle of the space: the journal keeps none.
    """
    return CmaEsSampler(
        seed=seed,
        independent_sampler=TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
        warn_independent_sampling=False,
    )


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "random": _random,
    GRID: _random,  # the space lists its combinations, so that nothing is left to sample
}
"""Name -> builder from a seed."""


def build_sampler(name: str, seed: int) -> BaseSampler:
    """Build a sampler by name.

    Raises:
        ConfigError: there is none of that name; the nearest is offered.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"unknown sampler {name!r}. {suggest(name, SAMPLERS)}")
    return SAMPLERS[name](seed)


def draws(name: str) -> int:
    """Return how often a sampler is asked again when it repeats a configuration, before a random draw replaces it."""
    return 2 if name == "gp" else 20  # a Gaussian process without new results proposes the same again, slowly


def memory(name: str) -> int:
    """Return how many of the best, and of the latest, complete trials a sampler is shown."""
    return 50 if name == "gp" else 250  # what a Gaussian process computes grows with the cube of the trials


def check_sampler(name: str, space: Space, metrics: int = 1) -> None:
    """Check that a sampler exists and can propose from a space, for that many metrics.

    Raises:
        ConfigError: an unknown name, a grid over a range without a step, or CMA-ES for several metrics.
    """
    build_sampler(name, 0)
    if name == "cmaes" and metrics > 1:
        raise ConfigError("sampler 'cmaes' improves one metric: choose tpe, gp or random for several, or one --metric")
    if name == GRID:
        space.combinations()
