"""Attention of the branches on the tokens of a table, beside the permutation importance of the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval
from histotune.errors import StudyError, suggest
from histotune.explanation.attention import readings
from histotune.explanation.column_groups import chunks_of
from histotune.explanation.permutation import permute, rank_correlation
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._losses import HOW, Loss, ModelLosses, loss_of, model_of, of_which, short
from histotune.reporting.figures._select import BEST, TrainedModel, panel_title, trained

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_ROW, _GAP, _TICKS, _BOTTOM = 24, 26, 26, 100  # pixels: a token, over and under a panel, under all of them
_MOST = 3.0  # doublings at the ends of the colours
_EVEN = [[0.0, "#2166ac"], [0.5, "#f2f2f2"], [1.0, "#b35806"]]  # less, an equal share, more


@dataclass(frozen=True)
class Reading:
    """Attention of one branch on the tokens.

    Attributes:
        asking: the branch.
        shares: float64 [n, T], in multiples of an equal share, of n cases by class and then by id.
        labels: int64 [n].
        correlation: Spearman's, of the mean shares and the losses of the T tokens.
    """

    asking: str
    shares: np.ndarray
    labels: np.ndarray
    correlation: float


@dataclass(frozen=True)
class FeatureAttention:
    """Attention on the tokens of one branch, beside the loss of the score when they are permuted.

    Attributes:
        model: which it is.
        answering: the branch that is looked at; `classes`: [C] names.
        readings: by asking branch.
        losses: of every token permuted, [T].
        others: why further branches have nothing to show.
    """

    model: ModelLosses
    answering: str
    classes: tuple[str, ...]
    readings: tuple[Reading, ...]
    losses: tuple[Loss, ...]
    others: str


class AttentionOverFeatures(Figure[FeatureAttention]):
    """Shares of attention on the tokens that a table was cut into, per case and on average, and their permutation."""

    def __init__(self, of: str, branch: str, repeats: int) -> None:
        self._of, self._branch, self._repeats = of, branch, repeats

    def compute(self, source: FigureSource) -> FeatureAttention:
        """Run the trial's networks over the cases that they are scored on."""
        result = trained(source, self._of)
        branch, others = self._chosen(result)
        chunks = chunks_of(result.parts, branch)
        looks = readings(result.parts, result.data, branch)
        if not looks:
            raise StudyError(
                f"{result.name} has no attention between branches, or none attends to {branch!r}: use the fusion "
                "cross_attention or cmaf; feature_importance with `--set together=tokens` needs none"
            )
        permuted = permute(result.parts, result.data, chunks, repeats=self._repeats)
        losses = tuple(loss_of(permuted.effect(one, result.data, result.metric), one.name) for one in chunks)
        worth = np.array([loss.value for loss in losses])
        shown = []
        for asking, (rows, shares) in looks.items():
            order = np.lexsort((result.data.ids[rows], result.data.labels[rows]))
            correlation = rank_correlation(shares.mean(axis=0), worth)
            shown.append(Reading(asking, shares[order], result.data.labels[rows][order], correlation))
        model = model_of(result, permuted.score(result.data, result.metric), self._repeats, str(source))
        return FeatureAttention(model, branch, result.data.classes, tuple(shown), losses, others)

    def _chosen(self, result: TrainedModel) -> tuple[str, str]:
        """Return the branch whose tokens are shown, and why others are not."""
        model = result.parts[0].predictor.model
        tokens = {name: len(chunks_of(result.parts, name)) for name in model.branches}
        if self._branch and self._branch not in tokens:
            raise StudyError(f"{result.name} has no branch {self._branch!r}. {suggest(self._branch, tokens)}")
        best = self._branch or max(tokens, key=lambda name: tokens[name])
        if not tokens[best]:
            which = f"branch {self._branch!r}" if self._branch else "any branch"
            raise StudyError(
                f"there is nothing to show for {result.name}: {which} that reads a table makes a single token of it. "
                "Use gene_tokens with tokens above 1 for the table; attention_over_patches shows bags, "
                "`histotune explain` images"
            )
        kinds = {name: result.parts[0].predictor.preparations[read].kind for name, read in model.modalities.items()}
        single = [name for name in tokens if kinds[name] == "table" and not tokens[name]]
        more = [name for name in tokens if tokens[name] and name != best]
        text = f" Of {' and '.join(single)} there is nothing to show: it has a single token." if single else ""
        return best, text + (f" See {', '.join(more)} with `--set branch=`." if more else "")

    def draw(self, numbers: FeatureAttention) -> PlotlyFigure:
        """Draw attention and loss by token, and below the shares of every case."""
        count, names = len(numbers.losses), [short(loss.name) for loss in numbers.losses]
        panels = [_ROW * count + 10, _ROW * count + 10, *[max(110, 14 * count)] * len(numbers.readings)]
        height = sum(panels) + (_GAP + _TICKS) * len(panels)
        layout: dict[str, Any] = {"showlegend": len(numbers.readings) > 1, "annotations": []}
        titles = ["attention (1: equal share)", f"loss of {numbers.model.metric} when the token is permuted"]
        titles += [f"attention of {one.asking}, case by case" for one in numbers.readings]
        top = float(height)
        for at, (size, title) in enumerate(zip(panels, titles, strict=True), 1):
            top -= _GAP
            domain, key = [max(0.0, (top - size) / height), top / height], "" if at == 1 else str(at)
            top -= size + _TICKS
            ticks = {"tickvals": [*range(count)], "ticktext": names, "range": [count - 0.5, -0.5]}
            layout[f"yaxis{key}"] = _style.axis("", domain=domain, ticks="", showgrid=False, **ticks)
            layout[f"xaxis{key}"] = _style.axis("", anchor=f"y{key}", nticks=6)
            layout["annotations"].append(panel_title(title, {"xref": "paper", "yref": f"y{key} domain"}))
        traces = [_attention(one, index, len(numbers.readings)) for index, one in enumerate(numbers.readings)]
        traces.append(_worth(numbers.losses))
        traces += [_by_case(numbers, one, index, -30 / height) for index, one in enumerate(numbers.readings)]
        title = f"Attention on the features of {numbers.answering}, and their permutation importance"
        return _style.figure(title, _caption(numbers), traces, layout, height=height + _BOTTOM, below=_BOTTOM)


