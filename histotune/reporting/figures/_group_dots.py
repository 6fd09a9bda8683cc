"""Error rates as dots with intervals: a row for every site, and patients side by side in the order of their rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.reporting import charts as _style
from histotune.reporting.figures._branches import panel_title
from histotune.reporting.figures._losses import short

if TYPE_CHECKING:
    from histotune.reporting.figures.errors_by_group import ErrorsByGroup, Groups

_ROW, _PATIENTS, _GAP, _SITES, _MOST = 22, 300, 90, 40, 400  # pixels of a row, panel and gap; sites and patients drawn


def dots(numbers: ErrorsByGroup) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels."""
    rows = min(len(numbers.sites.names), _SITES)
    patients = 0 if rows and numbers.one_each else _PATIENTS
    above = _ROW * rows + _GAP if rows else 0
    whole = above + patients
    low = patients / whole
    every = np.arange(len(numbers.patients.names))
    drawn = every if len(every) <= _MOST else every[np.linspace(0, len(every) - 1, _MOST).round().astype(int)]
    traces = [_trace(numbers.patients, drawn, upright=True)] if patients else []
    place = {"xref": "x domain", "yref": "y domain"}
    layout: dict[str, Any] = {
        "xaxis": _style.axis("patients, the highest error rate first", showgrid=False, ticks="", showticklabels=False),
        "yaxis": _style.axis("error rate", range=[-0.02, 1.02], tickformat=".0%", domain=[0, low]),
        "annotations": [panel_title(f"<b>{_style.counted(len(every), 'patient')}</b>", place)],
        "shapes": [_mean(numbers.rate, {"xref": "x domain", "yref": "y"}, upright=True)],
        "showlegend": False,
    }
    if not patients:
        layout = {"annotations": [], "shapes": [], "showlegend": False}
    if rows:
        traces.append(_trace(numbers.sites, np.arange(rows), upright=False) | {"xaxis": "x2", "yaxis": "y2"})
        names = [_style.text(short(name)) for name in numbers.sites.names[:rows]]
        ticks = {"tickvals": [*range(rows)], "ticktext": names, "range": [rows - 0.4, -0.6], "showgrid": False}
        domain = [low + _GAP / whole if patients else 0.0, 1.0]
        layout["yaxis2"] = _style.axis("", anchor="x2", domain=domain, ticks="", **ticks)
        layout["xaxis2"] = _style.axis("error rate", anchor="y2", tickformat=".0%", range=[-0.02, 1.02])
        shown = f", of {len(numbers.sites.names)}" if len(numbers.sites.names) > rows else ""
        title = f"<b>{_style.counted(rows, 'site')}{shown}</b>"
        layout["annotations"].append(panel_title(title, {"xref": "x2 domain", "yref": "y2 domain"}))
        layout["shapes"].append(_mean(numbers.rate, {"xref": "x2", "yref": "y2 domain"}, upright=False))
    return traces, layout, whole + 20


def _trace(groups: Groups, rows: np.ndarray, *, upright: bool) -> dict[str, Any]:
    rates = groups.rates[rows]
    error = {"type": "data", "array": _style.small(np.nan_to_num(groups.high[rows] - rates), 4), "thickness": 1,
             "arrayminus": _style.small(np.nan_to_num(rates - groups.low[rows]), 4), "width": 0,
             "color": _style.MUTED}  # fmt: skip
    told = [f"{_style.text(groups.names[at])}: {groups.errors[at]:,} of {groups.cases[at]:,} wrong" for at in rows]
    value, number = _style.small(rates, 4), np.arange(len(rows))
    places = {"x": number, "y": value, "error_y": error} if upright else {"x": value, "y": number, "error_x": error}
    return {
        "type": "scatter", "mode": "markers", **places, "text": told,
        "marker": {"color": _style.VIVID[0 if upright else 1], "size": 7 if len(rows) <= 80 else 4},
        "hovertemplate": f"%{{text}}, %{{{'y' if upright else 'x'}:.1%}}<extra></extra>",
    }  # fmt: skip


def _mean(rate: float, axes: dict[str, str], *, upright: bool) -> dict[str, Any]:
    """Draw the rate over all cases."""
    ends = {"x0": 0, "x1": 1, "y0": rate, "y1": rate} if upright else {"x0": rate, "x1": rate, "y0": 0, "y1": 1}
    return {"type": "line", **ends, **axes, "line": {"color": _style.MUTED, "width": 1.5, "dash": "dot"}}
