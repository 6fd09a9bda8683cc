"""Score against cost: latency, parameters and seconds of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core import files
from histotune.core.format import counted
from histotune.metrics import pareto
from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource, call
from histotune.reporting.figures._select import BEST, find
from histotune.storage import layout
from histotune.storage.study_folder import COMPLETE
from histotune.studies.leaderboard import TRIAL, components

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from typing import TYPE_CHECKING, Any

_PANEL, _GAP = 190, 62  # pixels
_WIDE = 20  # how many times the lowest cost the highest is where an axis is logarithmic


@dataclass(frozen=True)
class Price:
    """One cost of n models.

    Attributes:
        name: of the cost, with its unit.
        values: float64 [n]; NaN where it was not measured.
        front: bool [n], whether no other model is as good in metric and cost and better in one.
    """

    name: str
    values: np.ndarray
    front: np.ndarray


@dataclass(frozen=True)
class Costs:
    """Complete trials, single trainings and ensembles by their costs.

    Attributes:
        metric: the study's.
        names: of the models, the best first; `losses`: their losses, "" for an ensemble.
        scores: float64 [n].
        prices: of which at least one model has a value.
        tied: bool [n], whether `histotune confirm` found no significant difference from the best.
        confirmed: whether it was run.
        about: on how many cases of which study.
    """

    metric: str
    names: tuple[str, ...]
    losses: tuple[str, ...]
    scores: np.ndarray
    prices: tuple[Price, ...]
    tied: np.ndarray
    confirmed: bool
    about: str


class CostFigure(Figure[Costs]):
    """Each cost in a panel, with the Pareto front of score and cost."""

    def compute(self, source: FigureSource) -> Costs:
        """Read what the models cost."""
        find(source, BEST)  # or raises that there is none yet
        metric = source.settings.metric
        models = [line for line in source.models() if not np.isnan(line.record.metrics[metric])]
        scores = np.array([line.record.metrics[metric] for line in models], dtype=np.float64)
        sign = metrics.direction(metric)
        columns = {
            "milliseconds per case": [line.record.metrics.get("latency_ms", np.nan) for line in models],
            "parameters": [line.record.parameters or np.nan for line in models],
            "seconds of training": [line.record.seconds or np.nan for line in models],
        }
        prices = []
        for name, column in columns.items():
            values = np.array(column, dtype=np.float64)
            if not np.isnan(values).all():
                prices.append(Price(name, values, pareto.front(np.stack([scores, values], axis=1), [sign, -1.0])))
        path = source.store.folder / layout.CONFIRM / layout.CONFIRMATION
        text = files.read_json(path) if path.exists() else {}
        numbers = {one["number"] for one in text.get("contenders", []) if one["tied"]}
        tied = [line.kind == TRIAL and line.record.number in numbers for line in models]
        return Costs(
            metric,
            tuple(call(line) for line in models),
            tuple(components(line)[0] for line in models),
            scores,
            tuple(prices),
            np.array(tied, dtype=bool),
            bool(text),
            source.scored_on(),
        )

    def draw(self, numbers: Costs) -> PlotlyFigure:
        """Draw one panel per cost, below each other, over the same axis of the metric."""
        metric = metrics.in_words(numbers.metric)
        traces, layout, height = panels(numbers, metric)
        caption = (
            f"{counted(len(numbers.names), f'{COMPLETE} model')} scored on {numbers.about}. The line joins the "
            "Pareto front: no other model is at least as good in score and cost and better in one of them. Latency: "
            "median for one case on the trial's own device. The costs of an ensemble are the sums over its members."
        )
        if numbers.confirmed:
            caption += (
                f" Ring: not significantly different from the best in the confirmation ({int(numbers.tied.sum())})."
            )
        title = f"Validation {metric} by latency, parameters and training time"
        return _style.figure(title, caption, traces, layout, height=height, below=50)


@FIGURES.register("cost")
def cost() -> CostFigure:
    """Validation metric by latency, parameters and seconds of training, with Pareto front and, once confirmed, ties."""
    return CostFigure()


def panels(numbers: Costs, metric: str) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels."""
    count = len(numbers.prices)
    whole = count * _PANEL + (count - 1) * _GAP
    layout: dict[str, Any] = {"showlegend": True}
    traces: list[dict[str, Any]] = []
    for at, price in enumerate(numbers.prices):
        suffix = "" if at == 0 else str(at + 1)
        top = 1 - at * (_PANEL + _GAP) / whole
        layout[f"yaxis{suffix}"] = _style.axis(metric, domain=[max(0.0, top - _PANEL / whole), top], nticks=6)
        known = price.values[~np.isnan(price.values)]
        scale = "log" if known.min() > 0 and known.max() > _WIDE * known.min() else "linear"
        layout[f"xaxis{suffix}"] = _style.axis(price.name, anchor=f"y{suffix}", type=scale, nticks=6)
        traces += _panel(numbers, price, {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}, first=at == 0)
    return traces, layout, whole + 100


def _panel(numbers: Costs, price: Price, axes: dict[str, str], *, first: bool) -> list[dict[str, Any]]:
    names = [_style.text(name) for name in numbers.names]
    order = np.flatnonzero(price.front)
    order = order[np.argsort(price.values[order], kind="stable")]
    single = np.array([loss != "" for loss in numbers.losses], dtype=bool) & ~np.isnan(price.values)
    joint = ~single & ~np.isnan(price.values)
    groups: list[tuple[str, np.ndarray, str, dict[str, Any]]] = [
        ("trial", np.flatnonzero(single & ~price.front), "markers", {"color": _style.MUTED, "symbol": "circle"}),
        ("ensemble", np.flatnonzero(joint & ~price.front), "markers", {"color": _style.VIVID[3], "symbol": "square"}),
        ("Pareto front", order, "lines+markers", {"color": _style.VIVID[0], "symbol": "diamond", "size": 9}),
        (
            "tied with the best",
            np.flatnonzero(numbers.tied & ~np.isnan(price.values)),
            "markers",
            {"color": _style.VIVID[1], "symbol": "circle-open", "size": 16, "line": {"width": 2}},
        ),
    ]
    return [
        {
            "type": "scatter",
            "mode": mode,
            "name": name,
            "legendgroup": name,
            "showlegend": first,
            **axes,
            "x": _style.small(price.values[rows], 3),
            "y": _style.small(numbers.scores[rows]),
            "marker": {"size": 7, **look},
            "line": {"width": 1.5, "color": look["color"]},
            "text": [names[row] for row in rows],
            "hovertemplate": "%{text}: %{y:.4f}, %{x:,.4~g}<extra></extra>",
        }
        for name, rows, mode, look in groups
        if len(rows)
    ]
