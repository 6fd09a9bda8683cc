"""The same thing twice, on both sides of a split: equal images, equal rows of a table, equal bags."""

from __future__ import annotations

import numpy as np

from histotune.audits._base import AUDITS, LEAK, OK, WARNING, Finding, Subject
from histotune.modalities import MODALITIES, Column

TELLING = 3  # columns of a table whose cells are mostly their own, from which on equal rows are no coincidence


@AUDITS.register("identical")
def identical(subject: Subject) -> Finding:
    """Cases on both sides of the split of which a modality holds exactly the same: pixels, cells, instances.

    Rows of a table that has hardly a column whose values are a case's own may be equal by chance: a warning, no leak.
    """
    content = _places_of(subject.cohort.table["content"].to_numpy(str))
    found = [("all that is known of them", content, True)]
    for name, column in subject.cohort.columns.items():
        if column.kind != "image" and len(subject.cohort.columns) > 1:
            found.append((f"modality {name!r}", _of_modality(column), _telling(column)))
        elif column.kind == "table":
            found[0] = (found[0][0], content, _telling(column))
    certain = _rows([digests for _, digests, telling in found if telling], subject)
    if len(certain):
        return _finding(subject, LEAK, certain, [pair for pair in found if pair[2]])
    chance = _rows([digests for _, digests, telling in found if not telling], subject)
    if len(chance):
        return _finding(subject, WARNING, chance, [pair for pair in found if not pair[2]])
    copies = sum(subject.cohort.facts.get("left_out", {}).get(kind, 0) for kind in ("duplicate", "contradiction"))
    said = f"; {copies:,} copies were left out when they were prepared" if copies else ""
    return Finding("identical", OK, 0, len(subject.placed), f"no case stands on both sides{said}")


def _places_of(digests: np.ndarray) -> np.ndarray:
    """Number digests, int64 [N]; a case without one is unlike any other."""
    numbers = np.unique(digests, return_inverse=True)[1].astype(np.int64)
    missing = digests == ""
    numbers[missing] = len(digests) + np.arange(missing.sum())
    return numbers


def _of_modality(column: Column) -> np.ndarray:
    digests = np.array(MODALITIES.build(column.kind).digests(column.stored), str)
    return _places_of(np.where(column.present, digests, ""))


def _telling(column: Column) -> bool:
    """Whether what a case holds can hardly be another's by chance."""
    if column.kind != "table":
        return True
    values = np.asarray(column.stored.values)[column.present]
    distinct = np.array([len(np.unique(cells[~np.isnan(cells)])) for cells in values.T])
    return int((distinct > len(values) / 2).sum()) >= TELLING


def _rows(numbered: list[np.ndarray], subject: Subject) -> np.ndarray:
    """Return the rows that have a twin on the other side in any numbering."""
    found = [
        np.flatnonzero(np.isin(numbers, subject.torn(numbers)) & subject.sides.any(axis=0)) for numbers in numbered
    ]
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def _finding(subject: Subject, severity: str, rows: np.ndarray, found: list[tuple[str, np.ndarray, bool]]) -> Finding:
    examples, what = [], []
    for name, numbers, _ in found:
        torn = subject.torn(numbers)
        if len(torn):
            what.append(name)
        for number in torn[:3]:
            twins = np.flatnonzero(numbers == number)
            other = next(row for row in twins if subject.across(twins[:1], np.array([row]))[0])
            examples.append(subject.pair(int(twins[0]), int(other)))
    said = f"{len(rows):,} of {len(subject.placed):,} cases have an identical twin on the other side, in {what[0]}"
    if severity == WARNING:
        said += "; with so few telling columns it may be chance"
    advice = "leave all but one of each out, or give them one patient"
    return Finding("identical", severity, len(rows), len(subject.placed), said, examples, advice)
