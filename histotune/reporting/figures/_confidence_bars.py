"""Histograms one below the other, with the thresholds as lines through all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.reporting import charts as _style
from histotune.reporting.figures._branches import panel_title

if TYPE_CHECKING:
    from histotune.reporting.figures.confidence import Confidence


def histograms(numbers: Confidence) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return traces and layout of one panel per group."""
    bins = numbers.counts.shape[1]
    middles = (np.arange(bins) + 0.5) / bins
    traces: list[dict[str, Any]] = []
    notes = []
    layout: dict[str, Any] = {"bargap": 0.05, "showlegend": not np.isnan(numbers.threshold)}
    for at, (group, counts) in enumerate(zip(numbers.groups, numbers.counts, strict=True)):
        suffix = "" if at == 0 else str(at + 1)
        domain = [0.56, 1.0] if at == 0 else [0.0, 0.4]
        layout[f"yaxis{suffix}"] = _style.axis("cases", domain=domain, rangemode="tozero", nticks=5)
        layout[f"xaxis{suffix}"] = _style.axis(
            _style.text(numbers.axis) if at else "", range=[0, 1], anchor=f"y{suffix}"
        )
        traces.append({
            "type": "bar", "x": _style.small(middles, 4), "y": counts, "width": 1 / bins, "showlegend": False,
            "marker": {"color": _style.VIVID[at]}, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}",
            "customdata": [[f"{at / bins:.2f}", f"{(at + 1) / bins:.2f}"] for at in range(bins)],
            "hovertemplate": "%{customdata[0]} to %{customdata[1]}: %{y} cases<extra></extra>",
        })  # fmt: skip
        title = f"<b>{_style.text(group)}</b>: {_style.counted(int(counts.sum()), 'case')}"
        notes.append(panel_title(title, {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain"}))
    lines = {"highest probability": numbers.threshold, "operating point": numbers.operating}
    known = {name: value for name, value in lines.items() if not np.isnan(value)}
    for at, (name, value) in enumerate(known.items()):
        for panel, counts in enumerate(numbers.counts):
            suffix = "" if panel == 0 else "2"
            traces.append({
                "type": "scatter", "mode": "lines", "x": [value, value], "y": [0, int(counts.max())],
                "hoverinfo": "name", "xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "name": f"{name} {value:.2f}",
                "legendgroup": name, "showlegend": panel == 0, 
                "line": {"color": _style.MUTED, "width": 2, "dash": ("dot", "dash")[at]},
            })  # fmt: skip
    layout["annotations"] = notes
    return traces, layout
