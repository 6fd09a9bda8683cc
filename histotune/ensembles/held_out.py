"""Patients kept apart: who learns from whom when what is learned from held-out predictions is itself described."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from histotune.data._deal import by_case, by_group
from histotune.errors import StudyError

PARTS = 5  # of the patients
_MANY = 500  # patients from which on they are dealt by class only, which takes no time


def parts_by_patient(patients: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Deal patients into five parts, or fewer, int [n]; of two classes, the others of every part hold both.

    None where that cannot be: there is one patient only, or all cases of a class are one patient's.
    """
    names, owner = np.unique(patients, return_inverse=True)
    classes = np.unique(labels)
    for count in range(min(PARTS, len(names)), 1, -1):
        dealt = _deal(owner, labels, [1 / count] * count)
        if len(classes) > 2 or all(np.isin(classes, labels[dealt != part]).all() for part in range(count)):
            return dealt
    return None


def _deal(owner: np.ndarray, labels: np.ndarray, fractions: list[float]) -> np.ndarray:
    if owner.max() < _MANY:
        return by_group(owner, labels, fractions, [0], "patient")
    width = int(labels.max()) + 1
    counts = np.bincount(owner * width + labels, minlength=(owner.max() + 1) * width).reshape(-1, width)
    return by_case(counts.argmax(axis=1), fractions, [0])[owner]


def held_out(
    fitted: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    parts: np.ndarray | None,
    shape: tuple[int, int],
    name: str,
) -> np.ndarray:
    """Return what a strategy says of every case [n, C] when patients of the case had no part in its fit.

    Args:
        fitted: rows to learn from -> what scores rows.
        parts: as `parts_by_patient` gives them.
        name: of the strategy, for errors.

    Raises:
        StudyError: patients cannot be kept apart.
    """
    if parts is None:
        raise StudyError(
            f"{name} learns from held-out predictions, and these, or all of one class, are of a single patient: take "
            "a strategy that learns nothing, such as average"
        )
    found = np.zeros(shape)
    for part in np.unique(parts):
        own = np.flatnonzero(parts == part)
        found[own] = fitted(np.flatnonzero(parts != part))(own)
    return found
