"""One CSV or Parquet file -> a table with one row per case; whatever could be read in two ways is refused."""

from __future__ import annotations

import codecs
import csv
import fnmatch
import gzip
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from histotune.data.modalities.table import Table, TableColumn
from histotune.errors import DataError, suggest
from histotune.ingest.cells import CATEGORIES, NUMBERS, read_column
from histotune.ingest.spellings import is_missing

SEPARATORS = ",;\t"
PARQUET = (".parquet", ".pq")
CASE_ID = "case_id"
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class TableFile:
    """A file that is one modality. Patterns are those of a shell: `*`, `?`, `[ab]`.

    Args:
        path: relative to the data's root.
        id: its column of case ids.
        include: patterns of the columns that are read.
        exclude: pattern -> why the columns that match it are left out.
        numbers: patterns of columns that hold numbers, whatever stands in them.
        categories: patterns of columns whose values are words, even where they look like numbers.
    """

    path: str
    id: str = "case_id"
    include: tuple[str, ...] = ("*",)
    exclude: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    def kind(self, name: str) -> str:
        """Return what a column is said to hold, "" where nothing is said."""
        return CATEGORIES if _matches(name, self.categories) else NUMBERS if _matches(name, self.numbers) else ""


@dataclass(frozen=True)
class Rows:
    """A table with the id of every row, each once, and what a person should know of how it was read."""

    ids: list[str]
    table: Table
    notes: list[str]

    def of(self, ids: Sequence[str]) -> tuple[Table, np.ndarray]:
        """Return the rows of `ids`, NaN where there is none or nothing in it, and who has one, bool [n]."""
        places = pd.Index(self.ids).get_indexer(pd.Index(ids))
        values = np.where(places[:, None] < 0, np.float32(np.nan), self.table.values[places])
        return Table(values, self.table.columns), np.asarray(~np.isnan(values).all(axis=1))


def read_rows(root: Path, file: TableFile, expected: str) -> Rows:
    """Read one modality.

    Args:
        expected: what an error says when the file is not there.

    Raises:
        DataError: no such file, no rows, a column that stands twice or is missing, an id with different rows, a cell
            that is no finite number in a column of numbers.
    """
    path = root / file.path
    frame, notes = read_frame(path, lambda name: name == file.id or _matches(name, file.categories), expected)
    require_columns(path, frame, [file.id])
    features = [name for name in frame.columns if name != file.id]
    for pattern in (*file.include, *file.exclude, *file.numbers, *file.categories):
        if not any(_matches(name, [pattern]) for name in features):
            raise DataError(f"{path} has no column that matches {pattern!r}. {suggest(pattern, features[:40])}")
    kept = [name for name in features if _matches(name, file.include) and not _matches(name, list(file.exclude))]
    if not kept:
        raise DataError(f"{path}: no column is left: {len(features)} columns, of which none is included")
    for reason in dict.fromkeys(file.exclude.values()):
        patterns = [pattern for pattern, why in file.exclude.items() if why == reason]
        notes.append(f"left out {', '.join(name for name in features if _matches(name, patterns))}: {reason}")
    frame, left_out = _unique(path, frame[[file.id, *kept]], file.id)
    ids = frame[file.id].tolist()
    result = [read_column(path, frame[name], ids, file.kind(name)) for name in kept]
    table = Table(np.column_stack([values for values, _ in result]), tuple(column for _, column in result))
    asked = {name for name in kept if file.kind(name)}
    mixed = [_mixed(path, frame[column.name], column) for _, column in result if column.name not in asked]
    return Rows(ids, table, [*notes, *left_out, *filter(None, mixed)])


def _mixed(path: Path, cells: pd.Series, column: TableColumn) -> str:
    """Return a note on a column of words in which some cells are numbers; "" where there is nothing to note."""
    if column.categories is None:
        return ""
    numbers = pd.to_numeric(cells, errors="coerce").notna().sum()
    words = cells[pd.to_numeric(cells, errors="coerce").isna() & cells.notna()]
    if not numbers or not len(words):
        return ""
    return (
        f"{path.name}, column {cells.name!r}: {numbers} cells are numbers and {len(words)} are words such as "
        f"{words.iloc[0]!r}; it is read as categories"
    )


