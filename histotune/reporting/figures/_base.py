"""The contract of a figure: compute plain numbers from a study's files, then draw them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from histotune.core.format import counted
from histotune.core.registry import Registry
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.data.splits import TEST, VAL
from histotune.errors import StudyError
from histotune.models.losses import LOSSES
from histotune.space import Space, read_space
from histotune.storage.study_folder import COMPLETE, StudyFolder, StudySettings
from histotune.studies.create import study_cohort
from histotune.studies.leaderboard import (
    BASELINE,
    LEAKY,
    SINGLE,
    TRIAL,
    LeaderboardLine,
    components,
    lines,
    ranked,
    shown_kind,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

Numbers = TypeVar("Numbers")


@dataclass(frozen=True)
class FigureSource:
    """The study that a figure shows.

    Args:
        store: the study's files.
        places: where prepared cohorts are kept.
        data: where the study's data are now; None looks where they were when it began.
    """

    store: StudyFolder
    places: Places
    data: str | os.PathLike[str] | None = None

    @cached_property
    def settings(self) -> StudySettings:
        """The settings of the study."""
        return self.store.settings

    @cached_property
    def entries(self) -> list[LeaderboardLine]:
        """Every ended trial, single training, baseline and ensemble."""
        return lines(self.store)

    def models(self) -> list[LeaderboardLine]:
        """Return the complete trials, single trainings and ensembles, best first."""
        return [line for line in ranked(self.store, self.entries) if line.kind != BASELINE]

    def trials(self) -> list[LeaderboardLine]:
        """Return the ended trials by number, of which at least one has a result.

        Raises:
            StudyError: there is none.
        """
        study, metric = self.settings.name, self.settings.metric
        result = sorted((line for line in self.entries if line.kind == TRIAL), key=lambda line: line.record.number)
        if not result:
            raise StudyError(f"study {study!r} has no trial yet: continue the search, or train one")
        if not any(metric in line.record.metrics for line in result):
            reasons = sorted({line.record.kind or line.record.state for line in result})
            raise StudyError(
                f"none of the {len(result)} trials of study {study!r} has a result ({', '.join(reasons)}): "
                f"`histotune leaderboard {study}` says why; continue the search, or train one"
            )
        return result

    @cached_property
    def space(self) -> Space:
        """The study's search space."""
        return read_space(self.settings.space, f"space of study {self.settings.name}")

    def scored_on(self) -> str:
        """Return for a caption on how many cases and patients trials are scored, and of which study."""
        cases, patients = self.part(VAL)
        return f"{counted(cases, 'validation case')} of {counted(patients, 'patient')}; {self}"

    def trained(self) -> dict[str, list[LeaderboardLine]]:
        """Return {loss: its complete trials and single trainings, best first}, losses by name."""
        result: dict[str, list[LeaderboardLine]] = {}
        for line in self.models():
            if line.kind in (TRIAL, SINGLE):
                result.setdefault(components(line)[0], []).append(line)
        return dict(sorted(result.items()))

    def one_network(self, what: str) -> None:
        """Refuse a study with folds.

        Raises:
            StudyError: a trial of this study has a network for each fold.
        """
        if self.settings.folds:
            raise StudyError(
                f"{what} of one network on cases that it never saw, and study {self.settings.name!r} trains one for "
                f"each of {self.settings.folds} folds: draw it of a study without folds"
            )

    def part(self, name: str) -> tuple[int, int]:
        """Return how many cases and patients are in a part of the split: `splits.TRAIN`, `VAL` or `TEST`.

        With folds the development part is both, what trials train on and what they are scored on.
        """
        table = self.store.split
        rows = table[table["fold"] != ""] if self.settings.folds and name != TEST else table[table["part"] == name]
        return len(rows), rows["patient"].nunique()

    def cohort(self, image_size: int) -> Cohort:
        """Return the study's data at an image size, pixels."""
        return study_cohort(self.store, self.places, image_size, self.data)

    def __str__(self) -> str:
        """Return which study, data and split these are, and what a reader must know of them."""
        text = f"study {self.settings.name}: {self.settings.dataset}, split {self.settings.protocol}"
        if self.settings.leaky:
            text += f" ({LEAKY}: patients are on both sides)"
        if self.settings.folds:
            text += f", out-of-fold predictions of {self.settings.folds} folds"
        if self.settings.training:
            text += f", training set {self.settings.training}"
        return text + (" (synthetic data)" if self.settings.facts.get("synthetic") else "")


class Figure(Generic[Numbers]):
    """Computes a frozen dataclass of plain values and arrays, and draws it.

    `compute` reads files and never needs plotly; `draw` reads nothing but the numbers, so that numbers of
    another origin can be drawn, too. The title says what is shown, with units; the caption how many cases and patients.
    A builder takes keyword parameters only, all of them with defaults.
    """

    def compute(self, source: FigureSource) -> Numbers:
        """Compute the numbers of a study.

        Raises:
            StudyError: the study does not hold what the figure shows.
        """
        raise NotImplementedError

    def draw(self, numbers: Numbers) -> PlotlyFigure:
        """Draw what `compute` returned."""
        raise NotImplementedError


def loss_of(line: LeaderboardLine) -> dict[str, Any]:
    """Return the loss of a trial: `name` and every parameter, those that it left to their defaults included."""
    loss: Mapping[str, Any] = line.record.config()["loss"]
    defaults = {one.name: one.default for one in LOSSES.entry(loss["name"]).parameters if not one.required}
    return {**defaults, **loss}


FIGURES: Registry[Figure] = Registry("figure", "histotune.reporting.figures")


def call(line: LeaderboardLine) -> str:
    """Name a model in a caption: kind, name, loss, and its state where it is not complete.

    A single training's name is its digest, of which the beginning is enough.
    """
    name = line.name[:6] if line.kind == SINGLE else line.name
    loss = components(line)[0]
    state = "" if line.record.state == COMPLETE else f", {line.record.state}"
    return f"{shown_kind(line.kind)} {name}" + (f" ({loss}{state})" if loss else state)
