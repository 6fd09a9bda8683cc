"""The metric against every parameter of the space, one panel each, by loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.format import counted
from histotune.errors import StudyError, suggest
from histotune.metrics.scores import in_words
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._parameters import ParameterColumn, column, labels, nothing_differs, tried, upwards
from histotune.studies.leaderboard import components

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from typing import TYPE_CHECKING, Any

from histotune.reporting.figures._select import panel_title

if TYPE_CHECKING:
    from histotune.reporting.figures._parameters import ParameterColumn


ALL = "all"
_MOST = 800  # trials that are drawn
_BEST = 200  # of them
_COLUMNS, _ROW = 2, 165  # panels side by side, pixels
_JITTER = 0.18  # of the distance between two options, so that trials of one option do not hide each other


@dataclass(frozen=True)
class Slices:
    """Trials by the values of each parameter.

    Attributes:
        metric: the study's.
        numbers: int64 [n], of the trials; `scores`: float64; `complete`: bool, the others were stopped.
        losses: names, by how often they were tried; `loss`: int64 [n] into it.
        columns: parameters that take several values, those of all trials first.
        trials: complete and stopped ones, drawn or not.
        about: on how many cases of which study.
    """

    metric: str
    numbers: np.ndarray
    scores: np.ndarray
    complete: np.ndarray
    losses: tuple[str, ...]
    loss: np.ndarray
    columns: tuple[ParameterColumn, ...]
    trials: int
    about: str


class ParameterSlices(Figure[Slices]):
    """Trials by each parameter alone; joint effects of several parameters are not shown."""

    def __init__(self, loss: str) -> None:
        self._loss = loss

    def compute(self, source: FigureSource) -> Slices:
        """Place the trials, the best and an even sample of a large study's."""
        result = tried(source)
        names = np.array([components(line)[0] for line in result.lines])
        rows = np.arange(len(names)) if self._loss == ALL else np.flatnonzero(names == self._loss)
        if not len(rows):
            raise StudyError(
                f"study {source.settings.name!r} has no trial of loss {self._loss!r}. "
                f"{suggest(self._loss, [ALL, *sorted(set(names.tolist()))])}"
            )
        kept = rows[sampled(upwards(source, result.scores[rows]), result.complete[rows])]
        values = [result.values[row] for row in kept]
        short = labels([one.path for one in source.space.parameters()])
        shared = set[str].intersection(*({*each} for each in values))
        ordered = sorted(source.space.parameters(), key=lambda one: one.path not in shared)
        columns = [column(one, short[one.path], values) for one in ordered]
        shown = tuple(one for one in columns if one.varies)
        if not shown:
            raise StudyError(nothing_differs(source, len(rows)))
        losses, loss = np.unique(names[kept], return_inverse=True)
        order = np.argsort(-np.bincount(loss), kind="stable")
        return Slices(
            metric=source.settings.metric,
            numbers=result.numbers[kept],
            scores=result.scores[kept],
            complete=result.complete[kept],
            losses=tuple(losses[order].tolist()),
            loss=np.argsort(order)[loss],
            columns=shown,
            trials=len(rows),
            about=source.scored_on(),
        )

    def draw(self, numbers: Slices) -> PlotlyFigure:
        """Draw small panels in two columns."""
        metric = in_words(numbers.metric)
        traces, layout, height = panels(numbers, metric)
        drawn = f"{len(numbers.numbers):,} of {counted(numbers.trials, 'trial')}"
        caption = (
            f"{drawn}, one mark each: coloured if complete, small and grey if stopped early. Parameters of one loss or "
            "network are shown for the trials that have them. The sampler tries promising regions more often, so many "
            "marks in a region are no evidence for it, and a panel does not separate the effects of other parameters. "
            f"Scored on {numbers.about}."
        )
        below = 24 + 24 * -(-(len(numbers.losses) + 1) // 3)
        title = f"Validation {metric} by parameter"
        return _style.figure(title, caption, traces, layout, height=height + below, above=24, below=below)


@FIGURES.register("parameter_slices")
def parameter_slices(*, loss: str = ALL) -> ParameterSlices:
    """Validation metric against each parameter that was searched, by loss; `loss` is all or a name."""
    return ParameterSlices(loss)


def sampled(scores: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """Return at most `_MOST` rows in their order: the best complete ones, and of the rest an even sample."""
    if len(scores) <= _MOST:
        return np.arange(len(scores))
    ranked = np.argsort(-np.where(complete, np.nan_to_num(scores, nan=-np.inf), -np.inf), kind="stable")
    rest = np.sort(ranked[_BEST:])
    even = rest[np.linspace(0, len(rest) - 1, _MOST - _BEST).round().astype(np.int64)]
    return np.sort(np.concatenate([ranked[:_BEST], even]))


def panels(numbers: Slices, metric: str) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels."""
    rows = -(-len(numbers.columns) // _COLUMNS)
    layout: dict[str, Any] = {
        "grid": {"rows": rows, "columns": _COLUMNS, "pattern": "independent", "xgap": 0.16, "ygap": 0.42},
        "annotations": [],
        "legend": {
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "itemsizing": "constant",
        },
    }
    low, high = _limits(numbers)
    traces: list[dict[str, Any]] = []
    for number, one in enumerate(numbers.columns, 1):
        suffix = "" if number == 1 else str(number)
        layout[f"xaxis{suffix}"] = _style.axis("", **one.scale(), tickfont={"size": 10.5})
        layout[f"yaxis{suffix}"] = _style.axis("", range=[low, high], nticks=5, tickfont={"size": 10.5})
        place = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain"}
        layout["annotations"].append(panel_title(f"<b>{_style.text(one.label)}</b>", place))
        traces += _marks(numbers, one, {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}, low)
    shown = set[str]()
    for trace in traces:  # a loss stands in the legend once, though not every panel has it
        trace["showlegend"] = trace["legendgroup"] not in shown
        shown.add(trace["legendgroup"])
    layout["yaxis"]["title"] = {"text": metric, "standoff": 4, "font": {"size": 11}}
    return traces, layout, _ROW * rows + 20


def _limits(numbers: Slices) -> tuple[float, float]:
    """Choose an axis over the complete trials and what lies near them; stopped ones below stand at its end."""
    scores = numbers.scores[numbers.complete & ~np.isnan(numbers.scores)]
    scores = scores if len(scores) else numbers.scores[~np.isnan(numbers.scores)]
    low, high = float(scores.min()), float(scores.max())
    room = max(0.08 * (high - low), 1e-3)
    return low - 4 * room, high + room


def _marks(numbers: Slices, one: ParameterColumn, axes: dict[str, str], low: float) -> list[dict[str, Any]]:
    """Draw stopped trials first, then complete ones loss by loss."""
    there = ~np.isnan(one.values) & ~np.isnan(numbers.scores)
    shift = (numbers.numbers * 0.618034 % 1 - 0.5) * 2 * _JITTER if one.options else 0.0  # the same in every drawing
    places = one.values + shift
    groups = [("stopped", there & ~numbers.complete, {"color": _style.MUTED, "symbol": "triangle-down", "size": 4})]
    for at, loss in enumerate(numbers.losses):
        look: dict[str, Any] = {**_style.vivid(at), "size": 6}
        groups.append((loss, there & numbers.complete & (numbers.loss == at), look))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": _style.text(name),
            "legendgroup": name,
            "marker": look,
            **axes,
            "x": _style.small(places[rows], 7),
            "y": _style.small(np.maximum(numbers.scores[rows], low)),
            "customdata": numbers.numbers[rows],
            "opacity": 0.8,
            "hovertemplate": "trial %{customdata}: %{y:.4f}<extra>" + _style.text(name) + "</extra>",
        }
        for name, rows, look in groups
        if rows.any()
    ]
