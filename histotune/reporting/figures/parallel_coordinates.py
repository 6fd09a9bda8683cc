"""The best trials as lines through their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval
from histotune.errors import StudyError, suggest
from histotune.metrics.scores import in_words
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._parameters import ParameterColumn, column, labels, nothing_differs, tried, upwards
from histotune.studies.leaderboard import components

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from typing import TYPE_CHECKING, Any

from histotune.reporting.figures._losses import short

ALL = "all"
SCALE = [[0.0, "#a9b4c0"], [0.5, "#4b8fc4"], [1.0, "#d55e00"]]  # from the weakest drawn to the best
_LETTERS = 11  # of an option beside its axis
_FAN = 0.02  # of an axis, to which the lines through one option spread


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
    columns: tuple[ParameterColumn, ...]
    loss: str
    trials: int
    about: str


class ParallelCoordinates(Figure[Parallel]):
    """Every axis is a parameter that all drawn trials have: those that all losses share, or those of one loss, too."""

    def __init__(self, loss: str, top: int) -> None:
        self._loss, self._top = loss, top

    def compute(self, source: FigureSource) -> Parallel:
        """Take the best complete trials."""
        result = tried(source)
        names = np.array([components(line)[0] for line in result.lines])
        rows = np.flatnonzero(result.complete & ~np.isnan(result.scores))
        rows = rows if self._loss == ALL else rows[names[rows] == self._loss]
        if not len(rows):
            raise StudyError(
                f"study {source.settings.name!r} has no complete trial of loss {self._loss!r}. "
                f"{suggest(self._loss, [ALL, *sorted(set(names.tolist()))])}"
            )
        best = rows[np.argsort(-upwards(source, result.scores[rows]), kind="stable")][: self._top]
        values = [result.values[row] for row in best]
        short = labels([one.path for one in source.space.parameters()])
        columns = [column(one, short[one.path], values) for one in source.space.parameters()]
        shown = tuple(one for one in columns if not np.isnan(one.values).any() and one.varies)
        if not shown:
            raise StudyError(nothing_differs(source, len(best)))
        return Parallel(
            source.settings.metric,
            result.numbers[best],
            result.scores[best],
            shown,
            self._loss,
            len(rows),
            source.scored_on(),
        )

    def draw(self, numbers: Parallel) -> PlotlyFigure:
        """Draw a line for every trial, the best in front."""
        metric = in_words(numbers.metric)
        traces, layout, height = lines_through(numbers, metric)
        whose = "" if numbers.loss == ALL else f" of loss {numbers.loss}"
        caption = (
            f"The best {len(numbers.numbers):,} of {counted(numbers.trials, 'complete trial')}{whose}, one line "
            "each, the best in front. An axis is a parameter that all of these trials have and that differs between "
            f"them, from the lowest value to the highest. Scored on {numbers.about}."
        )
        title = f"Parallel coordinates of the best trials by validation {metric}"
        return _style.figure(title, caption, traces, layout, height=height, above=10)


@FIGURES.register("parallel_coordinates", ranges={"top": Interval(2, 200, whole=True)})
def parallel_coordinates(*, loss: str = ALL, top: int = 40) -> ParallelCoordinates:
    """The `top` best trials as lines through their parameters; with `loss` a name, those of that loss, too."""
    return ParallelCoordinates(loss, top)


def lines_through(numbers: Parallel, metric: str) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels; the last axis is the metric."""
    last = ParameterColumn(metric, metric, False, (), numbers.scores)
    columns = [*numbers.columns, last]
    places = np.stack([_places(one) for one in columns], axis=1)  # [n, axes], 0 to 1
    ranks = np.linspace(1.0, 0.0, len(numbers.scores)) if len(numbers.scores) > 1 else np.ones(1)
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [*range(len(columns))],
            "y": _style.small(places[at], 4),
            "line": {"color": _color(float(ranks[at])), "width": 3 if at == 0 else 1.5},
            "opacity": 1.0 if at == 0 else 0.7,
            "name": f"trial {numbers.numbers[at]}",
            "text": _hover(columns, at),
            "showlegend": False,
            "hovertemplate": f"%{{text}}<extra>trial {numbers.numbers[at]}: {numbers.scores[at]:.4f}</extra>",
        }
        for at in range(len(numbers.scores) - 1, -1, -1)
    ]
    layout = {
        "xaxis": {
            "tickvals": [*range(len(columns))],
            "ticktext": [_style.text(short(one.label)) for one in columns],
            "tickangle": -35,
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            "range": [-0.5, len(columns) - 0.5],
            "ticks": "",
            "showline": False,
            "ticklabeloverflow": "allow",
        },
        "yaxis": {"visible": False, "range": [-0.09, 1.09]},
        "annotations": [note for at, one in enumerate(columns) for note in _ends(one, at)],
        "shapes": [
            {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"color": _style.MUTED, "width": 1}}
            for at in range(len(columns))
        ],
    }
    return traces, layout, 440


def _places(one: ParameterColumn) -> np.ndarray:
    """Return where values lie on their axis, 0 to 1; a choice's options are equally far apart."""
    values = np.log(one.values) if one.log else one.values
    low, high = (0.0, len(one.options) - 1.0) if one.options else (float(values.min()), float(values.max()))
    placed: np.ndarray = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    ranks = np.linspace(_FAN, -_FAN, len(values))  # lines through one option do not overlap, the best on top
    return placed + ranks if one.options else placed


def _ends(one: ParameterColumn, at: int) -> list[dict[str, Any]]:
    """Write the ends of an axis of numbers, and every option of a choice."""
    last = len(one.options) - 1
    marks = [(place / max(last, 1), option) for place, option in enumerate(one.options)]
    marks = marks or [(0.0, f"{one.values.min():.3g}"), (1.0, f"{one.values.max():.3g}")]
    notes = []
    for y, name in marks:
        beyond = {0.0: {"yanchor": "top", "yshift": -7}, 1.0: {"yanchor": "bottom", "yshift": 7}}
        where = beyond.get(y, {"xanchor": "left", "xshift": 4})
        notes.append(
            {
                "x": at,
                "y": y,
                "text": _style.text(short(name, _LETTERS)),
                "showarrow": False,
                "font": {"size": 10},
                **where,
            }
        )
    return notes


def _hover(columns: list[ParameterColumn], at: int) -> list[str]:
    values = [one.options[int(one.values[at])] if one.options else f"{one.values[at]:.4g}" for one in columns]
    return [_style.text(f"{one.label} {value}") for one, value in zip(columns, values, strict=True)]


def _color(rank: float) -> str:
    """Mix the colour of a place between the weakest, 0, and the best, 1."""
    (_, low), (_, high) = SCALE[:2] if rank < 0.5 else SCALE[1:]
    share = rank * 2 if rank < 0.5 else rank * 2 - 1
    parts = [(int(str(low)[k : k + 2], 16), int(str(high)[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in parts)
