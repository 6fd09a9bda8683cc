"""The best trials as lines through their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.parameters import Interval
from histotune.errors import StudyError, suggest
from histotune.metrics.scores import in_words
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, Source
from histotune.reporting.figures._parallel import lines_through
from histotune.reporting.figures._parameters import Column, column, labels, nothing_differs, tried, upwards
from histotune.studies.leaderboard import components

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

ALL = "all"


@dataclass(frozen=True)
class Parallel:
    """The best complete trials.

    Attributes:
        metric: the study's.
        numbers: int64 [n], of the trials, the best first; `scores`: float64 [n].
        columns: parameters that all of them have and that take several values, in the order of the space.
        loss: whose trials these are; `all` for whatever loss.
        trials: complete ones, drawn or not.
        about: on how many cases of which study.
    """

    metric: str
    numbers: np.ndarray
    scores: np.ndarray
    columns: tuple[Column, ...]
    loss: str
    trials: int
    about: str


class ParallelCoordinates(Figure[Parallel]):
    """Every axis is a parameter that all drawn trials have: those that all losses share, or those of one loss, too."""

    def __init__(self, loss: str, top: int) -> None:
        self._loss, self._top = loss, top

    def compute(self, source: Source) -> Parallel:
        """Take the best complete trials."""
        found = tried(source)
        names = np.array([components(line)[0] for line in found.lines])
        rows = np.flatnonzero(found.complete & ~np.isnan(found.scores))
        rows = rows if self._loss == ALL else rows[names[rows] == self._loss]
        if not len(rows):
            raise StudyError(
                f"study {source.settings.name!r} has no complete trial of loss {self._loss!r}. "
                f"{suggest(self._loss, [ALL, *sorted(set(names.tolist()))])}"
            )
        best = rows[np.argsort(-upwards(source, found.scores[rows]), kind="stable")][: self._top]
        values = [found.values[row] for row in best]
        short = labels([one.path for one in source.space.parameters()])
        columns = [column(one, short[one.path], values) for one in source.space.parameters()]
        shown = tuple(one for one in columns if not np.isnan(one.values).any() and one.varies)
        if not shown:
            raise StudyError(nothing_differs(source, len(best)))
        return Parallel(
            source.settings.metric, found.numbers[best], found.scores[best], shown, self._loss, len(rows),
            source.scored_on(),
        )  # fmt: skip

    def draw(self, numbers: Parallel) -> PlotlyFigure:
        """Draw a line for every trial, the best in front."""
        metric = in_words(numbers.metric)
        traces, layout, height = lines_through(numbers, metric)
        whose = "" if numbers.loss == ALL else f" of loss {numbers.loss}"
        caption = (
            f"The best {len(numbers.numbers):,} of {_style.counted(numbers.trials, 'complete trial')}{whose}, a line "
            "each, the best in front. An axis is a parameter that all of them have and that differs among them, from "
            f"its lowest value drawn to its highest. Scored on {numbers.about}."
        )
        title = f"Parallel coordinates: the best trials by validation {metric}"
        return _style.figure(title, caption, traces, layout, height=height, above=10)


@FIGURES.register("parallel_coordinates", ranges={"top": Interval(2, 200, whole=True)})
def parallel_coordinates(*, loss: str = ALL, top: int = 40) -> ParallelCoordinates:
    """The `top` best trials as lines through their parameters; with `loss` a name, those of that loss, too."""
    return ParallelCoordinates(loss, top)
