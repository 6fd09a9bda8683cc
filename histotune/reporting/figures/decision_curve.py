"""Net benefit of acting on a model, compared with treating everybody or nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.errors import StudyError
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._calibrated import band, calibrated
from histotune.reporting.figures._select import BEST

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit of a model and of treating everybody, over the threshold probability.

    Attributes:
        thresholds: probability from which on a case is treated, [t].
        benefit: of the model, [t], in true positives per case; `low` and `high`, 95 % over resampled patients.
        everybody: of treating all cases, [t]; of treating none it is 0.
        prevalence: share of positive cases.
    """

    model: str
    cases: str
    event: str
    thresholds: np.ndarray
    benefit: np.ndarray
    low: np.ndarray
    high: np.ndarray
    everybody: np.ndarray
    prevalence: float
    number: int
    patients: int


def net_benefit(called: np.ndarray, hits: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return (true positives - false positives * t / (1 - t)) / n at each threshold t (Vickers & Elkin, 2006).

    Args:
        called: bool [n, t], whether a case is treated at a threshold.
        hits: bool [n], whether it is positive.
    """
    return (called * _worth(hits, thresholds)).mean(axis=0)


def _worth(hits: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return what treating each case is worth at each threshold, [n, t]."""
    return np.where(hits[:, None], 1.0, -thresholds / (1 - thresholds))


class DecisionCurves(Figure[DecisionCurve]):
    """Of held-out predictions at a temperature that other patients chose."""

    def __init__(self, of: str) -> None:
        self._of = of

    def compute(self, source: FigureSource) -> DecisionCurve:
        """Compute net benefits.

        Raises:
            StudyError: there are not two classes.
        """
        settings = source.settings
        if len(settings.classes) != 2:
            raise StudyError(
                f"a decision curve needs two classes, treat or not, and study {settings.name!r} has "
                f"{len(settings.classes)}: {', '.join(settings.classes)}"
            )
        result = calibrated(source, self._of)
        hits = result.labels == settings.positive
        called = result.after[:, [settings.positive]] >= THRESHOLDS
        worth = called * _worth(hits, THRESHOLDS)
        summed = np.column_stack([worth, np.ones(len(hits))])
        low, high = band(result.patients, summed, lambda s: s[:, :-1] / s[:, -1:])
        return DecisionCurve(
            model=result.model,
            cases=result.cases,
            event=settings.classes[settings.positive],
            thresholds=THRESHOLDS,
            benefit=net_benefit(called, hits, THRESHOLDS),
            low=low,
            high=high,
            everybody=net_benefit(np.ones_like(called), hits, THRESHOLDS),
            prevalence=float(hits.mean()),
            number=len(hits),
            patients=len(np.unique(result.patients)),
        )

    def draw(self, numbers: DecisionCurve) -> PlotlyFigure:
        """Draw the model's net benefit against those of treating everybody and nobody."""
        x, known = numbers.thresholds, ~np.isnan(numbers.low)
        color, other = (_style.place(k)["color"] for k in range(2))
        hover = "%{y:.3f} at %{x:.0%}<extra></extra>"
        line: dict[str, Any] = {"type": "scatter", "mode": "lines", "hovertemplate": hover, "x": x}
        traces: list[dict[str, Any]] = [
            {
                "type": "scatter",
                "mode": "none",
                "fill": "toself",
                "fillcolor": color,
                "opacity": 0.18,
                "x": np.concatenate([x[known], x[known][::-1]]),
                "showlegend": False,
                "hoverinfo": "skip",
                "y": np.concatenate([numbers.low[known], numbers.high[known][::-1]]),
            },
            line | {"y": numbers.benefit, "name": "model", "line": {"color": color, "width": 2.5}},
            line | {"y": numbers.everybody, "name": "treat all", "line": {"color": other, "dash": "dash"}},
            line | {"y": 0 * x, "name": "treat none", "line": {"color": _style.FAINT, "dash": "dot"}},
        ]
        top = max(numbers.prevalence, float(numbers.benefit.max())) * 1.08
        layout = {
            "xaxis": _style.axis("threshold probability", range=[0, 1], tickformat=".0%"),
            "yaxis": _style.axis("net benefit, true positives per case", range=[-0.25 * top, top]),
        }
        caption = (
            f"{numbers.model}; {numbers.cases}. {counted(numbers.number, 'case')} of "
            f"{counted(numbers.patients, 'patient')}, {numbers.prevalence:.0%} {numbers.event}. A case is "
            "treated if its probability reaches the threshold: at 20 %, one true positive is worth four false "
            "positives. Band: 95 % over resampled patients. Temperatures were fitted on other patients."
        )
        title = "Decision curve: net benefit of acting on the model"
        return _style.figure(title, caption, traces, layout, height=400, below=90)


@FIGURES.register("decision_curve", source="Vickers & Elkin, 2006")
def decision_curve(*, of: str | int = BEST) -> DecisionCurves:
    """Net benefit over the threshold probability; `of` is best, a trial's number or a name of the leaderboard."""
    return DecisionCurves(str(of))