@FIGURES.register("attention_over_features", ranges={"repeats": Interval(1, 1000, whole=True)})
def attention_over_features(*, of: str | int = BEST, branch: str = "", repeats: int = 10) -> AttentionOverFeatures:
    """Attention on the tokens of a table, per case and on average, beside their permutation importance."""
    return AttentionOverFeatures(str(of), branch, repeats)


def _caption(numbers: FeatureAttention) -> str:
    text = "; ".join(
        f"{one.asking} {one.correlation:+.2f}" if np.isfinite(one.correlation) else f"{one.asking} unknown"
        for one in numbers.readings
    )
    times = counted(numbers.model.repeats, "time")
    return (
        f"{of_which(numbers.model)}. Rank correlation (Spearman) of attention and loss over the {len(numbers.losses)} "
        f"tokens: {text}. Where it is low, attention does not measure what the model relies on.{numbers.others} "
        "Attention: mean and central 90 % over the cases, in multiples of an equal share; in the maps, columns "
        f"are cases, ordered by class. Loss: the columns of a token are permuted across patients {times}. {HOW}"
    )


def _attention(one: Reading, index: int, of: int) -> dict[str, Any]:
    mean, (low, high) = one.shares.mean(axis=0), np.quantile(one.shares, [0.05, 0.95], axis=0)
    return {
        **_dots(mean, low, high, _style.place(index), 0.4 * ((index + 0.5) / of - 0.5)),
        "name": f"attention of {one.asking}",
        "hovertemplate": "%{x:.2f} times an equal share<extra></extra>",
    }


def _worth(losses: tuple[Loss, ...]) -> dict[str, Any]:
    value, low, high = (np.array([getattr(loss, name) for loss in losses]) for name in ("value", "low", "high"))
    return {
        **_dots(value, low, high, {"color": _style.FAINT, "symbol": "circle"}),
        "xaxis": "x2",
        "yaxis": "y2",
        "showlegend": False,
        "hovertemplate": "%{x:.3f}<extra></extra>",
    }


def _dots(
    value: np.ndarray, low: np.ndarray, high: np.ndarray, look: dict[str, str], below: float = 0.0
) -> dict[str, Any]:
    spread = {
        "type": "data",
        "array": high - value,
        "arrayminus": value - low,
        "color": look["color"],
        "thickness": 1.5,
        "width": 3,
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "x": value,
        "y": np.arange(len(value)) + below,
        "error_x": spread,
        "marker": look | {"size": 8},
    }


def _by_case(numbers: FeatureAttention, one: Reading, index: int, under: float) -> dict[str, Any]:
    logs = np.log2(np.maximum(one.shares, 1e-6)).T  # [T, n]
    classes = np.broadcast_to(np.array(numbers.classes, dtype=object)[one.labels], logs.shape)
    ends = [-_MOST, 0.0, _MOST]
    bar = {
        "orientation": "h",
        "thickness": 10,
        "len": 0.8,
        "outlinewidth": 0,
        "y": under,
        "yanchor": "top",
        "ypad": 0,
        "tickvals": ends,
        "ticktext": [f"{2.0**end:.3g}x" for end in ends],
    }
    return {
        "type": "heatmap",
        "z": logs,
        "zmin": -_MOST,
        "zmax": _MOST,
        "colorscale": _EVEN,
        "xaxis": f"x{index + 3}",
        "yaxis": f"y{index + 3}",
        "showscale": index == 0,
        "colorbar": bar,
        "customdata": one.shares.T,
        "text": classes,
        "hovertemplate": "%{text}: %{customdata:.2f} times an equal share<extra></extra>",
    }
