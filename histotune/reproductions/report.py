"""Write a reproduction: Markdown for people, CSV and JSON of all numbers for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from histotune.core import files
from histotune.core.config import unparse
from histotune.metrics.scores import in_words
from histotune.reproductions._tables import Arm, Line, verdict
from histotune.reproductions.contract import Table
from histotune.reproductions.rows import Measured
from histotune.training.efficiency import Efficiency

HOW = (
    "A cell is the mean ± standard deviation over training seeds, on one split and with one choice of parameters; the "
    "spread does not cover other splits or other choices.",
    "A difference is the mean over seeds of the row minus the reference on the same patients. Its 95 % interval and "
    "two-sided p come from resampled patients and the spread over seeds (few make it wide); p is corrected for "
    "the rows of its table (Holm).",
    "A published number stands beside ours only under the very same metric. It comes from other data or another split.",
)
_COSTS = (
    "Parameters that predict; operations of matrix products and convolutions for one image (a multiply-add is two); "
    "median time to score images, with this machine as busy as it was; memory of tensors, weights included, while 64 "
    "images are scored, and in a training step on them without the optimiser's state."
)
_CSV = (
    "arm", "table", "row", "metric", "seeds", "patients", "cases", "mean", "sd", "values", "mean_low", "mean_high",
    "published", "source", "difference", "low", "high", "p", "p_corrected",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A further table of a report.

    Attributes:
        title, note: in words.
        head, rows: its cells.
        numbers: one mapping per number, as the CSV has them: row, metric, mean, ...
    """

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Report:
    """What a report says besides its tables.

    Attributes:
        name: of its files, without ending.
        head: sentences at the top.
        scaled: rows (what, here, in the paper).
        chosen: {arm: rows (contender, complete trials, first and best configuration, validation metric of the best)}.
        metric: of that choice.
        reference: the contender with which all are compared.
        times: {arm: {contender: seconds of an epoch}}.
        notes: what a reader must know of this setting.
        facts: how it was called and on what, for programs.
        sections: what stands after the tables.
        how: what a cell, a difference and a published number are.
    """

    name: str
    title: str
    head: Sequence[str]
    scaled: Sequence[tuple[str, str, str]]
    chosen: Mapping[str, Sequence[tuple[str, str, str, str, float]]]
    metric: str
    reference: str
    times: Mapping[str, Mapping[str, float]]
    notes: Sequence[str]
    facts: Mapping[str, Any]
    sections: Sequence[Section] = ()
    how: Sequence[str] = HOW


def write(report: Report, arms: Sequence[Arm], folder: Path) -> list[Path]:
    """Write `<name>.md`, `.csv` and `.json` into `folder` and return them."""
    everything = {
        **report.facts,
        "arms": [
            {
                "arm": arm.name,
                "tables": [{"title": t.title, "tested": t.tested, "rows": unparse(rows)} for t, rows in arm.tables],
                "measured": unparse(arm.measured),
            }
            for arm in arms
        ],
        "chosen": {arm: [list(row) for row in rows] for arm, rows in report.chosen.items()},
        "seconds_per_epoch": {arm: dict(times) for arm, times in report.times.items()},
        **({"sections": [asdict(section) for section in report.sections]} if report.sections else {}),
    }
    text, numbers, whole = (folder / f"{report.name}.{ending}" for ending in ("md", "csv", "json"))
    files.write_text(text, markdown(report, arms))
    files.write_text(numbers, _csv(arms, report.sections))
    files.write_json(whole, everything)
    return [text, numbers, whole]


