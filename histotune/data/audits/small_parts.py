"""Classes of which too few patients stand in a part to measure them."""

from __future__ import annotations

import numpy as np

from histotune.core.parameters import Interval
from histotune.data.audits._base import AUDITS, NOTE, OK, WARNING, Finding, Subject
from histotune.data.splits import TEST, TRAIN
from histotune.metrics.shares import wilson

SENSITIVITY = 0.8  # whose interval the finding names


@AUDITS.register(
    "small_parts",
    ranges={"patients": Interval(1, 1000, whole=True)},
    source="Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927",
)
def small_parts(subject: Subject, *, patients: int = 10) -> Finding:
    """Classes of which fewer than so many patients stand where they are measured; the test part counts as a whole."""
    small, of = [], 0
    for side in range(1, len(subject.names)):
        name = subject.names[side]
        for label, what in [(None, "any class")] if name == TEST else list(enumerate(subject.cohort.classes)):
            rows = subject.known if label is not None else subject.placed
            rows = rows[subject.sides[0, rows] == side]
            rows = rows if label is None else rows[subject.labels[rows] == label]
            if name == TRAIN or (name == TEST and not len(rows)):
                continue
            of += 1
            count = len(np.unique(subject.patients[rows]))
            if count < patients:
                small.append((count, len(rows), what, name))
    if not small:
        return Finding("small_parts", OK, 0, of, f"every class has at least {patients} patients where it is measured")
    count, cases, what, name = min(small)
    low, high = wilson(SENSITIVITY, max(count, 1))
    return Finding(
        "small_parts",
        WARNING if count < patients / 2 else NOTE,
        len(small),
        of,
        f"{what} in {name} rests on {count} patient{'s' if count != 1 else ''} ({cases:,} cases): if the cases of a "
        f"patient agree, a sensitivity of {SENSITIVITY:.2f} there means {low:.2f} to {high:.2f} (95 %)",
        [f"{what} in {name}: {count} patients, {cases:,} cases" for count, cases, what, name in sorted(small)],
        "add patients, merge rare classes, or score everybody out of folds (--split patient_kfold --folds 5)",
    )
