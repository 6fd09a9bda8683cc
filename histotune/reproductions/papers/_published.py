"""Published figures of a paper, cell by cell, each with its table and row, and what stands here beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from histotune.core.config import parse
from histotune.errors import ConfigError, suggest
from histotune.metrics.scores import METRICS, check_metric, in_words

SECONDS, SPREAD, FIRST = "seconds of an epoch", "SD of these seconds", "value of the first trial"
_EQUAL = 0.0051
"""Two numbers that differ by less are the same one, rounded twice."""


@dataclass(frozen=True)
class Published:
    """What a paper prints of one row.

    Args:
        values: {metric: number}; a number stands under a metric only where the paper means that very metric.
        source: where it is printed, with table and row, or the word that the table's number is not available.
        missing: why nothing is printed of other rows and metrics.
    """

    values: Mapping[str, float]
    source: str
    missing: str = ""

    def __post_init__(self) -> None:
        """Refuse a number without a source, or of an unknown metric."""
        if not self.source:
            raise ConfigError(f"published values {dict(self.values)} have no source: name the table")
        for name in self.values:
            check_metric(name)


@dataclass(frozen=True)
class Cell:
    """A published number.

    Attributes:
        table, printed_row, column: where it is printed.
        number: as printed.
        row: beside which row it stands here, "" for none.
        metric: what it is here: a metric, seconds of an epoch, their SD, a value of the first trial; "" for nothing.
        why: why no measured row stands beside it, "" where one does.
    """

    table: str
    printed_row: str
    column: str
    number: float
    row: str
    metric: str
    why: str

    @property
    def value(self) -> float:
        """The number as a share where it is printed in per cent."""
        return round(self.number / 100, 6) if "%" in self.column else self.number

    @property
    def shown(self) -> bool:
        """Whether tables here have a row and a column for it."""
        return bool(self.row and self.metric)


@dataclass(frozen=True)
class PublishedTable:
    """A table, figure or passage of a paper as it is printed.

    Args:
        about: what it shows.
        columns: {column as printed: what it is here, see `Cell`}; "%" in its name: in per cent.
        rows: {row as printed: a number for each column, null where there is none}.
        settings: beside whose rows it stands.
        arm: of these settings.
        read_as: {row: what its columns are here}, where they are not those of the table.
        apart: {row, column or "all": why no measured row stands beside it}.
        paper, name: where it is.
        same: {row as printed: row here}.
    """

    about: str
    columns: Mapping[str, str]
    rows: Mapping[str, Sequence[float | None]]
    settings: Sequence[str] = ()
    arm: str = ""
    read_as: Mapping[str, Sequence[str]] = field(default_factory=dict)
    apart: Mapping[str, str] = field(default_factory=dict)
    paper: str = ""
    name: str = ""
    same: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse rows of another length, and names that are no row, column or metric."""
        for row, numbers in self.rows.items():
            for what, given in (("numbers", numbers), ("columns", self.read_as.get(row, numbers))):
                if len(given) != len(self.columns):
                    raise ConfigError(f"{self.name}: {row!r} has {len(given)} {what}, and not {len(self.columns)}")
        known = [*self.rows, *self.columns, "all"]
        metrics = [name for names in (self.columns.values(), *self.read_as.values()) for name in names]
        for names, allowed in (
            (self.apart, known),
            (self.read_as, list(self.rows)),
            (metrics, [*METRICS, SECONDS, SPREAD, FIRST, ""]),
        ):
            for name in names:
                if name not in allowed:
                    raise ConfigError(f"{self.name}: no row, column or metric {name!r}. {suggest(name, allowed)}")

    def cells(self) -> Iterator[Cell]:
        """Go through all of its numbers."""
        for row, numbers in self.rows.items():
            metrics = self.read_as.get(row, list(self.columns.values()))
            for column, number, metric in zip(self.columns, numbers, metrics, strict=True):
                why = next((self.apart[key] for key in (row, column, "all") if key in self.apart), "")
                if number is not None:
                    yield Cell(f"{self.paper} {self.name}", row, column, number, self.same.get(row, ""), metric, why)


def read_tables(written: Mapping[str, Any], where: str) -> list[PublishedTable]:
    """Read the published tables of a paper: `name` of the paper, `rows` {as printed: row here}, `tables`."""
    same = written.get("rows", {})
    result = []
    for name, values in written.get("tables", {}).items():
        table = parse(PublishedTable, values, f"{where}: {name}")
        own = {row: same[row] for row in table.rows if row in same}
        result.append(replace(table, paper=written["name"], name=name, same=own))
    return result


def published(tables: Sequence[PublishedTable], missing: str) -> dict[str, Published]:
    """Return {row here: what is printed of it}; of a number that is printed again the first counts.

    Its source names the table and row, then the tables that print the same, and other numbers with their table.
    """
    values: dict[str, dict[str, float]] = {}
    sources: dict[str, list[str]] = {}
    for table in tables:
        cells = [cell for cell in table.cells() if cell.shown and cell.metric in METRICS]
        for row in dict.fromkeys(cell.row for cell in cells):
            own = {cell.metric: cell for cell in cells if cell.row == row}
            known, said = values.setdefault(row, {}), sources.setdefault(row, [])
            other = [m for m, cell in own.items() if abs(known.get(m, cell.value) - cell.value) >= _EQUAL]
            if other:
                said.append(f"but {', '.join(f'{in_words(m)} {own[m].value:g}' for m in other)} in {table.name}")
            elif own.keys() <= known.keys():
                said.append(f"the same in {table.name}")
            else:
                said.append(f"{table.paper} {table.name}, row {next(iter(own.values())).printed_row}")
            known |= {m: cell.value for m, cell in own.items() if m not in known}
    return {row: Published(known, "; ".join(sources[row]), missing) for row, known in values.items()}


def seconds(tables: Sequence[PublishedTable]) -> dict[str, tuple[str, str]]:
    """Return {row: (seconds of an epoch and their SD as printed, where)}."""
    result: dict[str, tuple[str, str]] = {}
    for cell in (cell for table in tables for cell in table.cells()):
        if cell.metric == SECONDS:
            result[cell.row] = f"{cell.number:g}", f"{cell.table}, row {cell.printed_row}"
        elif cell.metric == SPREAD:
            result[cell.row] = f"{result[cell.row][0]} ± {cell.number:g}", result[cell.row][1]
    return result


def unshown(tables: Sequence[PublishedTable]) -> list[tuple[str, str, str]]:
    """Return (table and row, numbers, why) of what tables here have no row or column for."""
    result: dict[tuple[str, str], list[str]] = {}
    for cell in (cell for table in tables for cell in table.cells() if not cell.shown):
        key = f"{cell.table}, row {cell.printed_row}", cell.why
        result.setdefault(key, []).append(f"{cell.column} {cell.number:g}")
    return [(at, "; ".join(numbers), why) for (at, why), numbers in result.items()]


def count(tables: Sequence[PublishedTable]) -> tuple[int, Counter[str]]:
    """Count the numbers beside a row that is measured here, and the others by the reason why they are not."""
    cells = [cell for table in tables for cell in table.cells()]
    return sum(not cell.why for cell in cells), Counter(cell.why for cell in cells if cell.why)
