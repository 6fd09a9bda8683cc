"""Curves over every threshold as lines, each over its band."""

from __future__ import annotations

from typing import Any

import numpy as np

from histotune.reporting import charts as _style
from histotune.reporting.figures._threshold_curves import GRID, MACRO, Operating


def curves_with_bands(numbers: Operating, area: str) -> list[dict[str, Any]]:
    """Return all bands, then all lines, the first model in front; `area` is what the area is called."""
    bands: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for at, one in reversed([*enumerate(numbers.curves)]):
        color = _style.VIVID[at % len(_style.VIVID)]
        name = f"{_style.text(one.name)}: {area} {one.area:.3f} [{one.area_low:.3f}, {one.area_high:.3f}]"
        common = {"type": "scatter", "mode": "lines", "legendgroup": one.name}
        known = ~np.isnan(one.low)
        if known.any():
            ends = np.concatenate([one.low[known], one.high[known][::-1]])
            bands.append({**common, "x": _style.small(np.concatenate([GRID[known], GRID[known][::-1]]), 3),
                          "y": _style.small(ends, 4), "fill": "toself", "fillcolor": color, "opacity": 0.15,
                          "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False})  # fmt: skip
        lines.append({**common, "x": _style.small(one.x, 4), "y": _style.small(one.y, 4), "name": name,
                      "line": {"color": color, "width": 2.5, "dash": _style.DASHES[at % len(_style.DASHES)]},
                      "legendrank": at,
                      "hovertemplate": f"%{{x:.3f}}, %{{y:.3f}}<extra>{_style.text(one.name)}</extra>"})  # fmt: skip
    return [*bands, *lines]


def of_which_class(numbers: Operating) -> str:
    """Say for a title which class is told from the rest."""
    return "each class against the rest, mean over classes" if numbers.label == MACRO else f"class {numbers.label}"
