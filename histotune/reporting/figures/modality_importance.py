"""Permutation importance of the modalities of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval
from histotune.explanation.permutation import FeatureGroup, permute
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._losses import HOW, Loss, ModelLosses, dots, loss_of, model_of, of_which
from histotune.reporting.figures._select import BEST, trained

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


@dataclass(frozen=True)
class ModalityImportance:
    """Loss of the score by modality, the largest first.

    Attributes:
        model: which it is.
        losses: by modality; the name includes the share of cases that have it.
    """

    model: ModelLosses
    losses: tuple[Loss, ...]


class ByModality(Figure[ModalityImportance]):
    """Permutes every modality that a trial's networks read, among the patients that have it."""

    def __init__(self, of: str, repeats: int) -> None:
        self._of, self._repeats = of, repeats

    def compute(self, source: FigureSource) -> ModalityImportance:
        """Run the trial's networks over the cases that they are scored on."""
        result = trained(source, self._of)
        groups = [FeatureGroup(name, name) for name in result.parts[0].predictor.modalities]
        permuted = permute(result.parts, result.data, groups, repeats=self._repeats)
        losses = []
        for group in groups:
            share = float(np.mean(result.data.present[group.modality][permuted.rows]))
            name = group.name if share == 1 else f"{group.name} ({share:.0%} have it)"
            losses.append(loss_of(permuted.effect(group, result.data, result.metric), name))
        score = permuted.score(result.data, result.metric)
        ranked = sorted(losses, key=lambda loss: -loss.value)
        return ModalityImportance(model_of(result, score, self._repeats, str(source)), tuple(ranked))

    def draw(self, numbers: ModalityImportance) -> PlotlyFigure:
        """Draw a dot with its interval for every modality."""
        traces, layout, height = dots(numbers.losses)
        model = numbers.model
        caption = (
            f"{of_which(model)}. One modality at a time is permuted across the patients that have it, "
            f"{counted(model.repeats, 'time')}. {HOW}"
        )
        layout |= {"xaxis": _style.axis(f"loss of {model.metric}"), "showlegend": False}
        title = f"Permutation importance of modalities: loss of {model.metric}"
        return _style.figure(title, caption, traces, layout, height=height)


@FIGURES.register("modality_importance", ranges={"repeats": Interval(1, 1000, whole=True)})
def modality_importance(*, of: str | int = BEST, repeats: int = 10) -> ByModality:
    """Loss of the score when a modality is permuted across patients; `of` is best or a trial's number."""
    return ByModality(str(of), repeats)
