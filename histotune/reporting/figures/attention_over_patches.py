"""Attention on the patches of a slide, as a map, and the effect of each patch on the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval
from histotune.errors import StudyError, suggest
from histotune.explanation.attention import POOL, CaseAttention, bag_branches, patches_of
from histotune.explanation.permutation import ScoredCohort, rank_correlation
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._select import BEST, TrainedModel, panel_title, trained

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_EVEN = [[0.0, "#2166ac"], [0.5, "#f2f2f2"], [1.0, "#b35806"]]
_LEAST, _MOST = 0.25, 3.0  # doublings at the ends of the colours
_MAP, _GAP, _BOTTOM = 250, 44, 70  # pixels


@dataclass(frozen=True)
class PatchMap:
    """The patches of one case.

    Attributes:
        case, truth, predicted: id and class names; `probability` of the predicted class.
        x, y: float64 [P], pixels in the slide.
        shares: float64 [P], in multiples of an equal share.
        drops: float64 [P], how far the predicted class's logit falls without the patch.
        correlation: Spearman's, of the two.
    """

    case: str
    truth: str
    predicted: str
    probability: float
    x: np.ndarray
    y: np.ndarray
    shares: np.ndarray
    drops: np.ndarray
    correlation: float


@dataclass(frozen=True)
class PatchAttention:
    """Maps of some cases.

    Attributes:
        model: trial, loss and fusion.
        branch, asking: who is looked at, and by which branch; "" where its own pool weighs the patches.
        maps: case by case.
        cases, patients: that are scored in all.
        study: which study it is.
    """

    model: str
    branch: str
    asking: str
    maps: tuple[PatchMap, ...]
    cases: int
    patients: int
    study: str = ""


class AttentionOverPatches(Figure[PatchAttention]):
    """Shares of attention of every patch, by the fusion or else by the branch's own pool, and each patch left out."""

    def __init__(self, of: str, branch: str, asking: str, case: str, cases: int) -> None:
        self._of, self._branch, self._asking, self._case, self._cases = of, branch, asking, case, cases

    def compute(self, source: FigureSource) -> PatchAttention:
        """Run the trial's networks over cases that they are scored on."""
        result = trained(source, self._of)
        branch = self._chosen(result)
        shown = [(part, patches_of(part, result.data, branch, row)) for part, row in self._rows(result, branch)]
        asking = self._who(result, shown[0][1])
        maps = tuple(_map(result, part, patches, asking) for part, patches in shown)
        return PatchAttention(result.name, branch, asking, maps, len(result.rows), result.patients, str(source))

    def _chosen(self, result: TrainedModel) -> str:
        there = bag_branches(result.parts[0])
        if not there:
            raise StudyError(
                f"{result.name} has no bag or graph of patches as input: attention_over_features shows tables"
            )
        if self._branch and self._branch not in there:
            raise StudyError(f"{result.name} reads no patches by {self._branch!r}. {suggest(self._branch, there)}")
        return self._branch or there[0]

    def _rows(self, result: TrainedModel, branch: str) -> list[tuple[ScoredCohort, int]]:
        """Return the case that was asked for, or as many of every class as fit, in the order of the cohort."""
        data, modality = result.data, result.parts[0].predictor.model.modalities[branch]
        owner = {int(row): part for part in result.parts for row in part.rows if data.present[modality][row]}
        if self._case:
            wanted = [row for row in owner if data.ids[row] == self._case]
            if not wanted:
                known = [str(data.ids[row]) for row in owner]
                raise StudyError(f"no scored case with patches is called {self._case!r}. {suggest(self._case, known)}")
            return [(owner[wanted[0]], wanted[0])]
        by_class = [[row for row in sorted(owner) if data.labels[row] == label] for label in range(len(data.classes))]
        turns = [row for at in range(self._cases) for rows in by_class for row in rows[at : at + 1]]
        return [(owner[row], row) for row in turns[: self._cases]]

    def _who(self, result: TrainedModel, patches: CaseAttention) -> str:
        """Return who asks: the fusion's attention where there is any, else the branch's own pool."""
        asking = [name for name in patches.shares if name != POOL]
        if self._asking and self._asking not in asking:
            raise StudyError(
                f"{result.name}: {self._asking!r} does not attend to the patches. {suggest(self._asking, asking)}"
            )
        return self._asking or (asking[0] if asking else POOL)

    def draw(self, numbers: PatchAttention) -> PlotlyFigure:
        """Draw a map of every case, one below the other."""
        count = len(numbers.maps)
        height = (_MAP + _GAP) * count
        layout: dict[str, Any] = {"annotations": [], "showlegend": False}
        plain = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
        for at, one in enumerate(numbers.maps):
            key, top = "" if not at else str(at + 1), height - at * (_MAP + _GAP) - _GAP
            domain = [(top - _MAP) / height, top / height]
            layout[f"xaxis{key}"] = {**plain, "anchor": f"y{key}"}
            layout[f"yaxis{key}"] = {**plain, "domain": domain, "autorange": "reversed", "scaleanchor": f"x{key}"}
            title = (
                f"{one.case}: {one.truth}, predicted {one.predicted} ({one.probability:.2f})<br>rank correlation of "
                f"attention and effect {one.correlation:+.2f}"
            )
            layout["annotations"].append(panel_title(title, {"xref": "paper", "yref": f"y{key} domain"}))
        logs = np.concatenate([np.log2(np.maximum(one.shares, 1e-6)) for one in numbers.maps])
        end = float(np.clip(np.quantile(np.abs(logs), 0.98), _LEAST, _MOST))
        traces = [_dots(one, at, end, -8 / height) for at, one in enumerate(numbers.maps)]
        who = f"by {numbers.asking}" if numbers.asking else "by the pooling of the branch"
        cases = f"{counted(count, 'case')} of {numbers.cases:,} scored cases"
        caption = (
            f"{numbers.model}; {numbers.study}. {cases}, of {counted(numbers.patients, 'patient')}. Each square "
            "is a patch at its position in the slide; orange: more attention than an equal share, blue: less. Effect: "
            "fall of the logit of the predicted class when the patch is left out. Where attention and effect have a "
            "low rank correlation, the map does not show what the prediction relies on."
        )
        title = f"Attention on the patches of {numbers.branch}, {who}"
        return _style.figure(title, caption, traces, layout, height=height + _BOTTOM, below=_BOTTOM)


