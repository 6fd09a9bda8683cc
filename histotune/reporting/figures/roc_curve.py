"""ROC curve: sensitivity by 1 - specificity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._threshold_curves import (
    MACRO,
    Kind,
    Operating,
    curves_with_bands,
    of_which_class,
    operating,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


def roc_points(true: np.ndarray, called: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates from (0, 0) to (1, 1), of hits and cases called at each step.

    >>> roc_points(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0]))
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 0.5, 1. ]))
    """
    false = called - true
    rates = [
        np.divide(counts, counts[-1], out=np.full(len(counts), np.nan), where=counts[-1] > 0)
        for counts in (false, true)
    ]
    return np.insert(rates[0], 0, 0.0), np.insert(rates[1], 0, 0.0)


def read_line(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Read a curve of straight lines; on an upright one its upper end."""
    return np.interp(places, x, y) if np.isfinite(x).all() else np.full(len(places), np.nan)


ROC = Kind(roc_points, read_line, "auroc")


class RocCurve(Figure[Operating]):
    """Best trial, latest ensemble and best baseline on the cases that they were scored on."""

    def __init__(self, label: str) -> None:
        self._label = label

    def compute(self, source: FigureSource) -> Operating:
        """Count what every threshold calls."""
        return operating(source, ROC, self._label)

    def draw(self, numbers: Operating) -> PlotlyFigure:
        """Draw the curves over their bands, and the line of chance."""
        chance = {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "hoverinfo": "skip",
            "name": "chance",
            "line": {"color": _style.MUTED, "width": 1, "dash": "dot"},
        }
        layout = {
            "xaxis": _style.axis("1 - specificity", range=[-0.01, 1.01], constrain="domain"),
            "yaxis": _style.axis("sensitivity", range=[-0.01, 1.01], scaleanchor="x", constrain="domain"),
            "showlegend": True,
        }
        title = f"ROC curve of {of_which_class(numbers)}"
        caption = (
            "Bands and intervals of the areas: 95 %, pointwise, over resampled patients. Trial and ensemble were "
            f"selected on these same cases: {numbers.about}."
        )
        traces = [chance, *curves_with_bands(numbers, "AUROC")]
        return _style.figure(title, caption, traces, layout, height=520, below=96)


@FIGURES.register("roc_curve")
def roc_curve(*, label: str = MACRO) -> RocCurve:
    """ROC of best trial, latest ensemble and best baseline, with bands; `label` is macro or a class."""
    return RocCurve(label)
