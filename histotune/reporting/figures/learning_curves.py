"""The metric over epochs: the best trials, those that were stopped, and the spread over folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.parameters import Interval
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource, call
from histotune.reporting.figures._select import over_epochs
from histotune.storage.study_folder import COMPLETE, STOPPED
from histotune.studies.leaderboard import TRIAL, LeaderboardLine

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

_SAMPLE = 60  # stopped trials that are read and drawn


@dataclass(frozen=True)
class LearningCurve:
    """One trial's validation metric.

    Attributes:
        number: of the trial.
        name: for people.
        stopped: whether it was stopped before its end.
        kept: the epoch whose weights and score count, from 1.
        epochs: int64 [e]; `scores`: float64 [e], NaN where the metric is undefined.
        spread: float64 [e], sample standard deviation over folds; empty without folds.
    """

    number: int
    name: str
    stopped: bool
    kept: int
    epochs: np.ndarray
    scores: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Curves:
    """Curves of a search.

    Attributes:
        metric: the study's.
        curves: the best complete trial first, other complete ones by score, then stopped ones by number.
        complete, stopped: how many trials there are of each, drawn or not.
        about: on how many cases of which study.
    """

    metric: str
    curves: tuple[LearningCurve, ...]
    complete: int
    stopped: int
    about: str


class LearningCurves(Figure[Curves]):
    """The best complete trials and an even sample of the stopped ones; reading all would take a large study minutes."""

    def __init__(self, top: int) -> None:
        self._top = top

    def compute(self, source: FigureSource) -> Curves:
        """Read the curves of the trials that are drawn."""
        trials, metric = source.trials(), source.settings.metric
        complete = [line for line in source.models() if line.kind == TRIAL]
        stopped = [line for line in trials if line.record.state == STOPPED and line.record.epochs]
        sampled = {int(at) for at in np.linspace(0, len(stopped) - 1, min(len(stopped), _SAMPLE)).round()}
        chosen = complete[: self._top] + [line for at, line in enumerate(stopped) if at in sampled]
        curves = tuple(curve for curve in (_curve(line, metric) for line in chosen) if len(curve.epochs))
        if not curves:
            raise StudyError(f"no trial of study {source.settings.name!r} kept its curve.jsonl")
        return Curves(metric, curves, len(complete), len(stopped), source.scored_on())

    def draw(self, numbers: Curves) -> PlotlyFigure:
        """Draw the best in front, other complete trials behind it, and a mark where each stopped one ended."""
        metric = metrics.in_words(numbers.metric)
        complete = [curve for curve in numbers.curves if not curve.stopped]
        stopped = [curve for curve in numbers.curves if curve.stopped]
        first, *rest = complete or stopped
        traces = [*others(stopped, "stopped", _style.MUTED), *stops(stopped)]
        traces += [*others(rest if complete else [], "other complete trials", _style.VIVID[4]), *band(first)]
        traces.append(best(first, metric))
        shown = [
            f"{len(drawn)} of {total:,} {state}"
            for drawn, total, state in ((complete, numbers.complete, COMPLETE), (stopped, numbers.stopped, STOPPED))
            if total
        ]
        more = "Higher" if metrics.direction(numbers.metric) > 0 else "Lower"
        caption = (
            f"{' and '.join(shown)} trials: the best complete ones, and an even sample of stopped ones. A triangle "
            "marks where a trial was stopped; the large dot, the epoch of the best trial whose weights are saved. "
            f"{more} is better. Scored on {numbers.about}."
        )
        if len(first.spread):
            caption += " Curves are means over folds; the band is one standard deviation over folds."
        epochs = max(int(curve.epochs.max()) for curve in numbers.curves)
        layout = {"xaxis": over_epochs(epochs), "yaxis": _style.axis(f"validation {metric}"), "showlegend": True}
        title = f"Learning curves: validation {metric} by epoch"
        return _style.figure(title, caption, traces, layout, height=430, below=50)


@FIGURES.register("learning_curves", ranges={"top": Interval(1, 100, whole=True)})
def learning_curves(*, top: int = 20) -> LearningCurves:
    """Validation metric by epoch: the `top` best trials, and the stopped ones up to where they were stopped."""
    return LearningCurves(top)


def _curve(line: LeaderboardLine, metric: str) -> LearningCurve:
    rows = [row for row in line.record.curve() if metric in row]
    values = [float("nan") if row[metric] is None else row[metric] for row in rows]
    spread = [row[metrics.SPREAD].get(metric) for row in rows if metrics.SPREAD in row]
    return LearningCurve(
        number=line.record.number,
        name=call(line),
        stopped=line.record.state == STOPPED,
        kept=line.record.best_epoch,
        epochs=np.array([row["epoch"] for row in rows], dtype=np.int64),
        scores=np.array(values, dtype=np.float64),
        spread=np.array([np.nan if one is None else one for one in spread], dtype=np.float64),
    )


def others(curves: Sequence[LearningCurve], name: str, color: str) -> list[dict[str, Any]]:
    """Draw curves in one trace, a gap after each."""
    if not curves:
        return []
    gap = [np.nan]
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"{name} ({len(curves):,})",
            "connectgaps": False,
            "x": _style.small(np.concatenate([part for one in curves for part in (one.epochs, gap)])),
            "y": _style.small(np.concatenate([part for one in curves for part in (one.scores, gap)])),
            "customdata": np.concatenate([np.full(len(one.epochs) + 1, one.number) for one in curves]),
            "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
            "line": {"color": color, "width": 1},
            "marker": {"size": 2.5, "color": color},
            "opacity": 0.75,
        }
    ]


def stops(curves: Sequence[LearningCurve]) -> list[dict[str, Any]]:
    """Mark the last epoch of trials that were stopped."""
    ended = [one for one in curves if len(one.epochs)]
    if not ended:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "stopped here",
            "x": [int(one.epochs[-1]) for one in ended],
            "y": _style.small([one.scores[-1] for one in ended]),
            "text": [_style.text(one.name) for one in ended],
            "hovertemplate": "%{text}: after epoch %{x}, %{y:.4f}<extra></extra>",
            "marker": {"color": _style.MUTED, "symbol": "triangle-down", "size": 8},
        }
    ]


def best(curve: LearningCurve, metric: str) -> dict[str, Any]:
    """Draw the best trial in front of the others."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"best: {_style.text(curve.name)}",
        "x": curve.epochs,
        "y": _style.small(curve.scores),
        "line": {"color": _style.VIVID[1], "width": 3},
        "marker": {"size": [13 if epoch == curve.kept else 6 for epoch in curve.epochs.tolist()], "opacity": 1},
        "hovertemplate": f"epoch %{{x}}: {metric} %{{y:.4f}}<extra></extra>",
    }


def band(curve: LearningCurve) -> list[dict[str, Any]]:
    """Draw one standard deviation over folds around a curve, where there are folds."""
    if not len(curve.spread):
        return []
    ends = np.concatenate([curve.scores - curve.spread, (curve.scores + curve.spread)[::-1]])
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "fill": "toself",
            "opacity": 0.25,
            "name": "± SD over folds",
            "x": np.concatenate([curve.epochs, curve.epochs[::-1]]),
            "y": _style.small(ends),
            "hoverinfo": "skip",
            "line": {"width": 0},
            "fillcolor": _style.VIVID[1],
        }
    ]
