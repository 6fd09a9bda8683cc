"""Precision-recall curve."""

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


def precision_recall_points(true: np.ndarray, called: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision of each step, and (0, 1) before them, of hits and cases called.

    >>> precision_recall_points(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0]))
    (array([0. , 0.5, 0.5, 1. ]), array([1. , 1. , 0.5, 0.5]))
    """
    recall = np.divide(true, true[-1], out=np.full(len(true), np.nan), where=true[-1] > 0)
    precision = np.divide(true, called, out=np.ones(len(true)), where=called > 0)
    return np.insert(recall, 0, 0.0), np.insert(precision, 0, 1.0)


def read_steps(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Read the precision of the first threshold that reaches a recall: no straight line between two is real."""
    if not np.isfinite(x).all():
        return np.full(len(places), np.nan)
    read: np.ndarray = y[np.minimum(np.searchsorted(x, places - 1e-12), len(y) - 1)]
    return read


PRECISION_RECALL = Kind(precision_recall_points, read_steps, "average_precision")


class PrecisionRecallCurve(Figure[Operating]):
    """Best trial, latest ensemble and best baseline on the cases that they were scored on."""

    def __init__(self, label: str) -> None:
        self._label = label

    def compute(self, source: FigureSource) -> Operating:
        """Count what every threshold calls."""
        return operating(source, PRECISION_RECALL, self._label)

    def draw(self, numbers: Operating) -> PlotlyFigure:
        """Draw the curves over their bands, and the precision of predicting every case as positive."""
        share = numbers.prevalence
        chance = {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [share, share],
            "hoverinfo": "skip",
            "name": f"chance {share:.3f}",
            "line": {"color": _style.MUTED, "width": 1, "dash": "dot"},
        }
        layout = {
            "xaxis": _style.axis("recall (sensitivity)", range=[-0.01, 1.01]),
            "yaxis": _style.axis("precision (positive predictive value)", range=[-0.01, 1.03]),
            "showlegend": True,
        }
        title = f"Precision-recall curve of {of_which_class(numbers)}"
        caption = (
            "Bands and intervals of the areas (average precision): 95 %, pointwise, over resampled patients. Precision "
            f"depends on the prevalence of the class, here {share:.1%}. Trial and ensemble were selected on these same "
            f"cases: {numbers.about}."
        )
        traces = [chance, *curves_with_bands(numbers, "AP")]
        return _style.figure(title, caption, traces, layout, height=480, below=96)


@FIGURES.register("precision_recall_curve")
def precision_recall_curve(*, label: str = MACRO) -> PrecisionRecallCurve:
    """Precision-recall curve of best trial, latest ensemble and best baseline; `label` is macro or a class."""
    return PrecisionRecallCurve(label)
