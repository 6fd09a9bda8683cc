"""Which parameters good trials have in common: PED-ANOVA, as Optuna computes it, beside what chance would give.

Watanabe et al., 2023 (arXiv 2304.10255); for parameters that exist under an option only, Optuna's conditional form
(arXiv 2601.20800). It compares how a parameter is distributed among the best trials with how it is among all of them,
so that it needs to know of a trial whether it is among the best, and not by how much. A stopped trial can therefore
take part: it was behind others at the same epoch, and counts as one that is not among the best.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState, create_trial

from histotune.space import Range, SearchParameter

LEAST, LEAST_BEST = 12, 4  # trials that an importance needs, and complete ones among them
MOST = 250  # trials that are looked at, evenly drawn from more: a branch then takes a tenth of a second
SHARE = 0.1  # of the trials are the best ones, where that is at least `LEAST_BEST`
SHUFFLES = 19  # with the true order one of twenty is the largest by chance
_WORST = 1e9


@dataclass(frozen=True)
class Importance:
    """Of one parameter.

    Attributes:
        name: of the parameter.
        share: of the importance of all parameters, which sum to 1.
        chance: what it reached at most in `SHUFFLES` in which scores went to other trials, in the same unit; a share
            below it tells nothing. Above 1 where chance alone reaches more than all parameters together.
    """

    name: str
    share: float
    chance: float


def importances(
    parameters: Sequence[SearchParameter], values: Sequence[Mapping[str, Any]], scores: np.ndarray, *, seed: int = 0
) -> list[Importance]:
    """Return the importance of each parameter that takes several values, the largest first.

    Args:
        parameters: that are looked at; trials may lack some of them.
        values: {parameter name: value} of each trial.
        scores: float [n], more is better; NaN for a trial that was stopped, which is not among the best.

    Returns:
        Nothing where fewer than `LEAST` trials or `LEAST_BEST` complete ones are given, or where no parameter varies.
    """
    if len(values) > MOST:
        kept = np.linspace(0, len(values) - 1, MOST).round().astype(np.int64)
        values, scores = [values[at] for at in kept], scores[kept]
    complete = ~np.isnan(scores)
    varied = [one for one in parameters if len({str(each[one.path]) for each in values if one.path in each}) > 1]
    if len(values) < LEAST or complete.sum() < LEAST_BEST or not varied:
        return []
    study, names = _study(varied, values), [one.path for one in varied]
    quantile = max(SHARE, LEAST_BEST / len(values))
    losses = np.where(complete, -scores, _WORST)
    result = _divergences(study, names, losses, quantile)
    rng = np.random.default_rng(seed)
    shuffled = [_divergences(study, names, rng.permutation(losses), quantile) for _ in range(SHUFFLES)]
    total = sum(result.values())
    if not total:
        return []
    ranked = [Importance(name, result[name] / total, max(one[name] for one in shuffled) / total) for name in names]
    return sorted(ranked, key=lambda one: (-one.share, one.name))


def _study(parameters: Sequence[SearchParameter], values: Sequence[Mapping[str, Any]]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {one.path: _distribution(one, [v[one.path] for v in values if one.path in v]) for one in parameters}
    study = optuna.create_study()
    study.add_trials(
        [
            create_trial(
                state=TrialState.COMPLETE,
                value=0.0,
                params={name: each[name] for name in distributions if name in each},
                distributions={name: distributions[name] for name in distributions if name in each},
            )
            for each in values
        ]
    )
    for trial in study.get_trials(deepcopy=False):  # one object each again: comparing copies takes most of the time
        trial.distributions = {name: distributions[name] for name in trial.params}
    return study


def _divergences(study: optuna.Study, names: list[str], losses: np.ndarray, quantile: float) -> dict[str, float]:
    """Return of each parameter how far its distribution among the best trials is from that among all of them."""
    evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*computes the importances of params to achieve low")
        return evaluator.evaluate(study, names, target=lambda trial: float(losses[trial.number]))


def _distribution(parameter: SearchParameter, values: Sequence[Any]) -> BaseDistribution:
    """Describe where a parameter's values lie; population-based training may have left the space."""
    if not isinstance(parameter, Range):
        return CategoricalDistribution(list(dict.fromkeys([*parameter.values(), *values])))
    low, high = min(parameter.low, *values), max(parameter.high, *values)
    if parameter.whole:
        return IntDistribution(int(low), int(high), log=parameter.log)
    return FloatDistribution(low, high, log=parameter.log)
