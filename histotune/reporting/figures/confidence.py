"""Predicted probability by true class, and the most confident errors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval
from histotune.core.runtime import Places
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._errors import CaseError, confident_errors, scored
from histotune.reporting.figures._select import BEST, find
from histotune.storage.records import read_ensemble
from histotune.storage.study_folder import StudyFolder
from histotune.studies.leaderboard import ENSEMBLE

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure as PlotlyFigure
from typing import TYPE_CHECKING, Any

from histotune.reporting.figures._select import panel_title

BINS = 20


@dataclass(frozen=True)
class Confidence:
    """Histograms of a probability.

    Attributes:
        model: what predicted.
        axis: whose probability it is.
        groups: of the histograms: the true classes if there are two, else correct and wrong predictions.
        counts: int64 [groups, BINS], of equal bins from 0 to 1.
        threshold: from which on the positive class is predicted; NaN with more than two classes.
        operating: the ensemble's operating threshold; NaN where there is none.
        mistakes: errors, the most confident first.
        wrong: how many errors there are in all.
        about: which cases of which study.
    """

    model: str
    axis: str
    groups: tuple[str, ...]
    counts: np.ndarray
    threshold: float
    operating: float
    mistakes: tuple[CaseError, ...]
    wrong: int
    about: str


class ByConfidence(Figure[Confidence]):
    """Of a model's saved validation predictions."""

    def __init__(self, of: str, most: int) -> None:
        self._of, self._most = of, most

    def compute(self, source: FigureSource) -> Confidence:
        """Count probabilities by bin."""
        classes, positive = source.settings.classes, source.settings.positive
        model, saved, probabilities = scored(source, self._of)
        two = len(classes) == 2
        wrong = probabilities.argmax(axis=1) != saved.labels
        shown = probabilities[:, positive] if two else probabilities.max(axis=1)
        member = saved.labels if two else wrong.astype(np.int64)
        places = np.clip((shown * BINS).astype(np.int64), 0, BINS - 1)
        counts = np.stack([np.bincount(places[member == one], minlength=BINS) for one in range(2)])
        return Confidence(
            model=model,
            axis=f"probability of {classes[positive]}" if two else "probability of the predicted class",
            groups=tuple(f"true class {name}" for name in classes)
            if two
            else ("correct predictions", "wrong predictions"),
            counts=counts,
            threshold=0.5 if two else float("nan"),
            operating=_operating(source, self._of) if two else float("nan"),
            mistakes=confident_errors(saved, probabilities, classes, self._most),
            wrong=int(wrong.sum()),
            about=source.scored_on(),
        )

    def draw(self, numbers: Confidence) -> PlotlyFigure:
        """Draw one histogram below the other, over one axis."""
        traces, layout = histograms(numbers)
        sure = numbers.mistakes[0] if numbers.mistakes else None
        example = ""
        if sure:
            example = f" The most confident one: {sure.id}, predicted {sure.predicted} with {sure.probability:.3f}."
        caption = (
            f"{numbers.model}. {counted(numbers.wrong, 'error')} of "
            f"{counted(int(numbers.counts.sum()), 'case')}.{example} The panels have different scales. "
            f"{numbers.about}."
        )
        title = f"Predicted probabilities: {numbers.axis}"
        return _style.figure(title, caption, traces, layout, height=420, above=24, below=44)


@FIGURES.register("confidence", ranges={"most": Interval(1, 1000, whole=True)})
def confidence(*, of: str | int = BEST, most: int = 24) -> ByConfidence:
    """Histogram of the model's probability by true class, and as numbers its `most` confident errors."""
    return ByConfidence(str(of), most)


def confident_mistakes(store: StudyFolder, *, of: str | int = BEST, most: int = 24) -> pd.DataFrame:
    """Return the cases that a model misclassified, the most confident errors first.

    Only the validation set, or with folds the out-of-fold predictions, is used.

    Args:
        of: `best`, a trial's number, or a name of the leaderboard.
        most: rows at most.

    Returns:
        Columns `id`, `patient`, `truth`, `predicted`, `probability` (of the predicted class).

    Raises:
        StudyError: no such model, or none at all.
    """
    import pandas as pd

    source = FigureSource(store, Places.of())
    _, saved, probabilities = scored(source, str(of))
    result = confident_errors(saved, probabilities, source.settings.classes, most)
    return pd.DataFrame([asdict(one) for one in result], columns=[field.name for field in fields(CaseError)])


def _operating(source: FigureSource, of: str) -> float:
    """Return the threshold that an ensemble chose on held-out predictions."""
    line = find(source, of)
    text = read_ensemble(line.record.folder) if line.kind == ENSEMBLE else {}
    point = text.get("operating_point") or text
    threshold = point.get("threshold")
    return float("nan") if threshold is None else float(threshold)


def histograms(numbers: Confidence) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return traces and layout of one panel per group."""
    bins = numbers.counts.shape[1]
    middles = (np.arange(bins) + 0.5) / bins
    traces: list[dict[str, Any]] = []
    notes = []
    layout: dict[str, Any] = {"bargap": 0.05, "showlegend": not np.isnan(numbers.threshold)}
    for at, (group, counts) in enumerate(zip(numbers.groups, numbers.counts, strict=True)):
        suffix = "" if at == 0 else str(at + 1)
        domain = [0.56, 1.0] if at == 0 else [0.0, 0.4]
        layout[f"yaxis{suffix}"] = _style.axis("cases", domain=domain, rangemode="tozero", nticks=5)
        layout[f"xaxis{suffix}"] = _style.axis(
            _style.text(numbers.axis) if at else "", range=[0, 1], anchor=f"y{suffix}"
        )
        traces.append(
            {
                "type": "bar",
                "x": _style.small(middles, 4),
                "y": counts,
                "width": 1 / bins,
                "showlegend": False,
                "marker": {"color": _style.VIVID[at]},
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "customdata": [[f"{at / bins:.2f}", f"{(at + 1) / bins:.2f}"] for at in range(bins)],
                "hovertemplate": "%{customdata[0]} to %{customdata[1]}: %{y} cases<extra></extra>",
            }
        )
        title = f"<b>{_style.text(group)}</b>: {counted(int(counts.sum()), 'case')}"
        notes.append(panel_title(title, {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain"}))
    lines = {"argmax threshold": numbers.threshold, "operating point": numbers.operating}
    known = {name: value for name, value in lines.items() if not np.isnan(value)}
    for at, (name, value) in enumerate(known.items()):
        for panel, counts in enumerate(numbers.counts):
            suffix = "" if panel == 0 else "2"
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [value, value],
                    "y": [0, int(counts.max())],
                    "hoverinfo": "name",
                    "xaxis": f"x{suffix}",
                    "yaxis": f"y{suffix}",
                    "name": f"{name} {value:.2f}",
                    "legendgroup": name,
                    "showlegend": panel == 0,
                    "line": {"color": _style.MUTED, "width": 2, "dash": ("dot", "dash")[at]},
                }
            )
    layout["annotations"] = notes
    return traces, layout