@FIGURES.register("attention_over_patches", ranges={"cases": Interval(1, 24, whole=True)})
def attention_over_patches(
    *, of: str | int = BEST, branch: str = "", asking: str = "", case: str = "", cases: int = 4
) -> AttentionOverPatches:
    """Attention on the patches of a slide, as a map of `case` (an id) or of some cases, and each patch's effect."""
    return AttentionOverPatches(str(of), branch, asking, str(case), cases)


def _map(result: TrainedModel, part: ScoredCohort, patches: CaseAttention, asking: str) -> PatchMap:
    shares, classes = patches.shares[asking], result.data.classes
    return PatchMap(
        str(result.data.ids[patches.row]),
        classes[result.data.labels[patches.row]],
        classes[patches.predicted],
        patches.probability,
        patches.coordinates[:, 0],
        patches.coordinates[:, 1],
        shares,
        patches.drops,
        rank_correlation(shares, patches.drops),
    )


def _dots(one: PatchMap, at: int, end: float, under: float) -> dict[str, Any]:
    bar = {
        "orientation": "h",
        "thickness": 10,
        "len": 0.8,
        "outlinewidth": 0,
        "y": under,
        "yanchor": "top",
        "tickvals": [-end, 0, end],
        "ticktext": [f"{2**-end:.2g}x", "1x", f"{2**end:.2g}x"],
    }
    key = "" if not at else str(at + 1)
    steps = [np.diff(np.unique(values)) for values in (one.x, one.y)]
    step = min((float(own.min()) for own in steps if len(own)), default=1.0)
    widest = max(float(np.ptp(values)) for values in (one.x, one.y)) + step
    side = float(np.clip(0.85 * _MAP * step / widest, 4, 40))
    return {
        "type": "scatter",
        "mode": "markers",
        "x": one.x,
        "y": one.y,
        "xaxis": f"x{key}",
        "yaxis": f"y{key}",
        "marker": {
            "color": np.log2(np.maximum(one.shares, 1e-6)),
            "cmin": -end,
            "cmax": end,
            "colorscale": _EVEN,
            "size": side,
            "symbol": "square",
            "line": {"width": 0.5, "color": "#bbbbbb"},
            "showscale": at == 0,
            "colorbar": bar,
        },
        "customdata": np.stack([one.shares, one.drops], axis=1),
        "hovertemplate": "x %{x:.0f}, y %{y:.0f} px<br>%{customdata[0]:.2f} times an equal share<br>"
        "effect %{customdata[1]:+.3f}<extra></extra>",
    }
