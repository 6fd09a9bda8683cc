"""Write a reproduction: Markdown for people, CSV and JSON of all numbers for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histotune import files
from histotune.config import unparse
from histotune.reproductions._base import Table
from histotune.reproductions._measure import Measured
from histotune.reproductions._tables import Line, Tables, verdict, words

_HOW = (
    "A cell is the mean ± standard deviation over training seeds, on one split and with one choice of parameters; the "
    "spread does not cover other splits or other choices.",
    "A difference is the mean over seeds of the row minus the reference on the same patients. Its 95 % interval and "
    "two-sided p come from resampled patients and seeds (few seeds say little of other trainings); p is corrected for "
    "the rows of its table (Holm).",
    "A published number stands beside ours only under the very same metric. It comes from other data or another split.",
)
_CSV = (
    "table", "row", "metric", "seeds", "patients", "cases", "mean", "sd", "values", "published", "source",
    "difference", "low", "high", "p", "p_corrected",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What a report says besides its tables.

    Attributes:
        name: of its files, without ending.
        head: sentences at the top.
        scaled: rows (what, here, in the paper).
        chosen: rows (contender, complete trials, first and best configuration, validation metric of the best).
        metric: of that choice.
        reference: the contender with which all are compared.
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
    reference: str
    times: Mapping[str, float]
    notes: Sequence[str]
    facts: Mapping[str, Any]


def write(report: Report, tables: Tables, measured: Measured, folder: Path) -> list[Path]:
    """Write `<name>.md`, `.csv` and `.json` into `folder` and return them."""
    everything = {
        **report.facts,
        "tables": [{"title": table.title, "tested": table.tested, "rows": unparse(rows)} for table, rows in tables],
        "chosen": [list(row) for row in report.chosen],
        "seconds_per_epoch": dict(report.times),
        "measured": unparse(measured),
    }
    text, numbers, whole = (folder / f"{report.name}.{ending}" for ending in ("md", "csv", "json"))
    files.write_text(text, markdown(report, tables, measured))
    files.write_text(numbers, _csv(tables, measured))
    files.write_json(whole, everything)
    return [text, numbers, whole]


def markdown(report: Report, tables: Tables, measured: Measured) -> str:
    """Return the report for people."""
    parts = [f"# {report.title}", *report.head]
    parts += ["## Against the paper", _grid(["", "here", "in the paper"], report.scaled)]
    for table, rows in tables:
        parts += [f"## {table.title}", table.note, _table(table, rows, measured, report.reference)]
        parts += [verdict(table, rows, report.reference)]
    parts += ["## Chosen on the validation part", _chosen(report), "## Time", _times(report)]
    parts += ["## How to read it", "\n".join(f"- {note}" for note in (*_HOW, *report.notes))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: Table, rows: Sequence[Line], measured: Measured, reference: str) -> str:
    """Write every metric that is known of a row, what is published of it right beside what was measured."""
    columns: dict[str, list[str]] = {
        "": [line.label for line in rows],
        "seeds": [str(line.seeds or "") for line in rows],
        "patients": [str(measured.patients["test"]) if line.seeds else "" for line in rows],
    }
    for metric in table.metrics:
        here, printed = [line.cell(metric) for line in rows], [line.printed(metric) for line in rows]
        columns |= {words(metric): here} if any(here) else {}
        columns |= {f"{words(metric)}, published": printed} if any(printed) else {}
    for name in rows[0].compared(table.tested, reference):
        columns[name] = [line.compared(table.tested, reference)[name] for line in rows]
    sources = [line.source(table.metrics) for line in rows]
    columns |= {"published in": sources} if any(sources) else {}
    return _grid(list(columns), list(zip(*columns.values(), strict=True)))


def _chosen(report: Report) -> str:
    head = ["", "complete trials", "published, the first trial", "best here", f"validation {words(report.metric)}"]
    return _grid(head, [[*map(str, cells), f"{value:.3f}"] for *cells, value in report.chosen])


def _times(report: Report) -> str:
    base = report.times[report.reference]
    rows = [[label, f"{seconds:.2f}", f"{seconds / base:.2f}"] for label, seconds in report.times.items()]
    return _grid(["", "seconds per epoch, median; as busy as the machine was", f"times {report.reference}"], rows)


def _csv(tables: Tables, measured: Measured) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV, lineterminator="\n")
    writer.writeheader()
    for table, rows in tables:
        for line in rows:
            writer.writerows({"table": table.title, **numbers} for numbers in _numbers(table, line, measured))
    return out.getvalue()


def _numbers(table: Table, line: Line, measured: Measured) -> list[dict[str, Any]]:
    """Return everything that is known of a row, one mapping per metric."""
    found = []
    for metric in table.metrics:
        numbers: dict[str, Any] = {}
        if metric in line.here:
            mean, spread = line.here[metric]
            values = " ".join(map(repr, measured.rows[line.label].values[metric]))
            numbers |= {"mean": mean, "sd": "" if spread != spread else spread, "values": values, "seeds": line.seeds}
            numbers |= {"patients": measured.patients["test"], "cases": measured.cases["test"]}
        if line.published is not None and metric in line.published.values:
            numbers |= {"published": line.published.values[metric], "source": line.published.source}
        if line.difference is not None and metric == table.tested:
            d = line.difference
            numbers |= {"difference": d.value, "low": d.low, "high": d.high, "p": d.p, "p_corrected": line.corrected}
        if numbers:
            found.append({"row": line.label, "metric": metric, **numbers})
    return found


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])
