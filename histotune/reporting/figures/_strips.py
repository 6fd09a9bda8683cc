"""The members of a saved ensemble: their names, predictions and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histotune.errors import StudyError
from histotune.reporting.figures._base import FigureSource
from histotune.storage.records import Predictions, read_ensemble, read_record
from histotune.studies.leaderboard import TRIAL, LeaderboardLine, components

EQUAL = ("average",)  # strategies in which every member has the same weight
COUNTLESS = ("max", "vote")  # and those in which none has a weight


def joined(line: LeaderboardLine) -> dict[str, Any]:
    """Read how an ensemble was built."""
    return read_ensemble(line.record.folder)


def members_of(source: FigureSource, text: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Predictions]]:
    """Return names and saved predictions of the members, which may be trials of other studies.

    Raises:
        StudyError: a member is gone, or was scored on other cases than the first one.
    """
    names, saved = [], []
    studies = text.get("studies") or [""] * len(text["members"])
    modalities = text.get("modalities") or [""] * len(text["members"])
    for number, study, modality in zip(text["members"], studies, modalities, strict=True):
        store = source.store.of_member(study)
        record = read_record(store.trial_folder(number), number)
        if record is None:
            raise StudyError(f"member trial {number} of ensemble {text['name']} is gone from {store.folder}")
        line = LeaderboardLine(TRIAL, str(number), record)
        of = modality or (Path(study).name if study else "")
        names.append(" ".join(part for part in (str(number), components(line)[0], of) if part))
        saved.append(record.predictions())
        if not np.array_equal(saved[-1].ids, saved[0].ids):
            raise StudyError(f"members {names[0]} and {names[-1]} of ensemble {text['name']} score different cases")
    return tuple(names), saved


def weights_of(text: Mapping[str, Any], members: int, classes: int) -> np.ndarray:
    """Return each member's share of the weights, float64 [M], as the strategy fitted them; NaN where it has none.

    Weights by class, and the coefficients of stacking, count by their mean size.

    >>> weights_of({"strategy": "weighted", "state": {"weights": [1.0, 3.0]}}, 2, 2).tolist()
    [0.25, 0.75]
    """
    state, strategy = text.get("state", {}), text["strategy"]
    weights = np.full(members, np.nan)
    if "weights" in state:
        result = np.abs(np.asarray(state["weights"], dtype=np.float64))
        weights = result.reshape(len(result), -1).mean(axis=1)
    elif "matrix" in state:  # [C, members * C + members], scores of each member before the marks of who is missing
        matrix = np.abs(np.asarray(state["matrix"], dtype=np.float64))[:, : members * classes]
        weights = matrix.reshape(len(matrix), members, classes).mean(axis=(0, 2))
    elif strategy in EQUAL:
        weights = np.ones(members)
    total = weights.sum()
    return weights / total if len(weights) == members and total > 0 else np.full(members, np.nan)
