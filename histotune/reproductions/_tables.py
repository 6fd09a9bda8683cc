"""Rows of a reproduction's tables: what was measured, what is published, and whether it differs from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from histotune.metrics.bootstrap import Difference, Interval, holm
from histotune.metrics.scores import direction, in_words
from histotune.reproductions.contract import Published, Table
from histotune.reproductions.rows import Measured, Trained
from histotune.storage.study_folder import StudyStore

LEVEL = 0.05


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        seeds: number of trainings; 0 for a row that is published only.
        here: {metric: (mean, standard deviation over seeds)}.
        published: what is printed of it.
        difference: to the reference in the table's tested metric, None for the reference itself.
        corrected: the p-value of that difference after correction for the table's rows.
        interval: of the tested metric, None where it was not measured.
    """

    label: str
    seeds: int
    here: Mapping[str, tuple[float, float]]
    published: Published | None
    difference: Difference | None
    corrected: float | None
    interval: Interval | None = None

    def cell(self, metric: str) -> str:
        """Write what was measured of a metric, "" when nothing was."""
        if metric not in self.here:
            return ""
        mean, spread = self.here[metric]
        return f"{mean:.3f}" + (f" ± {spread:.3f}" if spread == spread else "")

    def printed(self, metric: str) -> str:
        """Write what is published of that very metric, "" when nothing is."""
        known = self.published.values if self.published is not None else {}
        return f"{known[metric]:.3f}" if metric in known else ""

    def source(self, metrics: Sequence[str]) -> str:
        """Say where one of these metrics is printed, "" where none is."""
        return self.published.source if self.published is not None and any(map(self.printed, metrics)) else ""

    def compared(self, metric: str, reference: str) -> dict[str, str]:
        """Write the tested metric's interval and the comparison with the reference, by column."""
        d, own, name = self.difference, self.interval, in_words(metric)
        return {
            f"{name} [95 %]": f"[{own.low:.3f}, {own.high:.3f}]" if own else "",
            f"{name} minus {reference} [95 %]": f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" if d else "",
            "p": shown_p(d.p) if d else "",
            "p corrected": shown_p(self.corrected),
        }

    def summary(self, metric: str, reference: str) -> dict[str, str]:
        """Write what matters most, by column."""
        own = {"": self.label, in_words(metric): self.cell(metric), "published": self.printed(metric)}
        return own | self.compared(metric, reference)


Tables = Sequence[tuple[Table, Sequence[Line]]]


@dataclass(frozen=True)
class Arm:
    """All tables over one set of cases and one way to train.

    Attributes:
        name: "" where there is one arm only, else such as "99:1" or "40x, by image".
        store: of the study in which everything was trained.
        trained: the trainings of each contender's best configuration, one per seed.
        measured: what they and their ensembles reach.
        tables: with their rows.
        reference: with which the rows are compared; "" for the reproduction's.
    """

    name: str
    store: StudyStore
    trained: Trained
    measured: Measured
    tables: Tables
    reference: str = ""

    def title(self, table: Table) -> str:
        """Name one of its tables."""
        return f"{self.name}: {table.title}" if self.name else table.title


def lines(table: Table, measured: Measured, published: Mapping[str, Published]) -> list[Line]:
    """Return the rows of a table of which something is known; p-values are corrected over them (Holm)."""
    rows = measured.of(table)
    known = {label: rows.get(label) for label in table.rows if label in rows or label in published}
    differences = {label: row.differences.get(table.tested) for label, row in known.items() if row is not None}
    tested = {label: difference.p for label, difference in differences.items() if difference is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [
        Line(
            label=label,
            seeds=len(row.seeds) if row is not None else 0,
            here={m: (row.mean(m), row.spread(m)) for m in table.metrics if m in row.values} if row is not None else {},
            published=published.get(label),
            difference=differences.get(label),
            corrected=corrected.get(label),
            interval=row.intervals.get(table.tested) if row is not None else None,
        )
        for label, row in known.items()
    ]


def verdict(table: Table, rows: Sequence[Line], reference: str) -> str:
    """Say in a sentence which rows differ from the reference after correction."""
    sides: dict[str, list[str]] = {"Better": [], "Worse": []}
    for line in rows:
        if line.difference is not None and line.corrected is not None and line.corrected < LEVEL:
            sides["Better" if line.difference.value * direction(table.tested) > 0 else "Worse"].append(line.label)
    where = f"{reference} in {in_words(table.tested)} beyond noise (p corrected < {LEVEL})"
    if not any(sides.values()):
        return f"No row differs from {where}."
    return " ".join(f"{side} than {where}: {'; '.join(labels)}." for side, labels in sides.items() if labels)


def shown_p(value: float | None) -> str:
    """Write a p-value, "" for none."""
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"
