"""The networks of one trial with the cases that each is scored on, whatever it reads, with folds and without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histotune.data.splits import TrainingData
from histotune.errors import StudyError, suggest
from histotune.explanation.permutation import Scored, scored_parts
from histotune.models.predictor import WEIGHTS
from histotune.reporting.figures._base import Source, call
from histotune.reporting.figures._branches import BEST
from histotune.storage.records import networks
from histotune.studies.leaderboard import SINGLE, TRIAL, Line


@dataclass(frozen=True)
class Trained:
    """A trial.

    Attributes:
        name: kind, name, loss and fusion, for a caption.
        parts: its networks, each with the cases that it is scored on.
        data: what it was trained on.
        metric: the study's.
    """

    name: str
    parts: list[Scored]
    data: TrainingData
    metric: str

    @property
    def rows(self) -> np.ndarray:
        """All cases that are scored, int64, ascending."""
        return np.unique(np.concatenate([part.rows for part in self.parts]))

    @property
    def patients(self) -> int:
        """Patients of these cases."""
        return len(np.unique(self.data.patients[self.rows]))


def trained(source: Source, of: str) -> Trained:
    """Load the best trial, or one by its number or a single training's name.

    Raises:
        StudyError: there is no such trial with a result, or its weights are gone.
    """
    study = source.settings.name
    lines = source.models() if of == BEST else [line for line in source.entries if line.record.metrics]
    lines = [line for line in lines if line.kind in (TRIAL, SINGLE)]
    if of == BEST and not lines:
        raise StudyError(f"study {study!r} has no complete trial yet: search on, or train one")
    asked = [line for line in lines if of in (BEST, line.name)]
    if not asked:
        raise StudyError(
            f"study {study!r} has no trial {of!r} with a result. {suggest(of, [BEST, *(one.name for one in lines)])}"
        )
    line = asked[0]
    if not all((place / WEIGHTS).exists() for place in networks(line.record.folder)):
        raise StudyError(
            f"the weights of {call(line)} are gone (`--keep-models` of a search and `histotune gc` free them): "
            "name another trial with `--set of=NUMBER`, or train this one with `histotune train`"
        )
    data = source.store.training_data(source.cohort(line.record.config()["image_size"]))
    return Trained(_told(line), scored_parts(line.record.folder, data), data, source.settings.metric)


def _told(line: Line) -> str:
    return f"{call(line)}, fusion {line.record.config()['model']['fusion']['name']}"
