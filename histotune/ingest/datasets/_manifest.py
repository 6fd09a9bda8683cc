"""A CSV manifest -> rows: path, label, and where known patient, site, split, x, y."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from histotune.errors import DataError, suggest
from histotune.ingest.datasets._base import Problem
from histotune.ingest.spellings import is_missing
from histotune.ingest.tables import dialect, slashed

REQUIRED = ("path", "label")
OPTIONAL = ("patient", "site", "split", "x", "y")
SPLITS = {"": "", "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_manifest(file: Path) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Read a manifest; its paths are relative to its folder.

    Returns:
        rows with `path`, `label` (a class name), `patient`, `site`, `part`, `x`, `y`, `bytes`, `mtime`, and the lines
        that are left out: a missing file, no label, no patient where others have one.

    Raises:
        DataError: no such file, no CSV, a column missing or unknown, a split that is none of train, val, test.
    """
    table = _read_csv(file)
    has_patients = "patient" in table and not table["patient"].map(is_missing).all()
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for line, given in enumerate(table.to_dict("records"), start=2):  # line 1 names the columns
        problem = _problem(given, has_patients)
        if problem:
            problems.append(Problem(given["path"], problem, f"line {line} of {file.name} has none"))
            continue
        given["path"] = slashed(file, given["path"])
        try:
            stat = (file.parent / given["path"]).stat()
        except OSError as error:
            problems.append(Problem(given["path"], "missing", f"line {line} of {file.name}: {error.strerror}"))
            continue
        rows.append(
            {
                "path": given["path"],
                "label": given["label"],
                "patient": given.get("patient", "") if has_patients else "",
                "site": given.get("site", ""),
                "part": _part(given.get("split", ""), file, line),
                "x": _pixel(given.get("x", ""), file, line),
                "y": _pixel(given.get("y", ""), file, line),
                "bytes": stat.st_size,
                "mtime": stat.st_mtime_ns,
            }
        )
    return rows, problems


def _read_csv(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise DataError(f"manifest {file} does not exist")
    try:
        encoding, separator, header, skipped = dialect(file)
        options: dict[str, Any] = {"sep": separator, "header": None, "skiprows": skipped, "encoding": encoding}
        table = pd.read_csv(file, dtype=str, keep_default_na=False, **options)
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"manifest {file} is no CSV file: {error}") from error
    if not header or len(table.columns) < len(header) or (table.iloc[:, len(header) :] != "").any(axis=None):
        raise DataError(f"manifest {file}: its rows have {len(table.columns)} cells, and its header has {len(header)}")
    table = table.iloc[:, : len(header)].set_axis(header, axis=1)  # what is over is empty: a separator ends every line
    for column in table.columns:
        table[column] = table[column].str.strip()
    known = REQUIRED + OPTIONAL
    for column in REQUIRED:
        if column not in table:
            result = ", ".join(table.columns)
            raise DataError(f"manifest {file} has no column {column!r}; it has: {result}. Known: {', '.join(known)}")
    for column in table.columns:
        if column not in known and suggest(column, known).startswith("Did you mean"):
            raise DataError(f"manifest {file} has a column {column!r}. {suggest(column, known)}")
    return table


def _problem(row: Mapping[Any, Any], has_patients: bool) -> str:
    if is_missing(row["label"]):
        return "no_label"
    if has_patients and is_missing(row["patient"]):
        return "no_patient"  # to guess that it is a patient of its own would let a patient stand on both sides
    return ""


def _part(value: str, file: Path, line: int) -> str:
    if value.lower() not in SPLITS:
        raise DataError(f"{file}, line {line}: split {value!r} is unknown. {suggest(value, [s for s in SPLITS if s])}")
    return SPLITS[value.lower()]


def _pixel(value: str, file: Path, line: int) -> int:
    if not value:
        return -1
    try:
        return int(float(value))
    except ValueError as error:
        raise DataError(f"{file}, line {line}: {value!r} is no place in pixels") from error
