"""Panels of a metric by one cost each, below each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.reporting import charts as _style

if TYPE_CHECKING:
    from histotune.reporting.figures.cost import Costs, Price

_PANEL, _GAP = 190, 62  # pixels
_WIDE = 20  # how many times the lowest cost the highest is where an axis is logarithmic


def panels(numbers: Costs, metric: str) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels."""
    count = len(numbers.prices)
    whole = count * _PANEL + (count - 1) * _GAP
    layout: dict[str, Any] = {"showlegend": True}
    traces: list[dict[str, Any]] = []
    for at, price in enumerate(numbers.prices):
        suffix = "" if at == 0 else str(at + 1)
        top = 1 - at * (_PANEL + _GAP) / whole
        layout[f"yaxis{suffix}"] = _style.axis(metric, domain=[max(0.0, top - _PANEL / whole), top], nticks=6)
        known = price.values[~np.isnan(price.values)]
        scale = "log" if known.min() > 0 and known.max() > _WIDE * known.min() else "linear"
        layout[f"xaxis{suffix}"] = _style.axis(price.name, anchor=f"y{suffix}", type=scale, nticks=6)
        traces += _panel(numbers, price, {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}, first=at == 0)
    return traces, layout, whole + 100


def _panel(numbers: Costs, price: Price, axes: dict[str, str], *, first: bool) -> list[dict[str, Any]]:
    names = [_style.text(name) for name in numbers.names]
    order = np.flatnonzero(price.front)
    order = order[np.argsort(price.values[order], kind="stable")]
    single = np.array([loss != "" for loss in numbers.losses], dtype=bool) & ~np.isnan(price.values)
    joint = ~single & ~np.isnan(price.values)
    groups: list[tuple[str, np.ndarray, str, dict[str, Any]]] = [
        ("trial", np.flatnonzero(single & ~price.front), "markers", {"color": _style.MUTED, "symbol": "circle"}),
        ("ensemble", np.flatnonzero(joint & ~price.front), "markers", {"color": _style.VIVID[3], "symbol": "square"}),
        ("Pareto front", order, "lines+markers", {"color": _style.VIVID[0], "symbol": "diamond", "size": 9}),
        ("tied with the best", np.flatnonzero(numbers.tied & ~np.isnan(price.values)), "markers",
         {"color": _style.VIVID[1], "symbol": "circle-open", "size": 16, "line": {"width": 2}}),
    ]  # fmt: skip
    return [
        {"type": "scatter", "mode": mode, "name": name, "legendgroup": name, "showlegend": first, **axes,
         "x": _style.small(price.values[rows], 3), "y": _style.small(numbers.scores[rows]),
         "marker": {"size": 7, **look}, "line": {"width": 1.5, "color": look["color"]},
         "text": [names[row] for row in rows], "hovertemplate": "%{text}: %{y:.4f}, %{x:,.4~g}<extra></extra>"}
        for name, rows, mode, look in groups if len(rows)
    ]  # fmt: skip
