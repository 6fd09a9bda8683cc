"""Who trains, who validates, who is sealed: by patient, fixed for a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

TRAIN, VAL, TEST = "train", "val", "test"


@dataclass(frozen=True)
class Split:
    """Disjoint row numbers of a cohort.

    Attributes:
        protocol: `patient_kfold`..., as given by the user; `leaky` says whether patients may stand on both sides.
        train, val, test: int64, sorted.
    """

    protocol: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    leaky: bool = False


@dataclass(frozen=True)
class TrainingData:
    """What a trial may see: every array, but labels of the training and validation part only.

    Attributes:
        arrays: {modality: [N, ...]}, memory-mapped.
        present: {modality: bool [N]}.
        labels: int64 [N], `cohort.UNKNOWN` (-1) for sealed cases.
        ids, patients: str [N].
        train, val: int64 row numbers.
        classes: class names; `positive` is the index of the positive class.
    """

    arrays: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    labels: np.ndarray
    ids: np.ndarray
    patients: np.ndarray
    train: np.ndarray
    val: np.ndarray
    classes: tuple[str, ...]
    positive: int = 1

    @property
    def counts(self) -> tuple[int, ...]:
        """Cases of each class in the training part, [C]."""
        return tuple(int(n) for n in np.bincount(self.labels[self.train], minlength=len(self.classes)))
