"""What a search reached, trial by trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, Source
from histotune.reporting.figures._history import STATES, best_line, limits, lines, marks, padded
from histotune.storage.study_folder import COMPLETE
from histotune.studies.leaderboard import CONTROL, components, ranked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


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
        default: score of trial 0, the space's default; NaN where it has none.
        controls: names, best first; `control_scores`: float64.
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
    controls: tuple[str, ...]
    control_scores: np.ndarray
    about: str


def best_so_far(scores: np.ndarray, complete: np.ndarray, *, higher: bool) -> np.ndarray:
    """Return the best score of a complete trial up to each trial, float64 [n]; NaN before the first.

    >>> best_so_far(np.array([0.9, 0.5, 0.7, 0.6]), np.array([False, True, True, True]), higher=True)
    array([nan, 0.5, 0.7, 0.7])
    """
    best = np.fmax if higher else np.fmin  # of a number and NaN they take the number
    found: np.ndarray = best.accumulate(np.where(complete, scores, np.nan))
    return found


class History(Figure[SearchHistory]):
    """Every trial, the best so far, and what it is measured against."""

    def compute(self, source: Source) -> SearchHistory:
        """Read how the trials ended."""
        trials, metric = source.trials(), source.settings.metric
        scores = np.array([line.record.metrics.get(metric, np.nan) for line in trials], dtype=np.float64)
        states = np.array([STATES.index(line.record.state) for line in trials])
        higher = metrics.direction(metric) > 0
        controls = [line for line in ranked(source.store, source.entries) if line.kind == CONTROL]
        return SearchHistory(
            metric=metric,
            higher=higher,
            numbers=np.array([line.record.number for line in trials]),
            states=states,
            scores=scores,
            losses=tuple(components(line)[0] for line in trials),
            best=best_so_far(scores, states == STATES.index(COMPLETE), higher=higher),
            default=float(scores[0]) if trials[0].record.number == 0 and states[0] == 0 else float("nan"),
            controls=tuple(line.name for line in controls),
            control_scores=np.array([line.record.metrics[metric] for line in controls], dtype=np.float64),
            about=source.scored_on(),
        )

    def draw(self, numbers: SearchHistory) -> PlotlyFigure:
        """Draw a mark for every trial, a step line of the best, and lines of default and best control."""
        metric = metrics.in_words(numbers.metric)
        low, high = limits(numbers)
        traces = [*marks(numbers, low, high), best_line(numbers), *lines(numbers, low)]
        counts = [(state, int((numbers.states == at).sum())) for at, state in enumerate(STATES)]
        told = ", ".join(f"{count:,} {state}" for state, count in counts if count)
        caption = (
            f"{_style.counted(len(numbers.numbers), 'trial')} ({told}), scored on {numbers.about}. A stopped trial has "
            "the score of the epochs that it had. The best of many trials on these very cases is too good a number: "
            "`histotune confirm` says what it is worth."
        )
        hidden = [
            f"{name} {score:.3f}"
            for name, score in zip(numbers.controls, numbers.control_scores, strict=True)
            if not low <= score <= high
        ]
        if hidden:
            caption += f" Controls outside the drawing: {', '.join(hidden)}."
        layout = {
            "xaxis": _style.axis("trial", range=padded(numbers.numbers)),
            "yaxis": _style.axis(f"validation {metric}", range=[low, high]),
            "hovermode": "closest",
        }
        title = f"Search history: validation {metric} by trial"
        return _style.figure(title, caption, traces, layout, height=440, below=74)


@FIGURES.register("search_history")
def search_history() -> History:
    """Validation metric by trial, the best so far, and the space's default and the controls as lines."""
    return History()
