"""Rows with intervals as bars, and a table in colours; no figures of a study: whoever has the numbers draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from histotune.reporting import charts as _style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_ROW, _AXES = 24, 70  # pixels
Values = Mapping[str, Sequence[tuple[float, ...]]]


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
                "type": "scatter", "mode": "markers", "y": [row for row, _ in shown], "x": [one[0] for _, one in shown],
                "marker": {**_style.place(place), "size": 9}, "showlegend": False, "hovertemplate": "%{y}: %{x:.3f}",
                "error_x": {"type": "data", "array": [one[2] - one[0] for _, one in shown], "thickness": 1.5,
                            "arrayminus": [one[0] - one[1] for _, one in shown], "width": 4},
            }
        )  # fmt: skip
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
            "x": column, "y": row, "text": f"{cells[y][x]:.3f}", "showarrow": False,
            "font": {"color": "#ffffff" if cells[y][x] > middle else _style.INK, "size": 12},
        }
        for y, row in enumerate(rows)
        for x, column in enumerate(values)
    ]  # fmt: skip
    trace = {
        "type": "heatmap", "z": cells, "x": list(values), "y": list(rows), "colorscale": _style.SHARES,
        "showscale": False, "xgap": 2, "ygap": 2, "hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>",
    }  # fmt: skip
    layout = {
        "xaxis": _style.axis("", side="top", showgrid=False),
        "yaxis": _style.axis("", autorange="reversed", showgrid=False),
        "annotations": notes,
    }
    return _style.figure(title, caption, [trace], layout, height=34 * len(rows) + _AXES, above=30)
