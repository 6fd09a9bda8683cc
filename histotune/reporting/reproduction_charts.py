"""How rare positives in training change what a model reaches: panels of metrics over the make-up of the training part.

No figure of a study, since every make-up is a study of its own: the caller brings the numbers to `draw`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histotune.core.format import counted
from histotune.metrics.intervals import ConfidenceInterval
from histotune.reporting import charts as _style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


_PANEL, _GAP, _LEGEND = 210, 64, 40  # pixels
_APART = 0.07  # between two rows at one make-up, of the distance to the next
_ROW, _AXES = 24, 70  # pixels
Values = Mapping[str, Sequence[tuple[float, ...]]]


@dataclass(frozen=True)
class ImbalanceCurve:
    """What rows reach, make-up by make-up.

    Attributes:
        makeups: names of the training parts, the commonest positives first.
        counts: (negatives, positives) of each.
        panels: {title of a panel: {row: its metric at each make-up}}.
        cases, patients: of the part that is measured, the same for all.
        seeds: trainings of each row.
        where: study and split, in words.
    """

    makeups: Sequence[str]
    counts: Sequence[tuple[int, int]]
    panels: Mapping[str, Mapping[str, Sequence[ConfidenceInterval]]]
    cases: int
    patients: int
    seeds: int
    where: str


def draw(curve: ImbalanceCurve) -> PlotlyFigure:
    """Draw one panel under the other, with the intervals as bars."""
    count = len(curve.panels)
    height = count * _PANEL + (count - 1) * _GAP + _LEGEND + 60
    ticks = [f"{name}<br>{n:,} : {p:,}" for name, (n, p) in zip(curve.makeups, curve.counts, strict=True)]
    layout: dict[str, Any] = {}
    traces: list[dict[str, Any]] = []
    for at, (title, rows) in enumerate(curve.panels.items()):
        number = "" if at == 0 else str(at + 1)
        top = 1 - at * (_PANEL + _GAP) / (height - _LEGEND - 60)
        bottom = max(0.0, top - _PANEL / (height - _LEGEND - 60))
        last = at == count - 1
        layout[f"xaxis{number}"] = _style.axis(
            "training part: negatives : positives" if last else "",
            anchor=f"y{number}",
            showgrid=False,
            tickvals=list(range(len(ticks))),
            ticktext=ticks,
            range=[-0.5, len(ticks) - 0.5],
        )
        layout[f"yaxis{number}"] = _style.axis(title, anchor=f"x{number}", domain=[bottom, top])
        traces += [_trace(row, place, values, number, len(rows)) for place, (row, values) in enumerate(rows.items())]
    title = "Rare positives in training: what is reached on the test part as it is"
    caption = (
        f"{counted(curve.cases, 'test case')} of {counted(curve.patients, 'patient')}, the same and "
        f"natural throughout; {curve.where}. Means over {counted(curve.seeds, 'training seed')}; bars: 95 % "
        "intervals over resampled patients and seeds; rows share the patients, so their differences are surer."
    )
    return _style.figure(title, caption, traces, layout, height=height, below=_LEGEND + 20)


def _trace(row: str, place: int, values: Sequence[ConfidenceInterval], number: str, rows: int) -> dict[str, Any]:
    shift = _APART * (place - (rows - 1) / 2)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "xaxis": f"x{number}",
        "yaxis": f"y{number}",
        "name": row,
        "legendgroup": row,
        "showlegend": number == "",
        "x": [at + shift for at in range(len(values))],
        "y": [value.value for value in values],
        "marker": {**_style.place(place), "size": 9},
        "line": {"width": 1.5},
        "hovertemplate": "%{y:.3f}",
        "error_y": {
            "type": "data",
            "array": [value.high - value.value for value in values],
            "thickness": 1,
            "arrayminus": [value.value - value.low for value in values],
            "width": 4,
        },
    }


def draw_bars(
    title: str, caption: str, rows: Sequence[str], values: Values, marked: Sequence[str] = ()
) -> PlotlyFigure:
    """Draw a point with its interval for every row, the first on top; `marked` rows in the second colour.

    Args:
        values: {name of the axis: per row (value, low, high)}.
    """
    ((name, intervals),) = values.items()
    traces: list[dict[str, Any]] = []
    for place, chosen in enumerate((False, True)):
        shown = [(row, one) for row, one in zip(rows, intervals, strict=True) if (row in marked) == chosen]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "y": [row for row, _ in shown],
                "x": [one[0] for _, one in shown],
                "marker": {**_style.place(place), "size": 9},
                "showlegend": False,
                "hovertemplate": "%{y}: %{x:.3f}",
                "error_x": {
                    "type": "data",
                    "array": [one[2] - one[0] for _, one in shown],
                    "thickness": 1.5,
                    "arrayminus": [one[0] - one[1] for _, one in shown],
                    "width": 4,
                },
            }
        )
    layout = {
        "xaxis": _style.axis(name),
        "yaxis": _style.axis("", autorange="reversed", categoryorder="array", categoryarray=list(rows), showgrid=True),
    }
    return _style.figure(title, caption, traces, layout, height=_ROW * len(rows) + _AXES)


def draw_heat(
    title: str, caption: str, rows: Sequence[str], values: Values, marked: Sequence[str] = ()
) -> PlotlyFigure:
    """Draw a table whose cells are coloured by their value, which stands in them.

    Args:
        values: {column: per row (value,)}.
    """
    cells = [[column[at][0] for column in values.values()] for at in range(len(rows))]
    low, high = min(map(min, cells)), max(map(max, cells))
    middle = (low + high) / 2
    notes = [
        {
            "x": column,
            "y": row,
            "text": f"{cells[y][x]:.3f}",
            "showarrow": False,
            "font": {"color": "#ffffff" if cells[y][x] > middle else _style.INK, "size": 12},
        }
        for y, row in enumerate(rows)
        for x, column in enumerate(values)
    ]
    trace = {
        "type": "heatmap",
        "z": cells,
        "x": list(values),
        "y": list(rows),
        "colorscale": _style.SHARES,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>",
    }
    layout = {
        "xaxis": _style.axis("", side="top", showgrid=False),
        "yaxis": _style.axis("", autorange="reversed", showgrid=False),
        "annotations": notes,
    }
    return _style.figure(title, caption, [trace], layout, height=34 * len(rows) + _AXES, above=30)
