"""Permutation importance of the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval, OneOf
from histotune.errors import StudyError, suggest
from histotune.explanation.column_groups import chunks_of, column_groups, steepest, tables_of
from histotune.explanation.permutation import FeatureGroup, permute
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._losses import HOW, Loss, ModelLosses, dots, loss_of, model_of, of_which
from histotune.reporting.figures._select import BEST, TrainedModel, trained

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

COLUMN, ALIKE, TOKENS = "column", "alike", "tokens"


@dataclass(frozen=True)
class FeatureImportance:
    """Loss of the score by columns, modality by modality, the largest first.

    Attributes:
        model: which it is.
        together: `column`, `alike` (columns that correlate) or `tokens`.
        correlation: least |r| of columns that are permuted together, with `alike`.
        losses: those that are shown.
        permuted: int64, of how many groups of every modality, in the order of the modalities.
        read, tried: columns that the networks read, and how many of them were permuted at all.
    """

    model: ModelLosses
    together: str
    correlation: float
    losses: tuple[Loss, ...]
    permuted: np.ndarray
    read: int
    tried: int


class ByFeature(Figure[FeatureImportance]):
    """Permutes the columns with the largest gradients in a trial's networks: one by one, correlated ones, by token."""

    def __init__(
        self, of: str, modality: str, together: str, top: int, columns: int, repeats: int, correlation: float
    ) -> None:
        self._of, self._modality, self._together = of, modality, together
        self._top, self._columns, self._repeats, self._correlation = top, columns, repeats, correlation

    def compute(self, source: FigureSource) -> FeatureImportance:
        """Run the trial's networks over the cases that they are scored on."""
        result = trained(source, self._of)
        groups, read, tried = self._groups(result, self._tables(result))
        every = [group for own in groups for group in own]
        permuted = permute(result.parts, result.data, every, repeats=self._repeats)
        losses = []
        for own in groups:
            own.sort(key=lambda group: -permuted.mean_loss(group, result.data, result.metric))
            losses += [loss_of(permuted.effect(one, result.data, result.metric), one.name) for one in own[: self._top]]
        model = model_of(result, permuted.score(result.data, result.metric), self._repeats, str(source))
        counts = np.array([len(own) for own in groups])
        return FeatureImportance(model, self._together, self._correlation, tuple(losses), counts, read, tried)

    def _tables(self, result: TrainedModel) -> list[str]:
        tables = tables_of(result.parts)
        if not tables:
            raise StudyError(
                f"{result.name} reads no table, and an image, bag or graph has no columns: see modality_importance, "
                "and `histotune explain` for images"
            )
        if self._modality and self._modality not in tables:
            raise StudyError(f"{result.name} reads no table {self._modality!r}. {suggest(self._modality, tables)}")
        return [self._modality] if self._modality else tables

    def _groups(self, result: TrainedModel, tables: Sequence[str]) -> tuple[list[list[FeatureGroup]], int, int]:
        """Return the groups of every table, how many columns are read, and how many of them are in a group."""
        if self._together == TOKENS:
            branches = result.parts[0].predictor.model.modalities
            chunked = [chunks_of(result.parts, name) for name, modality in branches.items() if modality in tables]
            chunked = [own for own in chunked if own]
            if not chunked:
                raise StudyError(f"{result.name} cuts no table into several tokens: its backbones have one token each")
            return chunked, 0, 0
        groups, read, tried = [], 0, 0
        for name in tables:
            chosen, all_of_them = steepest(result.parts, result.data, name, self._columns)
            read, tried = read + all_of_them, tried + len(chosen)
            least = self._correlation if self._together == ALIKE else np.inf
            groups.append(column_groups(chosen, result.data, name, least))
        return groups, read, tried

    def draw(self, numbers: FeatureImportance) -> PlotlyFigure:
        """Draw a dot with its interval for every group that is shown."""
        traces, layout, height = dots(numbers.losses)
        model, total = numbers.model, int(numbers.permuted.sum())
        how = f"with the columns that correlate with it (|r| of {numbers.correlation:g} or more), "
        what = {COLUMN: "One column at a time is", TOKENS: "The columns of one token at a time are"}
        text = what.get(numbers.together, f"One column at a time, {how}is")
        caption = f"{of_which(model)}. {text} permuted across patients, {counted(model.repeats, 'time')}."
        if len(numbers.losses) < total:
            caption += (
                f" Shown are the {len(numbers.losses)} largest of {total} losses; they are optimistic, because they "
                "were selected by these same numbers."
            )
        if numbers.tried < numbers.read:
            caption += f" The {numbers.tried:,} of {numbers.read:,} columns with the largest gradients were permuted."
        layout |= {"xaxis": _style.axis(f"loss of {model.metric}")}
        title = f"Permutation importance of columns: loss of {model.metric}"
        below = 12 + 24 * bool(layout["showlegend"])
        return _style.figure(title, f"{caption} {HOW}", traces, layout, height=height, below=below)


@FIGURES.register(
    "feature_importance",
    ranges={
        "together": OneOf(COLUMN, ALIKE, TOKENS),
        "top": Interval(1, 200, whole=True),
        "columns": Interval(1, 100_000, whole=True),
        "repeats": Interval(1, 1000, whole=True),
        "correlation": Interval(0, 1, open_low=True),
    },
)
def feature_importance(
    *,
    of: str | int = BEST,
    modality: str = "",
    together: str = ALIKE,
    top: int = 12,
    columns: int = 200,
    repeats: int = 5,
    correlation: float = 0.9,
) -> ByFeature:
    """Loss of the score when columns are permuted, `together`: column by column, those alike, or by gene token."""
    return ByFeature(str(of), modality, together, top, columns, repeats, correlation)
