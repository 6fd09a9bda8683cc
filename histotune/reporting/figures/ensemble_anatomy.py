"""The members of an ensemble: the weight and score of each, and the correlation of their errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.format import counted
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._select import BEST, ensembles, find
from histotune.reporting.figures._strips import joined, members_of, weights_of
from histotune.studies.leaderboard import ENSEMBLE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from typing import TYPE_CHECKING, Any

from histotune.metrics.scores import in_words
from histotune.reporting.figures._losses import short
from histotune.reporting.figures._select import panel_title

LATEST = "latest"
_ROW, _GAP, _TABLE = 22, 96, 270  # pixels
_FEW, _ROWS = 8, 30  # members whose numbers stand in the cells; that are drawn as rows


@dataclass(frozen=True)
class Anatomy:
    """An ensemble of M members.

    Attributes:
        name, strategy: of the ensemble.
        metric: the study's; `score`: what the ensemble reaches.
        members: [M] names, as it was built.
        weights: float64 [M], shares that sum to 1; NaN where the strategy gives no member a weight.
        scores: float64 [M], of each member alone, uncalibrated.
        disagreement: float64 [M, M], share of the cases for which two members predict different classes.
        correlation: float64 [M, M], of their errors (phi); NaN where one of them makes none, or nothing else.
        about: which cases of which study.
    """

    name: str
    strategy: str
    metric: str
    score: float
    members: tuple[str, ...]
    weights: np.ndarray
    scores: np.ndarray
    disagreement: np.ndarray
    correlation: np.ndarray
    about: str


def pairwise(predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return disagreement and correlation of errors of every two members, float64 [M, M] each.

    Args:
        predicted: classes, int64 [M, n].
        labels: int64 [n].

    >>> disagree, alike = pairwise(np.array([[0, 1, 1, 0], [0, 1, 0, 1]]), np.array([0, 1, 1, 1]))
    >>> float(disagree[0, 1]), round(float(alike[0, 1]), 3)
    (0.5, -0.333)
    """
    different = (predicted[:, None, :] != predicted[None]).mean(axis=2)
    wrong = (predicted != labels).astype(np.float64)
    centred = wrong - wrong.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).sum(axis=1))
    both = spread[:, None] * spread[None]
    alike = np.divide(centred @ centred.T, both, out=np.full(both.shape, np.nan), where=both > 0)
    return different, alike


class EnsembleAnatomy(Figure[Anatomy]):
    """Of the members' saved predictions; no network runs."""

    def __init__(self, of: str) -> None:
        self._of = of

    def compute(self, source: FigureSource) -> Anatomy:
        """Compare the members case by case."""
        study, metric = source.settings.name, source.settings.metric
        result = ensembles(source) if self._of == LATEST else [find(source, self._of, also=[LATEST])]
        if not result:
            find(source, BEST)  # or raises that there is nothing to combine
            raise StudyError(f"study {study!r} has no ensemble yet: `histotune ensemble {study} --top 5` builds one")
        line = result[0]
        if line.kind != ENSEMBLE:
            raise StudyError(f"{line.title} of study {study!r} is not an ensemble: `of` is latest or the name of one")
        text = joined(line)
        members, saved = members_of(source, text)
        probabilities = [metrics.softmax(one.logits) for one in saved]
        labels = saved[0].labels
        scores = [metrics.score(metric, one, labels, positive=source.settings.positive) for one in probabilities]
        different, alike = pairwise(np.stack([metrics.decide(one) for one in probabilities]), labels)
        return Anatomy(
            name=line.name,
            strategy=text["strategy"],
            metric=metric,
            score=metrics.score(
                metric, metrics.softmax(line.record.predictions().logits), labels, positive=source.settings.positive
            ),
            members=members,
            weights=weights_of(text, len(members), len(source.settings.classes)),
            scores=np.array(scores),
            disagreement=different,
            correlation=alike,
            about=source.scored_on(),
        )

    def draw(self, numbers: Anatomy) -> PlotlyFigure:
        """Draw score and weight by member, and below disagreement and error correlation of every two members."""
        traces, layout, height = panels(numbers)
        equal = (
            "" if not np.isnan(numbers.weights).any() else f" The strategy {numbers.strategy} gives no member a weight."
        )
        caption = (
            f"Ensemble {numbers.name} ({numbers.strategy}) of {counted(len(numbers.members), 'member')}."
            f"{equal} Members complement each other if their errors have a low correlation (1: errors on the same "
            f"cases) and their disagreement is high. Measured on the cases that selected them: {numbers.about}."
        )
        title = "Weight and score of each ensemble member, and correlation of their errors"
        return _style.figure(title, caption, traces, layout, height=height, above=24)


