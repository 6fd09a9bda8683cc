"""Importance of the parameters, over all trials and within each branch of the search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.errors import StudyError
from histotune.metrics.scores import in_words
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._parameters import Tried, labels, tried, upwards
from histotune.space import Condition
from histotune.tuning.parameter_importance import LEAST, LEAST_BEST, MOST, SHUFFLES, importances

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from histotune.reporting.figures._losses import short
from histotune.reporting.figures._select import panel_title

_ROW, _HEAD, _AXIS = 19, 40, 46  # pixels
_MOST = 8  # parameters of a panel that are drawn


@dataclass(frozen=True)
class ImportancePanel:
    """Importance of parameters among some trials.

    Attributes:
        branch: which trials, such as `loss focal`.
        trials, complete: how many, and how many of them were not stopped.
        names: of the parameters, the most important first; `labels`: short ones.
        shares: float64, sum to 1.
        chances: float64, what chance reaches.
    """

    branch: str
    trials: int
    complete: int
    names: tuple[str, ...]
    labels: tuple[str, ...]
    shares: np.ndarray
    chances: np.ndarray


@dataclass(frozen=True)
class ParameterImportance:
    """Importance by branch of the space, all trials first; `left_out`: branches with too few trials."""

    metric: str
    panels: tuple[ImportancePanel, ...]
    left_out: tuple[str, ...]
    about: str


class ByParameter(Figure[ParameterImportance]):
    """PED-ANOVA over all trials and within every option of every switch, where parameters of its own exist."""

    def compute(self, source: FigureSource) -> ParameterImportance:
        """Compare the best trials with all of them."""
        result = tried(source)
        short = labels([parameter.path for parameter in source.space.parameters()])
        branches: list[tuple[str, Condition]] = [("all trials", ())]
        branches += [(", ".join(f"{short[path]} {o}" for path, o in one), one) for one in source.space.branches()]
        panels, left_out = [], []
        for name, branch in branches:
            panel = _panel(source, result, name, branch)
            if panel is not None:
                panels.append(panel)
            else:
                left_out.append(f"{name} ({int(result.within(branch).sum()):,})")
        if not panels:
            raise StudyError(
                f"parameter importance needs {LEAST} complete or stopped trials, {LEAST_BEST} of them complete, and "
                f"study {source.settings.name!r} has {len(result.lines)} and {int(result.complete.sum())}: search on"
            )
        return ParameterImportance(source.settings.metric, tuple(panels), tuple(left_out), source.scored_on())

    def draw(self, numbers: ParameterImportance) -> PlotlyFigure:
        """Draw bars, panel by panel, each with a mark at what chance reaches."""
        traces, layout, height = bars(numbers.panels)
        metric = in_words(numbers.metric)
        caption = (
            "PED-ANOVA: how differently the best tenth of the trials (at least four) and all trials are distributed "
            "over a parameter; the shares of a panel sum to 1. Stopped trials do not count among the best, because "
            f"they were behind at the same epoch. The line marks the highest share in {SHUFFLES} shuffles of the "
            f"scores: a grey bar, below it, shows no effect. At most {MOST} trials per panel, sampled evenly. Metric: "
            f"{metric} on {numbers.about}."
        )
        if numbers.left_out:
            caption += f" Branches with too few trials: {', '.join(numbers.left_out)}."
        title = f"Parameter importance for validation {metric}, by branch"
        return _style.figure(title, caption, traces, layout, height=height, above=24)


@FIGURES.register("parameter_importance")
def parameter_importance() -> ByParameter:
    """Importance of the parameters (PED-ANOVA), over all trials and within each loss or other branch."""
    return ByParameter()


def _panel(source: FigureSource, result: Tried, name: str, branch: Condition) -> ImportancePanel | None:
    """Measure one branch: what exists in all its trials, and nothing of other branches."""
    rows = np.flatnonzero(result.within(branch))
    values = [result.values[row] for row in rows]
    everywhere = [one for one in source.space.parameters() if all(one.path in each for each in values)]
    scores = upwards(source, np.where(result.complete[rows], result.scores[rows], np.nan))
    ranked = importances(everywhere, values, scores)
    if not ranked:
        return None
    short = labels([parameter.path for parameter in source.space.parameters()])
    return ImportancePanel(
        branch=name,
        trials=len(rows),
        complete=int(result.complete[rows].sum()),
        names=tuple(one.name for one in ranked),
        labels=tuple(short[one.name] for one in ranked),
        shares=np.array([one.share for one in ranked]),
        chances=np.array([one.chance for one in ranked]),
    )


def bars(panels: Sequence[ImportancePanel]) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
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
        traces += _bars_panel(panel, count, {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
    return traces, layout, drawn + _AXIS


def _bars_panel(panel: ImportancePanel, count: int, axes: dict[str, str]) -> list[dict[str, Any]]:
    shares, chances = panel.shares[:count], panel.chances[:count]
    colors = np.where(shares > chances, _style.VIVID[0], _style.MUTED)
    text = [_style.text(name) for name in panel.names[:count]]
    whole = {
        "customdata": [[name, round(float(chance), 3)] for name, chance in zip(text, chances, strict=True)],
        "hovertemplate": "%{customdata[0]}: %{x:.3f}, chance %{customdata[1]:.3f}<extra></extra>",
    }
    places = {"y": [*range(count)], "orientation": "h"}
    return [
        {"type": "bar", "x": _style.small(shares, 4), "marker": {"color": colors}, **places, **whole, **axes},
        {
            "type": "scatter",
            "mode": "markers",
            "x": _style.small(np.minimum(chances, 1.0), 4),
            "y": [*range(count)],
            "marker": {"symbol": "line-ns", "size": 13, "line": {"width": 2, "color": _style.VIVID[1]}},
            "hoverinfo": "skip",
            **axes,
        },
    ]
