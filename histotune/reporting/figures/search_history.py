"""Scores of a search, trial by trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.format import counted
from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.storage.study_folder import COMPLETE
from histotune.studies.leaderboard import BASELINE, components, ranked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from histotune.storage.study_folder import FAILED, INFEASIBLE, STOPPED

STATES = (COMPLETE, STOPPED, FAILED, INFEASIBLE)
_BELOW = 0.03  # of the axis, where trials without a score stand


@dataclass(frozen=True)
class SearchHistory:
    """Scores of the trials of a search.

    Attributes:
        metric: the study's; `higher`: whether more of it is better.
        numbers: int64 [n], of the trials, ascending.
        states: int64 [n], into `STATES`.
        scores: float64 [n]; NaN where a trial has none.
        losses: [n] names.
        best: float64 [n], the best score of a complete trial up to this one; NaN before the first.
        default: score of trial 0, the default configuration; NaN where it has none.
        baselines: names, best first; `baseline_scores`: float64.
        about: on how many cases of which study.
    """

    metric: str
    higher: bool
    numbers: np.ndarray
    states: np.ndarray
    scores: np.ndarray
    losses: tuple[str, ...]
    best: np.ndarray
    default: float
    baselines: tuple[str, ...]
    baseline_scores: np.ndarray
    about: str


def best_so_far(scores: np.ndarray, complete: np.ndarray, *, higher: bool) -> np.ndarray:
    """Return the best score of a complete trial up to each trial, float64 [n]; NaN before the first.

    >>> best_so_far(np.array([0.9, 0.5, 0.7, 0.6]), np.array([False, True, True, True]), higher=True)
    array([nan, 0.5, 0.7, 0.7])
    """
    best = np.fmax if higher else np.fmin  # of a number and NaN they take the number
    result: np.ndarray = best.accumulate(np.where(complete, scores, np.nan))
    return result


class HistoryFigure(Figure[SearchHistory]):
    """Every trial, the best so far, and the default configuration and baselines to compare with."""

    def compute(self, source: FigureSource) -> SearchHistory:
        """Read how the trials ended."""
        trials, metric = source.trials(), source.settings.metric
        scores = np.array([line.record.metrics.get(metric, np.nan) for line in trials], dtype=np.float64)
        states = np.array([STATES.index(line.record.state) for line in trials])
        higher = metrics.direction(metric) > 0
        baselines = [line for line in ranked(source.store, source.entries) if line.kind == BASELINE]
        return SearchHistory(
            metric=metric,
            higher=higher,
            numbers=np.array([line.record.number for line in trials]),
            states=states,
            scores=scores,
            losses=tuple(components(line)[0] for line in trials),
            best=best_so_far(scores, states == STATES.index(COMPLETE), higher=higher),
            default=float(scores[0]) if trials[0].record.number == 0 and states[0] == 0 else float("nan"),
            baselines=tuple(line.name for line in baselines),
            baseline_scores=np.array([line.record.metrics[metric] for line in baselines], dtype=np.float64),
            about=source.scored_on(),
        )

    def draw(self, numbers: SearchHistory) -> PlotlyFigure:
        """Draw a mark for every trial, a step line of the best so far, and lines of default and baselines."""
        metric = metrics.in_words(numbers.metric)
        low, high = limits(numbers)
        traces = [*marks(numbers, low, high), best_line(numbers), *lines(numbers, low)]
        counts = [(state, int((numbers.states == at).sum())) for at, state in enumerate(STATES)]
        text = ", ".join(f"{count:,} {state}" for state, count in counts if count)
        caption = (
            f"{counted(len(numbers.numbers), 'trial')} ({text}), scored on {numbers.about}. The score of a "
            "stopped trial is from the epochs that it had. The best of many trials on the same cases is optimistic: "
            "`histotune confirm` gives a reliable estimate."
        )
        hidden = [
            f"{name} {score:.3f}"
            for name, score in zip(numbers.baselines, numbers.baseline_scores, strict=True)
            if not low <= score <= high
        ]
        if hidden:
            caption += f" Baselines outside the plot: {', '.join(hidden)}."
        layout = {
            "xaxis": _style.axis("trial", range=padded(numbers.numbers)),
            "yaxis": _style.axis(f"validation {metric}", range=[low, high]),
            "hovermode": "closest",
        }
        title = f"Search history: validation {metric} by trial"
        return _style.figure(title, caption, traces, layout, height=440, below=74)


@FIGURES.register("search_history")
def search_history() -> HistoryFigure:
    """Validation metric by trial, the best so far, and the default configuration and the baselines as lines."""
    return HistoryFigure()


def limits(numbers: SearchHistory) -> tuple[float, float]:
    """Choose an axis that shows the trials and the best baseline; a single outlier does not flatten the rest."""
    known = numbers.scores[~np.isnan(numbers.scores)]
    complete = known if (numbers.states == 0).sum() < 2 else numbers.scores[numbers.states == 0]
    complete = complete[~np.isnan(complete)]
    middle, spread = np.median(complete), np.ptp(complete)
    near = known[np.abs(known - middle) <= 2 * max(float(spread), 1e-3)]
    shown = np.concatenate([complete, near, numbers.baseline_scores[:1][~np.isnan(numbers.baseline_scores[:1])]])
    room = max(0.08 * float(np.ptp(shown)), 1e-3)
    return float(shown.min()) - 1.5 * room, float(shown.max()) + room


def padded(values: np.ndarray) -> list[float]:
    """Return the ends of an axis that leaves some room around the values."""
    room = max(0.5, 0.02 * float(values.max()))
    return [float(values.min()) - room, float(values.max()) + room]


def marks(numbers: SearchHistory, low: float, high: float) -> list[dict[str, Any]]:
    """Draw trials by their state; without a score, or outside the axis, at its edge with the score as hover text."""
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
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{state} ({len(own):,})",
                "x": numbers.numbers[own],
                "y": _style.small(np.clip(np.where(np.isnan(scores), edge, scores), edge, high)),
                "marker": {**looks[state], "size": size, "opacity": 0.85},
                "text": [f"{word}, {numbers.losses[row]}" for word, row in zip(words, own, strict=True)],
                "hovertemplate": f"trial %{{x}}: %{{text}}<extra>{state}</extra>",
            }
        )
    return traces


def best_line(numbers: SearchHistory) -> dict[str, Any]:
    """Draw the best so far as steps, of which only the corners are kept."""
    known = np.flatnonzero(~np.isnan(numbers.best))
    values = numbers.best[known]
    corners = known[np.append(True, values[1:] != values[:-1])] if len(known) else known
    rows = np.unique(np.append(corners, known[-1:]))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": numbers.numbers[rows],
        "y": _style.small(numbers.best[rows]),
        "line": {"color": _style.VIVID[0], "width": 2.5, "shape": "hv"},
        "hovertemplate": "best up to trial %{x}: %{y:.4f}<extra></extra>",
    }


def lines(numbers: SearchHistory, low: float) -> list[dict[str, Any]]:
    """Draw the default configuration and the baselines that lie within the axis."""
    levels: list[tuple[str, float]] = [("default configuration", numbers.default)]
    baselines: Sequence[tuple[str, float]] = [*zip(numbers.baselines, numbers.baseline_scores, strict=True)]
    levels += [(f"baseline {name}", float(score)) for name, score in baselines]
    shown = [(name, score) for name, score in levels if score >= low]
    ends = padded(numbers.numbers)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": ends,
            "y": [round(score, 5)] * 2,
            "hoverinfo": "name",
            "name": f"{_style.text(name)} {score:.3f}",
            "hoverlabel": {"namelength": -1},
            "line": {
                "color": _style.VIVID[(2, 5, 3)[min(index, 2)]],
                "width": 1.5,
                "dash": _style.DASHES[1 + index % (len(_style.DASHES) - 1)],
            },
        }
        for index, (name, score) in enumerate(shown)
    ]
