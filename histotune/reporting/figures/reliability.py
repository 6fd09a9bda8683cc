"""Reliability diagram: predicted probability against observed frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval
from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._calibrated import band, calibrated
from histotune.reporting.figures._select import BEST

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


@dataclass(frozen=True)
class ReliabilityCurve:
    """One line of the diagram, bin by bin.

    Attributes:
        name: of the line.
        predicted, observed: mean probability and observed share of cases, [bins].
        low, high: of `observed`, 95 % over resampled patients; NaN where that is not known.
        counts: cases of each bin.
        ece: expected calibration error as `metrics` has it, of the predicted class.
    """

    name: str
    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    ece: float


@dataclass(frozen=True)
class Reliability:
    """Curves of one model; `event` is what the probability is of."""

    model: str
    cases: str
    event: str
    curves: tuple[ReliabilityCurve, ...]
    number: int
    patients: int


def curve(
    name: str, probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray, *, positive: int, bins: int
) -> ReliabilityCurve:
    """Cut cases into bins of as many cases each and compare predicted probabilities with observed shares.

    Args:
        probabilities: [n, C]; of two classes that of the positive one counts, of more that of the predicted one.
        bins: how many; equal probabilities stay in one bin, so that there may be fewer.
    """
    if probabilities.shape[1] == 2:
        predicted, hit = probabilities[:, positive], labels == positive
    else:
        predicted, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    names, member = np.unique(np.searchsorted(edges, predicted, side="right"), return_inverse=True)
    inside = np.eye(len(names))[member]  # [n, bins]
    counts = inside.sum(axis=0)

    def shares(sums: np.ndarray) -> np.ndarray:
        hits, cases = np.split(sums, 2, axis=1)
        return np.divide(hits, cases, out=np.full(hits.shape, np.nan), where=cases > 0)

    low, high = band(patients, np.concatenate([inside * hit[:, None], inside], axis=1), shares)
    ece = metrics.score("ece", probabilities, labels)
    return ReliabilityCurve(name, inside.T @ predicted / counts, inside.T @ hit / counts, low, high, counts, ece)


class ReliabilityDiagram(Figure[Reliability]):
    """Of held-out predictions, as trained and at a temperature that other patients chose."""

    def __init__(self, of: str, bins: int) -> None:
        self._of, self._bins = of, bins

    def compute(self, source: FigureSource) -> Reliability:
        """Compare the model's probabilities with observed shares."""
        result, positive = calibrated(source, self._of), source.settings.positive
        classes = source.settings.classes
        sides = {"as trained": result.before} if result.tempered else {}
        sides["after temperature scaling" if result.tempered else "with its temperature"] = result.after
        curves = tuple(
            curve(name, p, result.labels, result.patients, positive=positive, bins=self._bins)
            for name, p in sides.items()
        )
        event = classes[positive] if len(classes) == 2 else "the predicted class"
        number, patients = len(result.labels), len(np.unique(result.patients))
        return Reliability(result.model, result.cases, event, curves, number, patients)

    def draw(self, numbers: Reliability) -> PlotlyFigure:
        """Draw observed over predicted shares, with bands, and the diagonal of perfect calibration."""
        traces: list[dict[str, Any]] = [
            {
                "type": "scatter",
                "x": [0, 1],
                "y": [0, 1],
                "mode": "lines",
                "name": "perfect calibration",
                "hoverinfo": "skip",
                "line": {"color": _style.FAINT, "dash": "dash", "width": 1},
            }
        ]
        for index, one in enumerate(numbers.curves):
            traces += _traces(one, index if len(numbers.curves) > 1 else 1)
        axis = {"range": [-0.02, 1.02], "tickformat": ".0%", "dtick": 0.2}
        layout = {
            "xaxis": _style.axis(f"predicted probability of {numbers.event}", **axis),
            "yaxis": _style.axis("observed share of cases", **axis),
        }
        caption = (
            f"{numbers.model}; {numbers.cases}. {counted(numbers.number, 'case')} of "
            f"{counted(numbers.patients, 'patient')} in bins of equally many cases. The temperature for a case "
            "was fitted on other patients. Bands: 95 % over resampled patients. ECE: "
            f"{metrics.ECE_BINS} equal-width bins of the predicted class's probability."
        )
        return _style.figure(
            "Reliability diagram: predicted probability and observed share",
            caption,
            traces,
            layout,
            height=470,
            below=90,
        )


@FIGURES.register("reliability", ranges={"bins": Interval(2, 100, whole=True)}, source="DeGroot & Fienberg, 1983")
def reliability(*, of: str | int = BEST, bins: int = 10) -> ReliabilityDiagram:
    """Predicted probability against observed share; `of` is best, a trial's number or a name of the leaderboard."""
    return ReliabilityDiagram(str(of), bins)


def _traces(one: ReliabilityCurve, index: int) -> list[dict[str, Any]]:
    color = _style.place(index)["color"]
    known = ~np.isnan(one.low)
    around = np.concatenate([one.low[known], one.high[known][::-1]])
    along = np.concatenate([one.predicted[known], one.predicted[known][::-1]])
    line = {
        "type": "scatter",
        "x": one.predicted,
        "y": one.observed,
        "mode": "lines+markers",
        "name": f"{one.name}, ECE {one.ece:.3f}",
        "customdata": one.counts,
        "line": {"color": color},
        "marker": {"symbol": _style.place(index)["symbol"], "size": 8},
        "hovertemplate": "predicted %{x:.1%}, observed %{y:.1%}<br>%{customdata} cases<extra></extra>",
    }
    filled = {
        "type": "scatter",
        "x": along,
        "y": around,
        "fill": "toself",
        "fillcolor": color,
        "opacity": 0.18,
        "mode": "none",
        "showlegend": False,
        "hoverinfo": "skip",
    }
    return [filled, line]
