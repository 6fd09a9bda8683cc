"""Confusion matrix: cases by true and predicted class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource, call
from histotune.reporting.figures._select import BEST, find
from histotune.storage.seal import SEALED

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

EVALUATION = "evaluation"
_FEW = 4  # classes up to which a cell has room for tenths of a percent


@dataclass(frozen=True)
class Confusion:
    """Cases by true and predicted class.

    Attributes:
        model: what predicted.
        part: which cases these are.
        classes: [C] names.
        counts: int64 [C, C], rows are the true class, columns the predicted one.
        patients: how many the cases come from.
        note: what else a reader must know.
    """

    model: str
    part: str
    classes: tuple[str, ...]
    counts: np.ndarray
    patients: int
    note: str = ""

    @property
    def shares(self) -> np.ndarray:
        """Counts as shares of their row, float64 [C, C]; NaN in the row of a class without cases."""
        rows = self.counts.sum(axis=1, keepdims=True)
        return np.divide(self.counts, rows, out=np.full(self.counts.shape, np.nan), where=rows > 0)


def confusion(
    probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray, classes: Sequence[str], **about: str
) -> Confusion:
    """Count the class of highest probability [n, C] against labels [n]; `about` is `model`, `part` and `note`."""
    counts = metrics.confusion_matrix(metrics.decide(probabilities), labels, len(classes))
    return Confusion(classes=tuple(classes), counts=counts, patients=len(np.unique(patients)), **about)


class ConfusionMatrix(Figure[Confusion]):
    """Of a model's saved validation predictions, or of the latest evaluation on the sealed test set."""

    def __init__(self, of: str) -> None:
        self._of = of

    def compute(self, source: FigureSource) -> Confusion:
        """Count what the model predicted."""
        if self._of == EVALUATION:
            return _of_evaluation(source)
        line = find(source, self._of, also=[EVALUATION])
        saved = line.record.predictions()
        probabilities = metrics.softmax(saved.logits)
        part = f"validation set of {source}"
        return confusion(
            probabilities, saved.labels, saved.patients, source.settings.classes, model=call(line), part=part
        )

    def draw(self, numbers: Confusion) -> PlotlyFigure:
        """Draw a matrix of shares with the counts in its cells."""
        shares, classes = numbers.shares, list(numbers.classes)
        names = [*map(_style.text, classes)]
        tenths = len(classes) <= _FEW
        words = [
            [_cell(share, count, tenths) for share, count in zip(*row, strict=True)]
            for row in zip(shares, numbers.counts, strict=True)
        ]
        matrix = {
            "type": "heatmap",
            "z": shares,
            "x": names,
            "y": names,
            "zmin": 0,
            "zmax": 1,
            "xgap": 2,
            "ygap": 2,
            "colorscale": _style.SHARES,
            "showscale": False,
            "text": words,
            "texttemplate": "%{text}",
            "textfont": {"size": 15 if tenths else 10},
            "hovertemplate": "true %{y}, predicted %{x}<br>%{text}<extra></extra>",
        }
        plain = {"showgrid": False, "showline": False, "ticks": "", "type": "category"}
        layout = {
            "xaxis": _style.axis("predicted class", **plain),
            "yaxis": _style.axis("true class", autorange="reversed", **plain),
        }
        known = int(numbers.counts.sum())
        caption = (
            f"{numbers.model}; {numbers.part}. {counted(known, 'case')} of "
            f"{counted(numbers.patients, 'patient')}. Each row sums to 100 %; the number of cases is below the "
            f"percentage. The predicted class is the one with the highest probability. {numbers.note}"
        )
        where = f" on the {numbers.part.partition(' of ')[0]}" if numbers.part else ""
        title = f"Confusion matrix{where}, % of the true class"
        return _style.figure(title, caption.strip(), [matrix], layout, height=120 + 70 * max(3, min(len(classes), 8)))


@FIGURES.register("confusion_matrix")
def confusion_matrix(*, of: str | int = BEST) -> ConfusionMatrix:
    """Cases by true and predicted class; `of` is best, evaluation, a trial's number or a name of the leaderboard."""
    return ConfusionMatrix(str(of))


def _of_evaluation(source: FigureSource) -> Confusion:
    sealed = [one for one in source.store.evaluations() if one["part"] == SEALED]
    if not sealed:
        raise StudyError(
            f"study {source.settings.name!r} has not been evaluated: `histotune evaluate EXPORT` does this "
            "on its sealed test set"
        )
    latest: Mapping[str, Any] = sealed[-1]
    return Confusion(
        model=f"export {latest['export']}",
        part=f"sealed test set of {source}",
        classes=tuple(latest["classes"]),
        counts=np.array(latest["confusion"], dtype=np.int64),
        patients=latest["patients"],
        note=latest["note"],
    )


def _cell(share: float, count: int, tenths: bool) -> str:
    if np.isnan(share):
        return "-"
    return f"{share:.1%}<br>{count:,}" if tenths else f"{share:.0%}<br>{count:,}"
