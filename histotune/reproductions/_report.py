"""Write a reproduction's tables: Markdown for people, CSV and JSON of all numbers for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histotune import files
from histotune.config import unparse
from histotune.metrics import direction
from histotune.reproductions._base import Published, Reproduction, Table
from histotune.reproductions._measure import Measured
from histotune.statistics import Difference, holm

_WORDS = {"f1": "F1", "auroc": "AUROC", "nll": "NLL", "ece": "ECE", "mcc": "MCC", "brier": "Brier"}
_HOW = (
    "A cell is the mean ± standard deviation over training seeds, on one split and with one choice of parameters; the "
    "spread does not cover other splits or other choices.",
    "A difference is the mean over seeds of the row minus the reference on the same patients; its 95 % interval and its "
    "two-sided p come from resampled patients and seeds (few seeds say little of other trainings), and p is corrected "
    "for the rows of its table (Holm).",
    "A published number stands beside ours only under the very same metric. It comes from other data or another split.",
)


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        here: {metric: (mean, standard deviation over seeds)}; empty for a row that is published only.
        published: {metric: value} and where it is printed.
        difference: to the reference in the table's tested metric, and its p after correction; None for the reference.
    """

    label: str
    seeds: int
    here: Mapping[str, tuple[float, float]]
    published: Published | None
    difference: Difference | None
    corrected: float | None


@dataclass(frozen=True)
class Report:
    """What a report says; everything is data.

    Attributes:
        name: of its files, without ending.
        head: sentences at the top.
        scaled: rows (what, here, in the paper).
        chosen: rows (contender, complete trials, first and best configuration, validation metric of the best).
        metric: of that choice.
        times: {contender: seconds of an epoch}.
        notes: what a reader must know of this setting.
        facts: how it was called and on what, for programs.
    """

    name: str
    title: str
    head: Sequence[str]
    scaled: Sequence[tuple[str, str, str]]
    chosen: Sequence[tuple[str, str, str, str, float]]
    metric: str
    times: Mapping[str, float]
    notes: Sequence[str]
    facts: Mapping[str, Any]


def lines(table: Table, measured: Measured, published: Mapping[str, Published], reference: str) -> list[Line]:
    """Return the rows of a table of which something is known; p-values are corrected over them."""
    labels = [label for label in table.rows if label in measured.rows or label in published]
    differences = {
        label: measured.rows[label].differences[table.tested]
        for label in labels
        if label in measured.rows and table.tested in measured.rows[label].differences
    }
    corrected = dict(zip(differences, holm([d.p for d in differences.values()]), strict=True))
    found = []
    for label in labels:
        row = measured.rows.get(label)
        known = [metric for metric in table.metrics if row is not None and metric in row.values]
        here = {metric: (row.mean(metric), row.spread(metric)) for metric in known} if row is not None else {}
        difference = differences.get(label) if label != reference else None
        seeds = len(row.seeds) if row is not None else 0
        found.append(Line(label, seeds, here, published.get(label), difference, corrected.get(label)))
    return found


def verdict(table: Table, rows: Sequence[Line], reference: str) -> str:
    """Say in a sentence which rows differ from the reference after correction."""
    sides: dict[str, list[str]] = {"better": [], "worse": []}
    for line in rows:
        if line.difference is not None and line.corrected is not None and line.corrected < 0.05:
            better = line.difference.value * direction(table.tested) > 0
            sides["better" if better else "worse"].append(line.label)
    where = f"{reference} in {words(table.tested)} beyond noise, p corrected < .05"
    if not any(sides.values()):
        return f"No row differs from {where}."
    return " ".join(f"{side.capitalize()} than {where}: {', '.join(names)}." for side, names in sides.items() if names)


def write(
    report: Report,
    reproduction: Reproduction,
    measured: Measured,
    published: Mapping[str, Published],
    folder: Path,
) -> list[Path]:
    """Write `<name>.md`, `.csv` and `.json` into `folder` and return them."""
    tables = [(table, lines(table, measured, published, reproduction.reference)) for table in reproduction.tables]
    everything = {
        **report.facts,
        "tables": [{"title": table.title, "tested": table.tested, "rows": unparse(rows)} for table, rows in tables],
        "chosen": [list(row) for row in report.chosen],
        "seconds_per_epoch": dict(report.times),
        "measured": unparse(measured),
    }
    paths = [folder / f"{report.name}.{ending}" for ending in ("md", "csv", "json")]
    files.write_text(paths[0], markdown(report, reproduction, measured, tables))
    files.write_text(paths[1], _csv(measured, tables))
    files.write_json(paths[2], everything)
    return paths


