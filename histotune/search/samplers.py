"""The samplers by name: Optuna's own, set up for small conditional studies."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from histotune.errors import ConfigError, suggest

STARTUP_TRIALS, CANDIDATES = 5, 64


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