@FIGURES.register("ensemble_anatomy")
def ensemble_anatomy(*, of: str = LATEST) -> EnsembleAnatomy:
    """Weight and score of each ensemble member, and correlation of their errors; `of` is latest or a name."""
    return EnsembleAnatomy(of)


def panels(numbers: Anatomy) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels."""
    ranked = np.argsort(-np.nan_to_num(numbers.weights), kind="stable")
    order = ranked[:_ROWS]
    rows = len(order)
    above = _ROW * max(rows, 2)
    whole = above + _GAP + _TABLE
    low = 1 - above / whole
    names = [_style.text(short(numbers.members[at], 22)) for at in order]
    ticks = {"tickvals": [*range(rows)], "ticktext": names, "range": [rows - 0.4, -0.6], "ticks": ""}
    metric = in_words(numbers.metric)
    shares, places = 100 * numbers.weights[order], [*range(rows)]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "x": _style.small(shares, 3),
            "y": places,
            "hoverinfo": "x",
            "marker": {"color": _style.VIVID[4]},
            "xaxis": "x2",
            "yaxis": "y2",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": _style.small(numbers.scores[order]),
            "y": places,
            "marker": {"color": _style.VIVID[0], "size": 9},
            "hovertemplate": f"{metric} %{{x:.4f}}<extra></extra>",
        },
    ]
    axes = {"domain": [low, 1.0], "showgrid": False, **ticks}
    layout: dict[str, Any] = {
        "yaxis": _style.axis("", **axes),
        "yaxis2": _style.axis("", **axes, anchor="x2", showticklabels=False),
        "xaxis": _style.axis(metric, domain=[0, 0.52], anchor="y", nticks=4),
        "xaxis2": _style.axis("weight, %", domain=[0.6, 1.0], anchor="y2", rangemode="tozero", nticks=4),
        "shapes": [
            {
                "type": "line",
                "x0": numbers.score,
                "x1": numbers.score,
                "y0": 0,
                "y1": 1,
                "yref": "y domain",
                "line": {"color": _style.VIVID[1], "width": 2, "dash": "dash"},
            }
        ],
        "annotations": [
            panel_title(f"dashed: ensemble, {numbers.score:.4f}", {"xref": "x domain", "yref": "y domain"})
        ],
        "showlegend": False,
    }
    tables = (("disagreement", numbers.disagreement, 0.0), ("error correlation", numbers.correlation, 0.54))
    for at, (title, values, left) in enumerate(tables, 3):
        domain = [left, left + 0.46]
        traces.append(_table(values[np.ix_(ranked, ranked)], at))
        plain = {
            "showgrid": False,
            "ticks": "",
            "showline": False,
            "tickvals": [*range(len(values))],
            "ticktext": [_style.text(short(numbers.members[one], 9)) for one in ranked],
            "showticklabels": len(values) <= 2 * _FEW,
            "tickfont": {"size": 10},
        }
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
        "type": "heatmap",
        "z": _style.small(shown.ravel(), 4).reshape(shown.shape),
        "xaxis": f"x{at}",
        "yaxis": f"y{at}",
        "colorscale": _style.SHARES,
        "zmin": 0,
        "zmax": 1 if at == 4 else max(0.1, float(np.nanmax(shown, initial=0))),
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "text": words if few else None,
        "texttemplate": "%{text}" if few else None,
        "hovertemplate": "%{x}, %{y}: %{z:.3f}<extra></extra>",
    }
