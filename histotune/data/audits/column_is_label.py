"""Whether one column of a table is the label in other words, such as a treatment that follows from it."""

from __future__ import annotations

import numpy as np

from histotune.core.format import listed
from histotune.data.audits._base import AUDITS, EXAMPLES, OK, WARNING, Finding, Subject
from histotune.metrics.ranking import Ranking

NEARLY = 0.98  # balanced accuracy, or AUROC, from which on a column counts as the label
LEAST_CASES, LEAST_OF_CLASS = 20, 5  # with a value; fewer are share apart by chance


@AUDITS.register("column_is_label")
def column_is_label(subject: Subject) -> Finding:
    """Whether a single column of a table tells the label of nearly every case; words of one case tell nothing."""
    tables = {name: one for name, one in subject.cohort.columns.items() if one.kind == "table"}
    if not tables:
        return subject.skipped("column_is_label", "there are no tables", severity=OK)
    rows, suspects, count = subject.known, list[tuple[float, str]](), 0
    labels = subject.labels[rows]
    for name, one in tables.items():
        for at, column in enumerate(one.stored.columns):
            values = np.asarray(one.stored.values[rows, at], dtype=np.float64)
            there = ~np.isnan(values)
            count += 1
            if there.sum() < LEAST_CASES or np.unique(labels[there], return_counts=True)[1].min() < LEAST_OF_CLASS:
                continue
            share = (_by_word if column.categories else _by_number)(values[there], labels[there])
            if share >= NEARLY:
                suspects.append((share, f"{name}.{column.name} ({share:.3f})"))
    if not suspects:
        return Finding("column_is_label", OK, 0, count, "no column alone tells the label of nearly every case")
    names = [text for _, text in sorted(suspects, reverse=True)]
    return Finding(
        "column_is_label",
        WARNING,
        len(names),
        count,
        f"nearly every label follows from one column alone: {listed(names[:EXAMPLES])}",
        names,
        "if the column is known only after the diagnosis, or defines it, leave it out (exclude: in the description of "
        "the tables); else say so where figures are published",
    )


def _by_word(codes: np.ndarray, labels: np.ndarray) -> float:
    """Return the balanced accuracy of calling a case what most others with its word are; one alone tells nothing."""
    _, code = np.unique(codes, return_inverse=True)
    classes, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((code.max() + 1, len(classes)))
    np.add.at(counts, (code, label), 1)
    others = counts[code] - np.eye(len(classes))[label]
    right = (others.argmax(axis=1) == label) & (others.sum(axis=1) > 0)
    return float(np.mean([right[label == c].mean() for c in range(len(classes))])) if len(classes) > 1 else 0.0


def _by_number(values: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over classes of the AUROC of each against the rest, in whichever direction it is higher."""
    classes = np.unique(labels)
    if len(classes) < 2:
        return 0.0
    areas = [float(Ranking(values, labels == c).auroc()) for c in classes]
    return float(np.mean([max(area, 1 - area) for area in areas]))
