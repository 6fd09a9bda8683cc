"""The contract of a check: a divided cohort in, one finding out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from histotune.core.registry import Registry
from histotune.data.cohort import UNKNOWN, Cohort
from histotune.data.modalities import Column
from histotune.data.splits import TEST, TRAIN, VAL, Split

OK = "ok"
NOTE = "note"
WARNING = "warning"
LEAK = "leak"
SEVERITIES = (OK, NOTE, WARNING, LEAK)
EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        severity: `ok`; `note`, worth knowing or not checked for a reason; `warning`, figures may mislead; `leak`, the
            same thing is learnt from and tested on.
        count, of: how many of how many.
        sentence: what was found, for a person.
        examples: three of them.
        advice: what to do, "" where nothing need be done.
    """

    name: str
    severity: str
    count: int
    of: int
    sentence: str
    examples: Sequence[str] = ()
    advice: str = ""

    def __post_init__(self) -> None:
        """Keep what a table has room for."""
        assert self.severity in SEVERITIES
        object.__setattr__(self, "examples", tuple(self.examples)[:EXAMPLES])


@dataclass(frozen=True)
class Subject:
    """N cases of a cohort, divided; the labels of its test part are not known here.

    Attributes:
        cohort: the cases.
        sides: int64 [R, N], where each case stands in every one of R divisions: the place of its name in `names`,
            0 for nowhere. Without folds R is 1; with folds there is a division for each repeat.
        names: what the sides are called, `names[0]` is "".
        labels: int64 [N], `cohort.UNKNOWN` for the test part.
        protocol: of the split.
    """

    cohort: Cohort
    sides: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    protocol: str

    @classmethod
    def of(cls, cohort: Cohort, parts: Split, labels: np.ndarray) -> Subject:
        """Take a split; of all labels, int64 [N], those of the test part are forgotten."""
        labels = labels.copy()
        labels[parts.test] = UNKNOWN
        if parts.folds is None:
            names: tuple[str, ...] = ("", TRAIN, VAL, TEST)
            sides = np.zeros((1, len(cohort)), np.int64)
            sides[:, parts.train], sides[:, parts.val] = 1, 2
        else:
            names = ("", *(f"fold {k}" for k in range(1, int(parts.folds.max()) + 1)), TEST)
            sides = parts.folds.astype(np.int64)
        sides[:, parts.test] = len(names) - 1
        return cls(cohort, sides, names, labels, parts.protocol)

    @cached_property
    def patients(self) -> np.ndarray:
        """Patient of each case, str [N]."""
        return self.cohort.table["patient"].to_numpy(str)

    @cached_property
    def sites(self) -> np.ndarray:
        """Site of each case, str [N], "" where unknown."""
        return self.cohort.table["site"].to_numpy(str)

    @cached_property
    def ids(self) -> np.ndarray:
        """Name of each case, str [N]."""
        return self.cohort.table["id"].to_numpy(str)

    @cached_property
    def placed(self) -> np.ndarray:
        """Row numbers of the cases that stand somewhere."""
        return np.flatnonzero(self.sides.any(axis=0))

    @cached_property
    def known(self) -> np.ndarray:
        """Row numbers of the cases whose label may be seen: training and validation part."""
        return np.flatnonzero(self.sides.any(axis=0) & (self.labels != UNKNOWN))

    def images(self) -> Iterator[tuple[str, Column]]:
        """Yield every modality of images."""
        return ((name, column) for name, column in self.cohort.columns.items() if column.kind == "image")

    def across(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether the cases `first` and `second`, row numbers [n], stand on two sides of a division, bool [n]."""
        here, there = self.sides[:, first], self.sides[:, second]
        return ((here != there) & (here > 0) & (there > 0)).any(axis=0)

    def torn(self, groups: np.ndarray) -> np.ndarray:
        """Return which groups stand on several sides of a division, sorted; `groups` are integers or names, [N]."""
        result = [np.empty(0, groups.dtype)]
        for side in self.sides:
            here = np.flatnonzero(side)
            names, owner = np.unique(groups[here], return_inverse=True)
            pairs = np.unique(owner * len(self.names) + side[here]) // len(self.names)
            result.append(names[np.flatnonzero(np.bincount(pairs, minlength=len(names)) > 1)])
        return np.unique(np.concatenate(result))

    def parted(self, rows: np.ndarray) -> tuple[int, int]:
        """Return the first two of `rows` that a division parts."""
        for side in self.sides:
            result, first = np.unique(side[rows], return_index=True)
            one_each = np.sort(first[result > 0])
            if len(one_each) > 1:
                return int(rows[one_each[0]]), int(rows[one_each[1]])
        raise AssertionError("no division parts them")

    def spread(self, rows: np.ndarray) -> str:
        """Describe where cases stand in the first division: "12 train, 3 test"."""
        counts = np.bincount(self.sides[0, rows], minlength=len(self.names))
        return ", ".join(f"{count} {name}" for name, count in list(zip(self.names, counts, strict=True))[1:] if count)

    def pair(self, first: int, second: int) -> str:
        """Name two cases with the sides of a division that parts them."""
        at = int(np.argmax(self.sides[:, first] != self.sides[:, second]))
        one, other = (f"{self.ids[row]} ({self.names[self.sides[at, row]]})" for row in (first, second))
        return f"{one} and {other}"

    def skipped(self, name: str, reason: str, *, severity: str = NOTE) -> Finding:
        """Return the finding of a check that cannot be made, with the reason."""
        return Finding(name, severity, 0, 0, f"not checked: {reason}")


AUDITS: Registry[Finding] = Registry("check", "histotune.data.audits")


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings, leaks first."""
    return sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))
