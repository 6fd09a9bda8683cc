"""Losses of a score by permutation as dots with intervals, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from histotune.core.format import counted
from histotune.explanation.permutation import Effect
from histotune.reporting import charts as _style
from histotune.reporting.figures._select import TrainedModel

LONGEST = 26  # letters of a label, which a phone has room for
_ROW, _AROUND = 24, 120  # pixels
HOW = (
    "Intervals: 95 %, over resampled patients and repeats. Information that several modalities or columns share counts "
    "little for each, because the others still carry it. The loss shows what this model relies on, not what causes the "
    "class."
)


@dataclass(frozen=True)
class Loss:
    """Loss of the score when one thing is permuted.

    Attributes:
        name: of it, with what a reader should know.
        group: modality.
        value, low, high: points of the metric; positive: the model relies on it.
    """

    name: str
    group: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ModelLosses:
    """Of which model and which cases the losses are.

    Attributes:
        name: trial, loss and fusion.
        metric, score: the study's metric and what the model reaches on these cases.
        cases, patients: that are scored.
        folds: networks, each of which predicts its own fold; 0 for one on the validation set.
        repeats: of every permutation.
        study: which study it is.
    """

    name: str
    metric: str
    score: float
    cases: int
    patients: int
    folds: int
    repeats: int
    study: str


def loss_of(effect: Effect, name: str) -> Loss:
    """Take over an effect under a name."""
    return Loss(name, effect.group.modality, effect.loss.value, effect.loss.low, effect.loss.high)


def model_of(trained: TrainedModel, score: float, repeats: int, study: str) -> ModelLosses:
    """Describe the model."""
    folds = len(trained.parts) if len(trained.parts) > 1 else 0
    return ModelLosses(trained.name, trained.metric, score, len(trained.rows), trained.patients, folds, repeats, study)


def dots(losses: Sequence[Loss]) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, one per group, the layout and its height; the first loss is on top."""
    groups = list(dict.fromkeys(loss.group for loss in losses))
    traces = []
    for index, group in enumerate(groups):
        own = [(len(losses) - at, loss) for at, loss in enumerate(losses) if loss.group == group]
        look: dict[str, Any] = dict(_style.place(index))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": group,
                "marker": look | {"size": 9},
                "x": [loss.value for _, loss in own],
                "y": [at for at, _ in own],
                "error_x": {
                    "type": "data",
                    "array": [loss.high - loss.value for _, loss in own],
                    "arrayminus": [loss.value - loss.low for _, loss in own],
                    "color": look["color"],
                    "thickness": 1.5,
                    "width": 4,
                },
                "customdata": [[loss.name, loss.low, loss.high] for _, loss in own],
                "hovertemplate": "%{customdata[0]}: %{x:.3f} "
                "[%{customdata[1]:.3f}, %{customdata[2]:.3f}]<extra></extra>",
            }
        )
    labels = {"tickvals": [*range(len(losses), 0, -1)], "ticktext": [short(loss.name) for loss in losses]}
    zero: dict[str, Any] = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": _style.FAINT, "width": 1, "dash": "dot"},
    }
    layout = {
        "yaxis": _style.axis("", range=[0.4, len(losses) + 0.6], ticks="", showgrid=False, **labels),
        "shapes": [zero],
        "showlegend": len(groups) > 1,
    }
    below = 12 + 24 * (len(groups) > 1)
    return traces, layout, _AROUND + below + _ROW * len(losses)


def of_which(model: ModelLosses) -> str:
    """Return for a caption of which model and cases the losses are."""
    cases = f"{counted(model.cases, 'case')} of {counted(model.patients, 'patient')}"
    where = (
        f"{cases}, each predicted by the network of its own fold" if model.folds else f"{cases} of the validation set"
    )
    return f"{model.name}: {model.metric} {model.score:.3f} on {where}; {model.study}"


def short(name: str, longest: int = LONGEST) -> str:
    """Cut a label to what a phone has room for."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
