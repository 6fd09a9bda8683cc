"""Soft targets: a teacher's probabilities in place of labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from histotune.data.splits import TrainingData
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.storage.records import Predictions


def taught(data: TrainingData, teacher: Predictions, trust: float) -> TrainingData:
    """Return data whose training targets are a mixture of a teacher's probabilities and the labels.

    Raises:
        StudyError: the teacher has no prediction for a case that is trained on.
    """
    assert data.folds is not None
    rows = np.flatnonzero(data.folds[0])
    place = {name: at for at, name in enumerate(teacher.ids.tolist())}
    missing = [name for name in data.ids[rows].tolist() if name not in place]
    if missing:
        raise StudyError(
            f"the ensemble has no prediction for {len(missing)} of {len(rows)} training cases, such as {missing[0]!r}: "
            "make it anew with `histotune ensemble`"
        )
    message = metrics.softmax(teacher.logits)[[place[name] for name in data.ids[rows].tolist()]]
    targets = np.zeros((len(data.labels), len(data.classes)), np.float32)
    targets[rows] = trust * message + (1 - trust) * np.eye(len(data.classes))[data.labels[rows]]
    return replace(data, targets=targets)
