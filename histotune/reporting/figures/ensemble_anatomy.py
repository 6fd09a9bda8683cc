"""What an ensemble is made of: how much say each member has, how good it is alone, and whether members err alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.reporting import charts as _style
from histotune.reporting.figures._anatomy_panels import panels
from histotune.reporting.figures._base import FIGURES, Figure, Source
from histotune.reporting.figures._members import joined, members_of, say_of
from histotune.reporting.figures._select import BEST, ensembles, find
from histotune.studies.leaderboard import ENSEMBLE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

LATEST = "latest"


@dataclass(frozen=True)
class Anatomy:
    """An ensemble of M members.

    Attributes:
        name, strategy: of the ensemble.
        metric: the study's; `score`: what the ensemble reaches.
        members: [M] names, as it was built.
        say: float64 [M], shares of the say of each, which sum to 1; NaN where the strategy gives no member a weight.
        scores: float64 [M], of each member alone, uncalibrated.
        disagreement: float64 [M, M], share of the cases to which two members give different classes.
        correlation: float64 [M, M], of their errors (phi); NaN where one of them makes none, or nothing else.
        about: which cases of which study.
    """

    name: str
    strategy: str
    metric: str
    score: float
    members: tuple[str, ...]
    say: np.ndarray
    scores: np.ndarray
    disagreement: np.ndarray
    correlation: np.ndarray
    about: str


def pairwise(predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return disagreement and correlation of errors of every two members, float64 [M, M] each.

    Args:
        predicted: classes, int64 [M, n].
        labels: int64 [n].

    >>> disagree, alike = pairwise(np.array([[0, 1, 1, 0], [0, 1, 0, 1]]), np.array([0, 1, 1, 1]))
    >>> float(disagree[0, 1]), round(float(alike[0, 1]), 3)
    (0.5, -0.333)
    """
    different = (predicted[:, None, :] != predicted[None]).mean(axis=2)
    wrong = (predicted != labels).astype(np.float64)
    centred = wrong - wrong.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).sum(axis=1))
    both = spread[:, None] * spread[None]
    alike = np.divide(centred @ centred.T, both, out=np.full(both.shape, np.nan), where=both > 0)
    return different, alike


class EnsembleAnatomy(Figure[Anatomy]):
    """Of the members' saved predictions; no network runs."""

    def __init__(self, of: str) -> None:
        self._of = of

    def compute(self, source: Source) -> Anatomy:
        """Compare the members case by case."""
        study, metric = source.settings.name, source.settings.metric
        found = ensembles(source) if self._of == LATEST else [find(source, self._of, also=[LATEST])]
        if not found:
            find(source, BEST)  # or says that there is nothing to combine
            raise StudyError(f"study {study!r} has no ensemble yet: `histotune ensemble {study} --top 5` makes one")
        line = found[0]
        if line.kind != ENSEMBLE:
            raise StudyError(f"{line.kind} {line.name} of study {study!r} is no ensemble: `of` is latest or its name")
        told = joined(line)
        members, saved = members_of(source, told)
        probabilities = [metrics.softmax(one.logits) for one in saved]
        labels = saved[0].labels
        scores = [metrics.score(metric, one, labels, positive=source.settings.positive) for one in probabilities]
        different, alike = pairwise(np.stack([metrics.decide(one) for one in probabilities]), labels)
        return Anatomy(
            name=line.name,
            strategy=told["strategy"],
            metric=metric,
            score=metrics.score(
                metric, metrics.softmax(line.record.predictions().logits), labels, positive=source.settings.positive
            ),
            members=members,
            say=say_of(told, len(members), len(source.settings.classes)),
            scores=np.array(scores),
            disagreement=different,
            correlation=alike,
            about=source.scored_on(),
        )

    def draw(self, numbers: Anatomy) -> PlotlyFigure:
        """Draw scores and say by member, and below how alike every two members are."""
        traces, layout, height = panels(numbers)
        equal = "" if not np.isnan(numbers.say).any() else f" The strategy {numbers.strategy} gives no member a weight."
        caption = (
            f"Ensemble {numbers.name} ({numbers.strategy}) of {_style.counted(len(numbers.members), 'member')}."
            f"{equal} Members that err on different cases help each other: low correlation of errors (1: on the same "
            f"cases), high disagreement. All of it on the cases that chose them: {numbers.about}."
        )
        title = "Ensemble: say and score of each member, and whether they err alike"
        return _style.figure(title, caption, traces, layout, height=height, above=24)


@FIGURES.register("ensemble_anatomy")
def ensemble_anatomy(*, of: str = LATEST) -> EnsembleAnatomy:
    """Say and score of an ensemble's members, and how alike they err; `of` is latest or an ensemble's name."""
    return EnsembleAnatomy(of)