@dataclass(frozen=True)
class KnownRows:
    """Rows of a table that a model reads, the id of every row once, and who has anything in it, bool [n]."""

    ids: list[str]
    table: Table
    there: np.ndarray

    def of(self, ids: Sequence[str]) -> tuple[Table, np.ndarray]:
        """Return the rows of `ids`, NaN where there is none, and who has one, bool [n]."""
        places = pd.Index(self.ids).get_indexer(pd.Index(ids))
        values = np.where(places[:, None] < 0, np.float32(np.nan), self.table.values[places])
        return Table(values, self.table.columns), (places >= 0) & self.there[places]


def read_known(
    path: Path,
    kinds: Mapping[str, str],
    needed: Sequence[str],
    *,
    words: Mapping[str, Collection[str]] | None = None,
    own: str = "",
) -> KnownRows:
    """Read the columns that a model was trained on; others are left out.

    Args:
        kinds: {column: `numbers` or `categories`} of all columns that the model was trained on.
        needed: those among them that it cannot do without; the others only tell whether a row is empty.
        words: as in `known_columns`.
        own: the column of case ids in training; where it is not known, or not there, `case_id` is, or the first one.

    Raises:
        DataError: as `read_rows`, or a column that is needed is missing.
    """
    frame, _ = read_frame(path, lambda name: name == own or kinds.get(name) != NUMBERS, "")
    if own not in frame:
        own = CASE_ID if CASE_ID in frame else frame.columns[0]
    if own in kinds:
        raise DataError(
            f"{path} has no column of case ids: its first column {own!r} is one that the model reads. Call it {CASE_ID}"
        )
    frame, _ = _unique(path, frame[[own, *(name for name in frame.columns if name in kinds)]], own)
    return known_columns(path, frame.set_index(own), kinds, needed, words)


def known_columns(
    where: Path,
    frame: pd.DataFrame,
    kinds: Mapping[str, str],
    needed: Sequence[str],
    words: Mapping[str, Collection[str]] | None = None,
) -> KnownRows:
    """Take the columns that a model was trained on from a table whose index is the case ids; see `read_known`.

    Words that the model does not know count as no value, and are warned of.

    Args:
        where: what an error calls the table.
        words: {column: categories that the model knows}.
    """
    missing = [name for name in needed if name not in frame]
    if missing:
        raise DataError(
            f"{where} lacks {len(missing)} of {len(needed)} columns that the model reads: {three(missing)}. "
            f"{suggest(missing[0], list(frame.columns[:40]))}"
        )
    ids = [str(name) for name in frame.index]
    there = frame[[name for name in frame.columns if name in kinds]].notna().any(axis=1).to_numpy()
    result = [read_column(where, frame[name], ids, kinds[name]) for name in needed]
    for values, column in result:
        _warn_of_unknown(where, values, column, (words or {}).get(column.name))
    table = Table(np.column_stack([values for values, _ in result]), tuple(column for _, column in result))
    return KnownRows(ids, table, there)


def _warn_of_unknown(where: Path, values: np.ndarray, column: TableColumn, words: Collection[str] | None) -> None:
    if column.categories is None or words is None:
        return
    unknown = [code for code, word in enumerate(column.categories) if word not in words]
    count, there = int(np.isin(values, unknown).sum()), int((~np.isnan(values)).sum())
    if count:
        all_of = "all" if count == there else str(count)
        warnings.warn(
            f"{where}, column {column.name!r}: {all_of} of {there} cells hold words that the model does not know, such "
            f"as {column.categories[unknown[0]]!r}; it knows {three(sorted(words))}. They count as no value",
            stacklevel=5,
        )


