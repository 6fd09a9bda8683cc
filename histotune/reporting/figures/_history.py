"""What is drawn of a search's history: marks by state, the best so far as steps, and lines of what it must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.reporting import charts as _style
from histotune.storage.study_folder import COMPLETE, FAILED, INFEASIBLE, STOPPED

if TYPE_CHECKING:
    from histotune.reporting.figures.search_history import SearchHistory

STATES = (COMPLETE, STOPPED, FAILED, INFEASIBLE)
_BELOW = 0.03  # of the axis, where trials without a score stand


def limits(numbers: SearchHistory) -> tuple[float, float]:
    """Choose an axis that shows trials and the best control; one that failed at random does not flatten the rest."""
    known = numbers.scores[~np.isnan(numbers.scores)]
    complete = known if (numbers.states == 0).sum() < 2 else numbers.scores[numbers.states == 0]
    complete = complete[~np.isnan(complete)]
    middle, spread = np.median(complete), np.ptp(complete)
    near = known[np.abs(known - middle) <= 2 * max(float(spread), 1e-3)]
    shown = np.concatenate([complete, near, numbers.control_scores[:1][~np.isnan(numbers.control_scores[:1])]])
    room = max(0.08 * float(np.ptp(shown)), 1e-3)
    return float(shown.min()) - 1.5 * room, float(shown.max()) + room


def padded(values: np.ndarray) -> list[float]:
    room = max(0.5, 0.02 * float(values.max()))
    return [float(values.min()) - room, float(values.max()) + room]


def marks(numbers: SearchHistory, low: float, high: float) -> list[dict[str, Any]]:
    """Draw trials by their state; what has no score, or one outside, stands at the axis and says so when asked."""
    looks = {
        COMPLETE: {"color": _style.VIVID[0], "symbol": "circle"},
        STOPPED: {"color": _style.MUTED, "symbol": "triangle-down-open"},
        FAILED: {"color": _style.VIVID[1], "symbol": "x"},
        INFEASIBLE: {"color": _style.VIVID[3], "symbol": "square-open"},
    }
    traces = []
    size = 8 if len(numbers.numbers) <= 300 else 4
    edge = low + _BELOW * (high - low)
    for at, state in enumerate(STATES):
        own = np.flatnonzero(numbers.states == at)
        if not len(own):
            continue
        scores = numbers.scores[own]
        words = ["no score" if np.isnan(score) else f"{score:.4f}" for score in scores]
        traces.append({
            "type": "scatter", "mode": "markers", "name": f"{state} ({len(own):,})", "x": numbers.numbers[own],
            "y": _style.small(np.clip(np.where(np.isnan(scores), edge, scores), edge, high)),
            "marker": {**looks[state], "size": size, "opacity": 0.85},
            "text": [f"{word}, {numbers.losses[row]}" for word, row in zip(words, own, strict=True)],
            "hovertemplate": f"trial %{{x}}: %{{text}}<extra>{state}</extra>",
        })  # fmt: skip
    return traces


def best_line(numbers: SearchHistory) -> dict[str, Any]:
    """Draw the best so far as steps, of which only the corners are kept."""
    known = np.flatnonzero(~np.isnan(numbers.best))
    values = numbers.best[known]
    corners = known[np.append(True, values[1:] != values[:-1])] if len(known) else known
    rows = np.unique(np.append(corners, known[-1:]))
    return {
        "type": "scatter", "mode": "lines", "name": "best so far", "x": numbers.numbers[rows],
        "y": _style.small(numbers.best[rows]), "line": {"color": _style.VIVID[0], "width": 2.5, "shape": "hv"},
        "hovertemplate": "best up to trial %{x}: %{y:.4f}<extra></extra>",
    }  # fmt: skip


def lines(numbers: SearchHistory, low: float) -> list[dict[str, Any]]:
    """Draw the default and the controls that lie within the axis."""
    levels: list[tuple[str, float]] = [("default", numbers.default)]
    controls: Sequence[tuple[str, float]] = [*zip(numbers.controls, numbers.control_scores, strict=True)]
    levels += [(f"control {name}", float(score)) for name, score in controls]
    shown = [(name, score) for name, score in levels if score >= low]
    ends = padded(numbers.numbers)
    return [
        {"type": "scatter", "mode": "lines", "x": ends, "y": [round(score, 5)] * 2, "hoverinfo": "name",
         "name": f"{_style.text(name)} {score:.3f}", "hoverlabel": {"namelength": -1},
         "line": {"color": _style.VIVID[(2, 5, 3)[min(index, 2)]], "width": 1.5,
                  "dash": _style.DASHES[1 + index % (len(_style.DASHES) - 1)]}}
        for index, (name, score) in enumerate(shown)
    ]  # fmt: skip
