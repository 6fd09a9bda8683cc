"""The same thing twice, on both sides of a split: equal images, equal rows of a table, equal bags."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from histotune.data.audits._base import AUDITS, LEAK, OK, WARNING, Finding, Subject
from histotune.data.modalities import MODALITIES, Column

TELLING = 3  # columns of a table whose cells are mostly their own, from which on equal rows are no coincidence


@AUDITS.register("identical")
def identical(subject: Subject) -> Finding:
    """Cases on both sides of the split of which a modality holds exactly the same: pixels, cells, instances.

    Rows of a table with hardly a column whose values are a case's own may be equal by chance: where they are all that
    is known of the cases it is a warning, and else nothing.
    """
    columns = subject.cohort.columns
    telling = all(_telling(column) for column in columns.values())
    result = {"all that is known of them": _numbered(subject.cohort.table["content"].to_numpy(str))}
    for name, column in columns.items() if len(columns) > 1 else ():
        if column.kind != "image" and _telling(column):
            digests = np.array(MODALITIES.build(column.kind).digests(column.stored), str)
            result[f"modality {name!r}"] = _numbered(np.where(column.present, digests, ""))
            telling = True
    torn = {name: subject.torn(numbers) for name, numbers in result.items()}
    if any(map(len, torn.values())):
        return _finding(subject, LEAK if telling else WARNING, result, torn)
    copies = sum(subject.cohort.facts.get("left_out", {}).get(kind, 0) for kind in ("duplicate", "contradiction"))
    message = f"; {copies:,} copies were left out when they were prepared" if copies else ""
    return Finding("identical", OK, 0, len(subject.placed), f"no case stands on both sides{message}")


def _numbered(digests: np.ndarray) -> np.ndarray:
    """Number digests, int64 [N]; a case without one is unlike any other."""
    numbers = np.unique(digests, return_inverse=True)[1].astype(np.int64)
    missing = digests == ""
    numbers[missing] = len(digests) + np.arange(missing.sum())
    return numbers


def _telling(column: Column) -> bool:
    """Whether what a case holds can hardly be another's by chance."""
    if column.kind != "table":
        return True
    values = np.asarray(column.stored.values)[column.present]
    distinct = np.array([len(np.unique(cells[~np.isnan(cells)])) for cells in values.T])
    return int((distinct > len(values) / 2).sum()) >= TELLING


def _finding(
    subject: Subject, severity: str, result: Mapping[str, np.ndarray], torn: Mapping[str, np.ndarray]
) -> Finding:
    """Count the cases with a twin on the other side, by any of the numberings `result`, of which `torn` are parted."""
    twins = np.any([np.isin(numbers, torn[name]) for name, numbers in result.items()], axis=0)
    rows, examples = subject.placed[twins[subject.placed]], []
    where = next(name for name, numbers in torn.items() if len(numbers))
    for number in torn[where][:3]:
        examples.append(subject.pair(*subject.parted(np.flatnonzero(result[where] == number))))
    message = f"{len(rows):,} of {len(subject.placed):,} cases have an identical twin on the other side, in {where}"
    if severity == WARNING:
        message += "; with so few telling columns it may be chance"
    advice = "leave all but one of each out, or give them one patient"
    return Finding("identical", severity, len(rows), len(subject.placed), message, examples, advice)
