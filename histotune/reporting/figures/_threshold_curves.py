"""Curves over every threshold, with pointwise bands over resampled patients: ROC and precision by recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from histotune.errors import StudyError, suggest
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import patient_bootstrap
from histotune.metrics.intervals import tails
from histotune.metrics.ranking import Ranking, rankings
from histotune.metrics.resampling import WEIGHTS, bounds, draws
from histotune.metrics.shares import effective
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FigureSource, call
from histotune.reporting.figures._select import compared
from histotune.studies.leaderboard import LeaderboardLine

MACRO = "macro"
GRID = np.linspace(0.0, 1.0, 101)  # where bands are
_REPLICATES, _FINE, _POINTS = 200, np.linspace(0.0, 1.0, 401), 500
_SEED = 0

Points = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps hits and cases called at each step, [steps] each, to x and y of the curve."""
Reader = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Reads a curve x, y at places of x."""


@dataclass(frozen=True)
class Kind:
    """A curve over thresholds: its points, how it is read between them, and the metric that is the area under it."""

    points: Points
    read: Reader
    metric: str


@dataclass(frozen=True)
class OneCurve:
    """The curve of one model.

    Attributes:
        name: of the model.
        x, y: float64, of the points.
        low, high: float64 [len(GRID)], bounds of the band at `GRID`; NaN for fewer than two patients.
        area, area_low, area_high: under the curve, with its interval over patients.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    area: float
    area_low: float
    area_high: float


@dataclass(frozen=True)
class Operating:
    """Curves of the models that are compared.

    Attributes:
        curves: best trial, latest ensemble, best baseline.
        label: the class against the rest, or `macro` for the mean over classes.
        prevalence: share of cases of the class, for `macro` its mean.
        about: which cases of which study.
    """

    curves: tuple[OneCurve, ...]
    label: str
    prevalence: float
    about: str


def operating(source: FigureSource, kind: Kind, label: str) -> Operating:
    """Draw the curves of a study's models on the cases that they were scored on.

    Raises:
        StudyError: no such class, or nothing was trained.
    """
    lines, classes = compared(source), source.settings.classes
    if label != MACRO and label not in classes:
        raise StudyError(f"study {source.settings.name!r} has no class {label!r}. {suggest(label, [MACRO, *classes])}")
    if label == MACRO and len(classes) == 2:
        label = classes[source.settings.positive]
    chosen = [*range(len(classes))] if label == MACRO else [classes.index(label)]
    curves = tuple(_curve(line, kind, chosen, len(classes)) for line in lines)
    labels = lines[0].record.predictions().labels
    return Operating(curves, label, float(np.mean([(labels == c).mean() for c in chosen])), source.scored_on())


def _curve(line: LeaderboardLine, kind: Kind, chosen: list[int], classes: int) -> OneCurve:
    saved = line.record.predictions()
    probabilities = metrics.softmax(saved.logits)
    present = [c for c in chosen if 0 < (saved.labels == c).sum() < len(saved.labels)]
    if not present:
        raise StudyError(f"{call(line)} was scored on cases of one class only: there is no curve over thresholds")
    if len(chosen) == 1:  # exact, as scikit-learn's
        ranking = Ranking(probabilities[:, chosen[0]], saved.labels == chosen[0])
        x, y = _thinned(*kind.points(*ranking.steps()))
        two, labels, positive = _against_rest(probabilities, chosen[0]), (saved.labels == chosen[0]).astype(int), 1
    else:
        every = [kind.points(*one.steps()) for one in _rankings(probabilities, saved.labels, present)]
        x, y = (
            np.insert(_FINE, 0, 0.0),
            np.mean([np.insert(kind.read(*one, _FINE), 0, one[1][0]) for one in every], axis=0),
        )
        two, labels, positive = probabilities, saved.labels, 1
    low, high = _band(kind, _rankings(probabilities, saved.labels, present), saved.patients)
    area = patient_bootstrap(kind.metric, two, labels, saved.patients, positive=positive, replicates=1000, seed=_SEED)
    return OneCurve(call(line), x, y, low, high, area.value, area.low, area.high)


def _rankings(probabilities: np.ndarray, labels: np.ndarray, chosen: list[int]) -> list[Ranking]:
    every = rankings(np.insert(probabilities, 0, 0.0, axis=1), labels + 1, 0)[1:]  # each class, also of two
    return [every[c] for c in chosen]


def _against_rest(probabilities: np.ndarray, label: int) -> np.ndarray:
    return np.stack([1 - probabilities[:, label], probabilities[:, label]], axis=1)


def _band(kind: Kind, every: list[Ranking], patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds at `GRID` of curves over resampled patients, averaged over the classes."""
    names, member = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return np.full(len(GRID), np.nan), np.full(len(GRID), np.nan)
    rows = []
    for times in draws(len(names), _REPLICATES, _SEED):
        for block in np.array_split(times, max(1, times.shape[0] * len(member) // WEIGHTS)):
            steps = [one.steps(block[:, member[one.order]]) for one in every]
            rows += [
                np.mean([kind.read(*kind.points(true[r], called[r]), GRID) for true, called in steps], axis=0)
                for r in range(len(block))
            ]
    limiting = min(effective(counts) for one in every for counts in one.by_member(member))
    low, high = bounds(np.stack(rows), tails(limiting))
    return low, high


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the corners of a curve, of very many an even sample with both ends."""
    turn = np.diff(x[:-1]) * np.diff(y[1:]) != np.diff(x[1:]) * np.diff(y[:-1])
    kept = np.flatnonzero(np.concatenate([[True], turn, [True]]))
    if len(kept) > _POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, _POINTS).round().astype(np.int64)]
    return x[kept], y[kept]


def curves_with_bands(numbers: Operating, area: str) -> list[dict[str, Any]]:
    """Return all bands, then all lines, the first model in front; `area` is what the area is called."""
    bands: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for at, one in reversed([*enumerate(numbers.curves)]):
        color = _style.VIVID[at % len(_style.VIVID)]
        name = f"{_style.text(one.name)}: {area} {one.area:.3f} [{one.area_low:.3f}, {one.area_high:.3f}]"
        common = {"type": "scatter", "mode": "lines", "legendgroup": one.name}
        known = ~np.isnan(one.low)
        if known.any():
            ends = np.concatenate([one.low[known], one.high[known][::-1]])
            bands.append(
                {
                    **common,
                    "x": _style.small(np.concatenate([GRID[known], GRID[known][::-1]]), 3),
                    "y": _style.small(ends, 4),
                    "fill": "toself",
                    "fillcolor": color,
                    "opacity": 0.15,
                    "line": {"width": 0},
                    "hoverinfo": "skip",
                    "showlegend": False,
                }
            )
        lines.append(
            {
                **common,
                "x": _style.small(one.x, 4),
                "y": _style.small(one.y, 4),
                "name": name,
                "line": {"color": color, "width": 2.5, "dash": _style.DASHES[at % len(_style.DASHES)]},
                "legendrank": at,
                "hovertemplate": f"%{{x:.3f}}, %{{y:.3f}}<extra>{_style.text(one.name)}</extra>",
            }
        )
    return [*bands, *lines]


def of_which_class(numbers: Operating) -> str:
    """Return for a title which class is compared with the rest."""
    return "each class against the rest, mean over the classes" if numbers.label == MACRO else f"class {numbers.label}"