def markdown(report: Report, arms: Sequence[Arm]) -> str:
    """Return the report for people."""
    parts = [f"# {report.title}", *report.head]
    parts += ["## Against the paper", _grid(["", "here", "in the paper"], report.scaled)]
    for arm in arms:
        for table, rows in arm.tables:
            reference = arm.reference or report.reference
            parts += [f"## {arm.title(table)}", table.note, _table(table, rows, arm.measured, reference)]
            parts += [verdict(table, rows, reference)]
    for section in report.sections:
        parts += [f"## {section.title}", section.note, _grid(section.head, section.rows)]
    costs = next((arm.measured.efficiencies for arm in arms if arm.measured.efficiencies), {})
    parts += ["## What the networks cost to use", _COSTS, _efficiencies(costs)] if costs else []
    chosen, times = ([of(report, arm) for arm in by] for of, by in ((_chosen, report.chosen), (_times, report.times)))
    parts += ["## Chosen on the validation part", *chosen] if chosen else []
    parts += ["## Time", *times] if times else []
    parts += ["## How to read it", "\n".join(f"- {note}" for note in (*report.how, *report.notes))]
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
        columns |= {in_words(metric): here} if any(here) else {}
        columns |= {f"{in_words(metric)}, published": printed} if any(printed) else {}
    for name in rows[0].compared(table.tested, reference):
        compared = [line.compared(table.tested, reference)[name] for line in rows]
        columns |= {name: compared} if any(compared) else {}
    sources = [line.source(table.metrics) for line in rows]
    columns |= {"published in": sources} if any(sources) else {}
    return _grid(list(columns), list(zip(*columns.values(), strict=True)))


def _efficiencies(costs: Mapping[str, Efficiency]) -> str:
    head = ["", "parameters", "million operations", "ms, 1 image", "ms, 64 images", "MiB, scoring", "MiB, training"]
    rows = [
        (
            label, f"{one.parameters:,}", f"{one.flops / 1e6:.1f}", f"{one.latency_ms:.2f}",
            f"{one.batch_latency_ms:.1f}", f"{one.peak_memory_mb:.1f}", f"{one.training_memory_mb:.1f}",
        )
        for label, one in costs.items()
    ]  # fmt: skip
    device = next(iter(costs.values())).device
    return _grid([f"on {device}", *head[1:]], rows)


def _chosen(report: Report, arm: str) -> str:
    head = ["", "complete trials", "published, the first trial", "best here", f"validation {in_words(report.metric)}"]
    rows = [[*map(str, cells), f"{value:.3f}"] for *cells, value in report.chosen[arm]]
    return _under(arm, _grid(head, rows)) if rows else "Nothing: each contender has one configuration, its first."


def _times(report: Report, arm: str) -> str:
    base = report.times[arm][report.reference]
    rows = [[label, f"{seconds:.2f}", f"{seconds / base:.2f}"] for label, seconds in report.times[arm].items()]
    head = ["", "seconds per epoch, median; as busy as the machine was", f"times {report.reference}"]
    return _under(arm, _grid(head, rows))


def _under(arm: str, text: str) -> str:
    return f"{arm}:\n\n{text}" if arm else text


def _csv(arms: Sequence[Arm], sections: Sequence[Section]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV, lineterminator="\n")
    writer.writeheader()
    for arm in arms:
        for table, rows in arm.tables:
            for numbers in (one for line in rows for one in _numbers(table, line, arm.measured)):
                writer.writerow({"arm": arm.name, "table": table.title, **numbers})
    for section in sections:
        writer.writerows({"table": section.title, **numbers} for numbers in section.numbers)
    return out.getvalue()


def _numbers(table: Table, line: Line, measured: Measured) -> list[dict[str, Any]]:
    """Return everything that is known of a row, one mapping per metric."""
    found, row = [], measured.of(table).get(line.label)
    for metric in table.metrics:
        numbers: dict[str, Any] = {}
        if row is not None and metric in line.here:
            mean, spread = line.here[metric]
            values = " ".join(map(repr, row.values[metric]))
            numbers |= {"mean": mean, "sd": "" if spread != spread else spread, "values": values, "seeds": line.seeds}
            numbers |= {"patients": measured.patients["test"], "cases": measured.cases["test"]}
            if metric in row.intervals:
                numbers |= {"mean_low": row.intervals[metric].low, "mean_high": row.intervals[metric].high}
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
