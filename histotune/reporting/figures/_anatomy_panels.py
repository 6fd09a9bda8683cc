"""Members of an ensemble as rows, and every two of them as the cells of two tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.metrics.scores import in_words
from histotune.reporting import charts as _style
from histotune.reporting.figures._branches import panel_title
from histotune.reporting.figures._losses import short

if TYPE_CHECKING:
    from histotune.reporting.figures.ensemble_anatomy import Anatomy

_ROW, _GAP, _TABLE = 22, 96, 270  # pixels
_FEW, _ROWS = 8, 30  # members whose numbers stand in the cells; that are drawn as rows


def panels(numbers: Anatomy) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels."""
    ranked = np.argsort(-np.nan_to_num(numbers.say), kind="stable")
    order = ranked[:_ROWS]
    rows = len(order)
    above = _ROW * max(rows, 2)
    whole = above + _GAP + _TABLE
    low = 1 - above / whole
    names = [_style.text(short(numbers.members[at], 22)) for at in order]
    ticks = {"tickvals": [*range(rows)], "ticktext": names, "range": [rows - 0.4, -0.6], "ticks": ""}
    metric = in_words(numbers.metric)
    shares, places = 100 * numbers.say[order], [*range(rows)]
    traces: list[dict[str, Any]] = [
        {"type": "bar", "orientation": "h", "x": _style.small(shares, 3), "y": places, "hoverinfo": "x",
         "marker": {"color": _style.VIVID[4]}, "xaxis": "x2", "yaxis": "y2"},
        {"type": "scatter", "mode": "markers", "x": _style.small(numbers.scores[order]), "y": places,
         "marker": {"color": _style.VIVID[0], "size": 9}, "hovertemplate": f"{metric} %{{x:.4f}}<extra></extra>"},
    ]  # fmt: skip
    axes = {"domain": [low, 1.0], "showgrid": False, **ticks}
    layout: dict[str, Any] = {
        "yaxis": _style.axis("", **axes),
        "yaxis2": _style.axis("", **axes, anchor="x2", showticklabels=False),
        "xaxis": _style.axis(f"{metric} of each alone", domain=[0, 0.52], anchor="y", nticks=4),
        "xaxis2": _style.axis("say, %", domain=[0.6, 1.0], anchor="y2", rangemode="tozero", nticks=4),
        "shapes": [{"type": "line", "x0": numbers.score, "x1": numbers.score, "y0": 0, "y1": 1, "yref": "y domain",
                    "line": {"color": _style.VIVID[1], "width": 2, "dash": "dash"}}],
        "annotations": [panel_title(f"dashed: the ensemble, {numbers.score:.4f}",
                                    {"xref": "x domain", "yref": "y domain"})],
        "showlegend": False,
    }  # fmt: skip
    tables = (("disagreement", numbers.disagreement, 0.0), ("correlation of errors", numbers.correlation, 0.54))
    for at, (title, values, left) in enumerate(tables, 3):
        domain = [left, left + 0.46]
        traces.append(_table(values[np.ix_(ranked, ranked)], at))
        plain = {"showgrid": False, "ticks": "", "showline": False, "tickvals": [*range(len(values))],
                 "ticktext": [_style.text(short(numbers.members[one], 9)) for one in ranked],
                 "showticklabels": len(values) <= 2 * _FEW, "tickfont": {"size": 10}}  # fmt: skip
        layout[f"xaxis{at}"] = _style.axis("", domain=domain, anchor=f"y{at}", tickangle=-40, **plain)
        upright = plain | {"showticklabels": at == 3 and len(values) <= 2 * _FEW}
        layout[f"yaxis{at}"] = _style.axis(
            "", domain=[0, _TABLE / whole], anchor=f"x{at}", autorange="reversed", **upright
        )
        layout["annotations"].append(panel_title(f"<b>{title}</b>", {"xref": f"x{at} domain", "yref": f"y{at} domain"}))
    return traces, layout, whole + 60


def _table(values: np.ndarray, at: int) -> dict[str, Any]:
    """Draw every two members as a cell; what a member has in common with itself is left out."""
    shown = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    few = len(values) <= _FEW
    words = [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in shown]
    return {
        "type": "heatmap", "z": _style.small(shown.ravel(), 4).reshape(shown.shape), "xaxis": f"x{at}",
        "yaxis": f"y{at}", "colorscale": _style.SHARES, "zmin": 0,
        "zmax": 1 if at == 4 else max(0.1, float(np.nanmax(shown, initial=0))),
        "showscale": False, "xgap": 1, "ygap": 1, "hoverongaps": False, "text": words if few else None,
        "texttemplate": "%{text}" if few else None, "hovertemplate": "%{x}, %{y}: %{z:.3f}<extra></extra>",
    }  # fmt: skip