def read_frame(path: Path, as_words: Callable[[str], bool], expected: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a file; columns for which `as_words` holds keep their text as it stands.

    Returns:
        the columns that have a name, and a note on those that have none.

    Raises:
        DataError: no such file, no table, no rows, a column name that stands twice.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. {expected}")
    try:
        frame = _parquet(path, as_words) if path.suffix in PARQUET else _csv(path, as_words)
    except (ValueError, OSError, EOFError, ImportError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path} is no table that can be read: {error}") from error
    if frame.empty:
        raise DataError(f"{path} is an empty table: it has {len(frame.columns)} columns and no row")
    nameless = [name for name in frame.columns if not name]
    notes = [f"{len(nameless)} column without a name is left out"] if nameless else []
    return frame[[name for name in frame.columns if name]], notes


def require_columns(path: Path, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse a file that lacks one of the columns."""
    for name in names:
        if name not in frame:
            known = list(frame.columns[:40])
            raise DataError(f"{path} has no column {name!r}. {suggest(name, known)}")


def slashed(file: Path, path: str) -> str:
    """Return a path in `file` with slashes where it was written on Windows, and no file beside it is called so."""
    return path.replace("\\", "/") if "\\" in path and not (file.parent / path).exists() else path


def three(names: Sequence[str]) -> str:
    """Write at most three of many.

    >>> three(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    return ", ".join([*map(str, names[:3]), *(["..."] if len(names) > 3 else [])])


class Dialect(NamedTuple):
    """How a text file is written.

    Attributes:
        encoding: as Python calls it.
        separator: of the cells.
        header: names of the columns, stripped.
        skipped: lines before the first row.
    """

    encoding: str
    separator: str
    header: list[str]
    skipped: int


def dialect(path: Path) -> Dialect:
    """Find out how a CSV file is written: UTF-8 (with or without a mark), UTF-16 or Windows' Latin letters.

    The separator is the one of `SEPARATORS` that the header has most of; blank lines before it are skipped.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        raw = file.read()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            encoding = "cp1252"
    if encoding != "utf-16" and b"\0" in raw:
        raise ValueError("it holds bytes of 0, and a text has none")
    lines = raw.decode(encoding, errors="replace").splitlines()
    blank = next((at for at, line in enumerate(lines) if line.strip(SEPARATORS + " ")), len(lines))
    first = lines[blank] if blank < len(lines) else ""
    separator = max(SEPARATORS, key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
    while header and not header[-1]:  # a separator ends every line
        header.pop()
    return Dialect(encoding, separator, header, blank + 1)


def _csv(path: Path, as_words: Callable[[str], bool]) -> pd.DataFrame:
    encoding, separator, header, skipped = dialect(path)
    _refuse_same_names(path, header)
    if not header:
        return pd.DataFrame()
    words = {at: str for at, name in enumerate(header) if as_words(name)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row of too many cells would lose them
        options: dict[str, Any] = {"sep": separator, "header": None, "skiprows": skipped, "encoding": encoding}
        try:
            names = range(len(header))
            frame = pd.read_csv(path, names=names, index_col=False, dtype=words, low_memory=False, **options)
        except pd.errors.ParserWarning:
            frame = pd.read_csv(path, dtype=words, low_memory=False, **options)
            if frame.iloc[:, len(header) :].notna().any(axis=None):
                raise
            frame = frame.iloc[:, : len(header)]  # what is over is empty: a separator ends every line
    for at, name in enumerate(header):
        if frame[at].dtype == object or isinstance(frame[at].dtype, pd.StringDtype):
            frame[at] = _filled(frame[at], comma=separator != "," and not as_words(name))
    return frame.set_axis(header, axis=1)


def _filled(cells: pd.Series, *, comma: bool) -> pd.Series:
    """Make cells that say so missing; read decimal commas where no comma separates cells."""
    cells = cells.mask(cells.map(lambda cell: isinstance(cell, str) and is_missing(cell)))
    known = cells.dropna()
    if comma and len(known) and known.map(lambda cell: _DECIMAL_COMMA.fullmatch(str(cell).strip()) is not None).all():
        return cells.map(lambda cell: float(str(cell).replace(",", ".")), na_action="ignore").astype(np.float64)
    return cells


def _parquet(path: Path, as_words: Callable[[str], bool]) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    frame.columns = [str(name).strip() for name in frame.columns]
    _refuse_same_names(path, list(frame.columns))
    for name in frame.columns:
        if as_words(name):
            frame[name] = frame[name].map(str, na_action="ignore")
    return frame


def _refuse_same_names(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: {len(twice)} column names stand more than once: {three(twice)}. Rename or drop them")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _unique(path: Path, frame: pd.DataFrame, column: str) -> tuple[pd.DataFrame, list[str]]:
    """Leave out rows without an id and copies of a row; refuse an id with different rows."""
    ids = frame[column].str.strip()
    known = ids.notna() & (ids != "")
    frame = frame.assign(**{column: ids})[known]
    once = frame.drop_duplicates()
    again = once.loc[once[column].duplicated(), column].unique().tolist()
    if again:
        raise DataError(
            f"{path}: {len(again)} ids in column {column!r} stand in several rows that differ: {three(again)}. "
            "A case has one row: join or drop them"
        )
    if once.empty:
        raise DataError(f"{path} is an empty table: no row has an id in column {column!r}")
    notes = [f"{(~known).sum()} rows without an id left out"] if not known.all() else []
    copies = len(frame) - len(once)
    return once, [*notes, f"{copies} rows that repeat another left out"] if copies else notes
