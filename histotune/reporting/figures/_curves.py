"""Traces of learning curves: many of one look in one trace, with gaps, so that a page stays small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.reporting import charts as _style

if TYPE_CHECKING:
    from histotune.reporting.figures.learning_curves import Curve


def others(curves: Sequence[Curve], name: str, color: str) -> list[dict[str, Any]]:
    """Draw curves in one trace, a gap after each."""
    if not curves:
        return []
    gap = [np.nan]
    return [{
        "type": "scatter", "mode": "lines+markers", "name": f"{name} ({len(curves):,})", "connectgaps": False,
        "x": _style.small(np.concatenate([part for one in curves for part in (one.epochs, gap)])),
        "y": _style.small(np.concatenate([part for one in curves for part in (one.scores, gap)])),
        "customdata": np.concatenate([np.full(len(one.epochs) + 1, one.number) for one in curves]),
        "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
        "line": {"color": color, "width": 1}, "marker": {"size": 2.5, "color": color}, "opacity": 0.75,
    }]  # fmt: skip


def stops(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Mark the last epoch of trials that were stopped."""
    ended = [one for one in curves if len(one.epochs)]
    if not ended:
        return []
    return [{
        "type": "scatter", "mode": "markers", "name": "stopped here", "x": [int(one.epochs[-1]) for one in ended],
        "y": _style.small([one.scores[-1] for one in ended]), "text": [_style.text(one.name) for one in ended],
        "hovertemplate": "%{text}: after epoch %{x}, %{y:.4f}<extra></extra>",
        "marker": {"color": _style.MUTED, "symbol": "triangle-down", "size": 8},
    }]  # fmt: skip


def best(curve: Curve, metric: str) -> dict[str, Any]:
    """Draw the best trial in front of the others."""
    return {
        "type": "scatter", "mode": "lines+markers", "name": f"best: {_style.text(curve.name)}", "x": curve.epochs,
        "y": _style.small(curve.scores), "line": {"color": _style.VIVID[1], "width": 3},
        "marker": {"size": [13 if epoch == curve.kept else 6 for epoch in curve.epochs.tolist()], "opacity": 1},
        "hovertemplate": f"epoch %{{x}}: {metric} %{{y:.4f}}<extra></extra>",
    }  # fmt: skip


def band(curve: Curve) -> list[dict[str, Any]]:
    """Draw one standard deviation over folds around a curve, where there are folds."""
    if not len(curve.spread):
        return []
    ends = np.concatenate([curve.scores - curve.spread, (curve.scores + curve.spread)[::-1]])
    return [{
        "type": "scatter", "mode": "lines", "fill": "toself", "opacity": 0.25, "name": "± SD over folds",
        "x": np.concatenate([curve.epochs, curve.epochs[::-1]]), "y": _style.small(ends), "hoverinfo": "skip",
        "line": {"width": 0}, "fillcolor": _style.VIVID[1],
    }]  # fmt: skip
