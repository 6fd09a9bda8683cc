"""Bars of several panels, one below the other, over one axis from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.reporting import charts as _style
from histotune.reporting.figures._branches import panel_title
from histotune.reporting.figures._losses import short

if TYPE_CHECKING:
    from histotune.reporting.figures.parameter_importance import Panel

_ROW, _HEAD, _AXIS = 19, 40, 46  # pixels
_MOST = 8  # parameters of a panel that are drawn


def bars(panels: Sequence[Panel]) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels, the first panel on top."""
    rows = [min(len(panel.names), _MOST) for panel in panels]
    drawn = sum(_ROW * count + _HEAD for count in rows)
    layout: dict[str, Any] = {"annotations": [], "barmode": "overlay", "showlegend": False, "bargap": 0.25}
    traces: list[dict[str, Any]] = []
    top = 0.0
    for number, (panel, count) in enumerate(zip(panels, rows, strict=True), 1):
        suffix = "" if number == 1 else str(number)
        low = top + _ROW * count
        domain = [1 - low / drawn, 1 - top / drawn]
        top = low + _HEAD
        last = number == len(panels)
        names = [_style.text(short(label)) for label in panel.labels[:count]]
        places = {"tickvals": [*range(count)], "ticktext": names, "range": [count - 0.5, -0.5], "showgrid": False}
        layout[f"yaxis{suffix}"] = _style.axis("", domain=domain, ticks="", anchor=f"x{suffix}", **places)
        scale = {"range": [0, 1.03], "tickformat": ".1f", "showticklabels": last, "anchor": f"y{suffix}"}
        layout[f"xaxis{suffix}"] = _style.axis("share of importance" if last else "", **scale)
        title = f"<b>{_style.text(panel.branch)}</b>: {panel.trials:,} trials, {panel.complete:,} complete"
        layout["annotations"].append(panel_title(title, {"xref": "paper", "yref": f"y{suffix} domain"}))
        traces += _panel(panel, count, {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
    return traces, layout, drawn + _AXIS


def _panel(panel: Panel, count: int, axes: dict[str, str]) -> list[dict[str, Any]]:
    shares, chances = panel.shares[:count], panel.chances[:count]
    colors = np.where(shares > chances, _style.VIVID[0], _style.MUTED)
    told = [_style.text(name) for name in panel.names[:count]]
    whole = {"customdata": [[name, round(float(chance), 3)] for name, chance in zip(told, chances, strict=True)],
             "hovertemplate": "%{customdata[0]}: %{x:.3f}, chance %{customdata[1]:.3f}<extra></extra>"}  # fmt: skip
    places = {"y": [*range(count)], "orientation": "h"}
    return [
        {"type": "bar", "x": _style.small(shares, 4), "marker": {"color": colors}, **places, **whole, **axes},
        {"type": "scatter", "mode": "markers", "x": _style.small(np.minimum(chances, 1.0), 4), "y": [*range(count)],
         "marker": {"symbol": "line-ns", "size": 13, "line": {"width": 2, "color": _style.VIVID[1]}},
         "hoverinfo": "skip", **axes},
    ]  # fmt: skip