def markdown(
    report: Report, reproduction: Reproduction, measured: Measured, tables: Sequence[tuple[Table, Sequence[Line]]]
) -> str:
    """Return the report for people."""
    reference = reproduction.reference
    parts = [f"# {report.title}", *report.head]
    parts += ["## Against the paper", _grid(["", "here", "in the paper"], report.scaled)]
    for table, rows in tables:
        parts += [f"## {table.title}", table.note, _table(table, rows, measured, reference)]
        parts += [verdict(table, rows, reference)]
    parts += ["## Chosen on the validation part", _chosen(report)]
    parts += ["## Time", _times(report, reference)]
    parts += ["## How to read it", "\n".join(f"- {note}" for note in (*_HOW, *report.notes))]
    return "\n\n".join(part for part in parts if part) + "\n"


def words(metric: str) -> str:
    """Write a metric for people.

    >>> words("macro_f1")
    'macro F1'
    """
    return " ".join(_WORDS.get(word, word) for word in metric.split("_"))


def _table(table: Table, rows: Sequence[Line], measured: Measured, reference: str) -> str:
    columns: list[tuple[str, str]] = []
    for metric in table.metrics:
        if any(metric in line.here for line in rows):
            columns.append((metric, "here"))
        if any(line.published is not None and metric in line.published.values for line in rows):
            columns.append((metric, "published"))
    head = ["", "seeds", "patients", *(words(m) + ("" if side == "here" else ", published") for m, side in columns)]
    sourced = any(side == "published" for _, side in columns)
    head += [
        f"{words(table.tested)} minus {reference} [95 %]",
        "p",
        "p corrected",
        *(["published in"] if sourced else []),
    ]
    body = []
    for line in rows:
        patients = str(measured.patients["test"]) if line.seeds else ""
        cells = [line.label, str(line.seeds or ""), patients, *(_cell(line, *column) for column in columns)]
        d = line.difference
        cells += [f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]", _p(d.p), _p(line.corrected)] if d else ["", "", ""]
        body.append([*cells, *([line.published.source if line.published else ""] if sourced else [])])
    return _grid(head, body)


def _cell(line: Line, metric: str, side: str) -> str:
    if side == "published":
        known = line.published is not None and metric in line.published.values
        return f"{line.published.values[metric]:.3f}" if known and line.published is not None else ""
    if metric not in line.here:
        return ""
    mean, spread = line.here[metric]
    return f"{mean:.3f}" + (f" ± {spread:.3f}" if spread == spread else "")


def _chosen(report: Report) -> str:
    head = ["", "complete trials", "published, the first trial", "best here", f"validation {words(report.metric)}"]
    return _grid(head, [[*cells, f"{value:.3f}"] for *cells, value in report.chosen])


def _times(report: Report, reference: str) -> str:
    base = report.times[reference]
    rows = [[label, f"{seconds:.2f}", f"{seconds / base:.2f}"] for label, seconds in report.times.items()]
    return _grid(["", "seconds per epoch, median over trainings", f"times {reference}"], rows)


def _csv(measured: Measured, tables: Sequence[tuple[Table, Sequence[Line]]]) -> str:
    head = ["table", "row", "metric", "seeds", "patients", "cases", "mean", "sd", "values", "published", "source"]
    head += ["difference", "low", "high", "p", "p_corrected"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for table, rows in tables:
        for line in rows:
            printed = line.published.values if line.published else {}
            for metric in (m for m in table.metrics if m in line.here or m in printed):
                mean, spread = line.here.get(metric, ("", ""))
                values = measured.rows[line.label].values[metric] if metric in line.here else []
                counts = [line.seeds, measured.patients["test"], measured.cases["test"]] if values else ["", "", ""]
                source = line.published.source if line.published and metric in printed else ""
                cells = [table.title, line.label, metric, *counts, mean, "" if spread != spread else spread]
                cells += [" ".join(map(repr, values)), printed.get(metric, ""), source]
                d = line.difference if metric == table.tested else None
                writer.writerow([*cells, *([d.value, d.low, d.high, d.p, line.corrected] if d else [""] * 5)])
    return out.getvalue()


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"
