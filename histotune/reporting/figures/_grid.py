"""Panels of a metric by parameter in two columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.reporting import charts as _style
from histotune.reporting.figures._branches import panel_title

if TYPE_CHECKING:
    from histotune.reporting.figures._parameters import Column
    from histotune.reporting.figures.parameter_slices import Slices

_COLUMNS, _ROW = 2, 165  # panels side by side, pixels
_JITTER = 0.18  # of the distance between two options, so that trials of one option do not hide each other


def panels(numbers: Slices, metric: str) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels."""
    rows = -(-len(numbers.columns) // _COLUMNS)
    layout: dict[str, Any] = {
        "grid": {"rows": rows, "columns": _COLUMNS, "pattern": "independent", "xgap": 0.16, "ygap": 0.42},
        "annotations": [],
        "legend": {"orientation": "h", "x": 0, "xref": "container", "y": 0, "yref": "container", "yanchor": "bottom",
                   "itemsizing": "constant"},
    }  # fmt: skip
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


def _marks(numbers: Slices, one: Column, axes: dict[str, str], low: float) -> list[dict[str, Any]]:
    """Draw stopped trials first, then complete ones loss by loss."""
    there = ~np.isnan(one.values) & ~np.isnan(numbers.scores)
    shift = (numbers.numbers * 0.618034 % 1 - 0.5) * 2 * _JITTER if one.options else 0.0  # the same in every drawing
    places = one.values + shift
    groups = [("stopped", there & ~numbers.complete, {"color": _style.MUTED, "symbol": "triangle-down", "size": 4})]
    for at, loss in enumerate(numbers.losses):
        look: dict[str, Any] = {**_style.vivid(at), "size": 6}
        groups.append((loss, there & numbers.complete & (numbers.loss == at), look))
    return [
        {"type": "scatter", "mode": "markers", "name": _style.text(name), "legendgroup": name, "marker": look, **axes,
         "x": _style.small(places[rows], 7), "y": _style.small(np.maximum(numbers.scores[rows], low)),
         "customdata": numbers.numbers[rows], "opacity": 0.8,
         "hovertemplate": "trial %{customdata}: %{y:.4f}<extra>" + _style.text(name) + "</extra>"}
        for name, rows, look in groups if rows.any()
    ]  # fmt: skip
