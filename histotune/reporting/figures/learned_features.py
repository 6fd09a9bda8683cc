"""Features of the cases of each class in two dimensions, for the best trial of each loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval, OneOf
from histotune.data.cohort import select
from histotune.errors import DataError, StudyError
from histotune.models.predictor import load_model
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource, call
from histotune.storage import layout
from histotune.studies.leaderboard import LeaderboardLine

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

PCA, TSNE = "pca", "tsne"
_SEED = 0  # of the choice of cases and of t-SNE
_COLUMNS = 2  # fit a phone
_LEAST_CASES = 4


@dataclass(frozen=True)
class FeaturePanel:
    """The features of one model in two dimensions.

    Attributes:
        loss: registered name.
        model: kind, name and loss.
        points: float64 [n, 2].
        explained: shares of the features' variance along the two axes; none for t-SNE.
        score: of the model on the whole validation set.
    """

    loss: str
    model: str
    points: np.ndarray
    explained: tuple[float, ...]
    score: float


@dataclass(frozen=True)
class Learned:
    """The same validation cases in the feature spaces of several models.

    Attributes:
        method: `pca` or `tsne`.
        classes: [C] names.
        labels: int64 [n].
        panels: one per loss, by name.
        metric: what `score` is.
        patients: of the n cases.
        available: cases of the validation set.
        study: which study it is.
    """

    method: str
    classes: tuple[str, ...]
    labels: np.ndarray
    panels: tuple[FeaturePanel, ...]
    metric: str
    patients: int
    available: int
    study: str = ""


def project(features: np.ndarray, method: str) -> tuple[np.ndarray, tuple[float, ...]]:
    """Map features [n, D] to two dimensions; the same features give the same points.

    Returns:
        float64 [n, 2], and for PCA the share of the variance along each axis.

    Raises:
        DataError: fewer than four cases.
    """
    if len(features) < _LEAST_CASES:
        raise DataError(f"a projection needs at least {_LEAST_CASES} validation cases, got {len(features)}")
    exact = np.asarray(features, dtype=np.float64)
    if exact.shape[1] < 2:  # a head of one feature
        exact = np.pad(exact, ((0, 0), (0, 1)))
    if method == TSNE:
        from sklearn.manifold import TSNE as Embedding  # here: scikit-learn costs a command over a second
        from threadpoolctl import threadpool_limits

        perplexity = min(30.0, (len(exact) - 1) / 3)
        with threadpool_limits(1):  # else the points differ from run to run, and threads wait for busy cores
            points = Embedding(init="pca", perplexity=perplexity, random_state=_SEED).fit_transform(exact)
        return points.astype(np.float64), ()
    from sklearn.decomposition import PCA as Axes

    fitted = Axes(n_components=2, svd_solver="full")
    points = fitted.fit_transform(exact)
    return points, tuple(float(share) for share in np.nan_to_num(fitted.explained_variance_ratio_))


class LearnedFeatures(Figure[Learned]):
    """Features before the objective's head, of validation cases, by the best trial of each loss that has weights."""

    def __init__(self, method: str, cases: int) -> None:
        self._method, self._cases = method, cases

    def compute(self, source: FigureSource) -> Learned:
        """Run the best model of each loss over the same validation cases."""
        lines = _with_weights(source)
        models = {loss: load_model(line.record.folder) for loss, line in lines.items()}
        sizes = {model.config.image_size for model in models.values()}
        sized = {size: source.store.training_data(source.cohort(size)) for size in sizes}
        data = sized[min(sizes)]  # of any size: the cases are the same
        rows = np.sort(np.random.default_rng(_SEED).permutation(data.val)[: self._cases])
        panels = []
        for loss, line in lines.items():
            cases = select(sized[models[loss].image_size].columns, rows)
            points, explained = project(models[loss].features(cases), self._method)
            panels.append(
                FeaturePanel(loss, call(line), points, explained, line.record.metrics[source.settings.metric])
            )
        labels, patients, available = data.labels[rows], len(np.unique(data.patients[rows])), len(data.val)
        return Learned(
            self._method,
            tuple(source.settings.classes),
            labels,
            tuple(panels),
            source.settings.metric,
            patients,
            available,
            str(source),
        )

    def draw(self, numbers: Learned) -> PlotlyFigure:
        """Draw small multiples, one per loss, in the same colours."""
        columns = min(_COLUMNS, len(numbers.panels))
        rows = -(-len(numbers.panels) // columns)
        layout: dict[str, Any] = {
            "grid": {"rows": rows, "columns": columns, "pattern": "independent", "xgap": 0.1, "ygap": 0.18},
            "annotations": [_head(panel, number, numbers.metric) for number, panel in enumerate(numbers.panels, 1)],
        }
        frame = {
            "showticklabels": False,
            "showgrid": False,
            "zeroline": False,
            "showline": True,
            "mirror": True,
            "linecolor": _style.GRID,
        }
        layout |= {f"{axis}axis{number}": frame for axis in "xy" for number in range(1, len(numbers.panels) + 1)}
        traces = [trace for number, panel in enumerate(numbers.panels, 1) for trace in _points(numbers, panel, number)]
        many = counted(numbers.available, "validation case")
        shown = counted(len(numbers.labels), "case")
        which = f"all {many}" if len(numbers.labels) == numbers.available else f"{shown} drawn from {many}"
        how = (
            "First two principal components, with their shares of the variance"
            if numbers.method == PCA
            else "t-SNE: neighbours mean something, distances between groups and their sizes do not"
        )
        caption = (
            f"{how}. The same cases in every panel: {which}, of {counted(numbers.patients, 'patient')}; "
            f"{numbers.study}. Best model of each loss: {', '.join(panel.model for panel in numbers.panels)}."
        )
        below = 20 + 24 * -(-len(numbers.classes) // 3)  # the legend, of which a phone has three names in a line
        title = "Learned features of validation cases, by loss"
        return _style.figure(title, caption, traces, layout, height=100 + 270 * rows, above=36, below=below)


@FIGURES.register(
    "learned_features", ranges={"method": OneOf(PCA, TSNE), "cases": Interval(_LEAST_CASES, 20_000, whole=True)}
)
def learned_features(*, method: str = PCA, cases: int = 1000) -> LearnedFeatures:
    """Features before the head in two dimensions (`method` pca or tsne), validation cases, best trial of each loss."""
    return LearnedFeatures(method, cases)


def _with_weights(source: FigureSource) -> dict[str, LeaderboardLine]:
    """Return {loss: its best model whose weights are still there}."""
    source.one_network("learned features are")
    result = {
        loss: next((line for line in lines if (line.record.folder / layout.WEIGHTS).exists()), None)
        for loss, lines in source.trained().items()
    }
    there = {loss: line for loss, line in result.items() if line is not None}
    if not there:
        raise StudyError(
            f"study {source.settings.name!r} has no complete trial with weights (`--keep-models` of a search and "
            "`histotune gc` free them): continue the search, or train one with `histotune train`"
        )
    return there


def _head(panel: FeaturePanel, number: int, metric: str) -> dict[str, Any]:
    shares = " and ".join(f"{share:.0%}" for share in panel.explained)
    text = f"<b>{panel.loss}</b><br>{metric.replace('_', ' ')} {panel.score:.3f}" + (f"; {shares}" if shares else "")
    place = {"x": 0, "y": 1, "xref": f"x{_number(number)} domain", "yref": f"y{_number(number)} domain"}
    return {
        "text": text,
        **place,
        "xanchor": "left",
        "yanchor": "bottom",
        "align": "left",
        "showarrow": False,
        "font": {"size": 11},
    }


def _points(numbers: Learned, panel: FeaturePanel, number: int) -> Sequence[Mapping[str, Any]]:
    """Draw one cloud per class, the largest first, so that no class hides a rarer one."""
    sizes = np.bincount(numbers.labels, minlength=len(numbers.classes))
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "xaxis": f"x{_number(number)}",
            "yaxis": f"y{_number(number)}",
            "x": panel.points[numbers.labels == label, 0],
            "y": panel.points[numbers.labels == label, 1],
            "name": f"{numbers.classes[label]} ({sizes[label]:,})",
            "legendgroup": str(label),
            "showlegend": number == 1,
            "legendrank": int(label),
            "hoverinfo": "name",
            "marker": {**_style.place(int(label)), "size": 5, "opacity": 0.65},
        }
        for label in np.argsort(-sizes, kind="stable")
        if sizes[label]
    ]


def _number(number: int) -> str:
    """Write the number of an axis as plotly does: the first has none."""
    return "" if number == 1 else str(number)
