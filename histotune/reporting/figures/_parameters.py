"""The parameters of a search as columns: where each trial lies in the space, and how an axis shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FigureSource
from histotune.reporting.figures._losses import short
from histotune.space import Condition, Range, SearchParameter
from histotune.storage.study_folder import COMPLETE, STOPPED
from histotune.studies.leaderboard import LeaderboardLine

_LETTERS = 40  # of the names of options under a panel


@dataclass(frozen=True)
class ParameterColumn:
    """One parameter over n trials.

    Attributes:
        name: of the parameter; `label`: its shortest end that no other one shares.
        log: whether the space searches it on a logarithmic scale.
        options: of a choice, in the space's order; none for numbers.
        values: float64 [n], of a choice the option's place; NaN where a trial has no such parameter.
    """

    name: str
    label: str
    log: bool
    options: tuple[str, ...]
    values: np.ndarray

    @property
    def varies(self) -> bool:
        """Whether trials differ in it."""
        return len(np.unique(self.values[~np.isnan(self.values)])) > 1

    def scale(self) -> dict[str, Any]:
        """Describe the axis of its values."""
        if self.options:
            room = max(5, _LETTERS // len(self.options))
            names = [short(one, room) for one in self.options]
            ticks = {"tickvals": [*range(len(names))], "ticktext": [_style.text(one) for one in names], "tickangle": 0}
            return {**ticks, "range": [-0.5, len(names) - 0.5]}
        known = self.values[~np.isnan(self.values)]
        if self.log and len(known):
            ticks = {"tickvals": (values := _decades(float(known.min()), float(known.max())))}
            return {**ticks, "type": "log", "ticktext": [f"{value:g}" for value in values]}
        return {"nticks": 5}


@dataclass(frozen=True)
class Tried:
    """Complete and stopped trials of a study, and where in the space they lie.

    Attributes:
        lines: the trials, by number.
        values: {parameter name: value} of each.
        scores: float64 [n].
        complete: bool [n]; the others were stopped.
    """

    lines: tuple[LeaderboardLine, ...]
    values: tuple[Mapping[str, Any], ...]
    scores: np.ndarray
    complete: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """Of the trials, int64 [n]."""
        return np.array([line.record.number for line in self.lines], dtype=np.int64)

    def within(self, condition: Condition) -> np.ndarray:
        """Return which trials lie in a branch of the space, bool [n]."""
        return np.array([all(each.get(path) == option for path, option in condition) for each in self.values], bool)


def tried(source: FigureSource) -> Tried:
    """Read the complete and stopped trials.

    Raises:
        StudyError: there are none, or the space leaves nothing to search.
    """
    metric, space = source.settings.metric, source.settings.space
    lines = [line for line in source.trials() if line.record.state in (COMPLETE, STOPPED)]
    lines = [line for line in lines if metric in line.record.metrics]
    if not space or not source.space.parameters():
        raise StudyError(f"the space of study {source.settings.name!r} searches no parameter: nothing to compare")
    return Tried(
        lines=tuple(lines),
        values=tuple(source.space.values_of(line.record.config()) for line in lines),
        scores=np.array([line.record.metrics[metric] for line in lines], dtype=np.float64),
        complete=np.array([line.record.state == COMPLETE for line in lines], bool),
    )


def column(parameter: SearchParameter, label: str, values: Sequence[Mapping[str, Any]]) -> ParameterColumn:
    """Gather one parameter of n trials; a value that is no option of the space is missing."""
    path = parameter.path
    if isinstance(parameter, Range):
        numbers = [float(each.get(path, np.nan)) for each in values]
        return ParameterColumn(path, label, parameter.log, (), np.array(numbers, dtype=np.float64))
    places = {str(option): float(at) for at, option in enumerate(parameter.values())}
    result = [places.get(str(each[path]), np.nan) if path in each else np.nan for each in values]
    return ParameterColumn(path, label, False, tuple(places), np.array(result, dtype=np.float64))


def labels(names: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each dotted name that no other shares.

    >>> labels(["optimizer.learning_rate", "loss.cfal.beta", "loss.focal.beta", "loss"])
    {'optimizer.learning_rate': 'learning_rate', 'loss.cfal.beta': 'cfal.beta', 'loss.focal.beta': 'focal.beta', \
'loss': 'loss'}
    """
    ends = {name: [".".join(name.split(".")[at:]) for at in range(name.count("."), -1, -1)] for name in names}
    every = [end for each in ends.values() for end in each]
    return {name: next((end for end in each if every.count(end) == 1), name) for name, each in ends.items()}


def nothing_differs(source: FigureSource, trials: int) -> str:
    """Return why there is nothing to compare."""
    return f"{trials} trials of study {source.settings.name!r} do not differ in any parameter: continue the search"


def upwards(source: FigureSource, scores: np.ndarray) -> np.ndarray:
    """Return scores of which more is better."""
    better: np.ndarray = metrics.direction(source.settings.metric) * scores
    return better


def _decades(low: float, high: float) -> list[float]:
    """Return at most six round values of a logarithmic axis, powers of ten where there are enough.

    >>> _decades(0.0005, 0.008), _decades(1e-5, 1.0)
    ([0.0005, 0.001, 0.002, 0.005], [1e-05, 0.0001, 0.001, 0.01, 0.1, 1.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        result = [float(f"{step}e{power}") for power in powers for step in steps]
        result = [value for value in result if 0.97 * low <= value <= 1.03 * high]
        if len(result) >= 3:
            break
    return result[:: -(-len(result) // 6)]
