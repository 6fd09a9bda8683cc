"""Write a reproduction: Markdown for people, CSV and JSON of all numbers for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from histotune.core import files
from histotune.core.config import unparse
from histotune.metrics.bootstrap import holm
from histotune.metrics.intervals import ConfidenceInterval, Difference
from histotune.metrics.scores import direction, in_words
from histotune.reproductions.papers import ComparisonTable, Published, Setting, unshown
from histotune.reproductions.rows import MeasuredContender, TrainingsByContender
from histotune.storage.study_folder import StudyFolder
from histotune.training.efficiency import Efficiency

_COSTS = (
    "Parameters that predict; operations of matrix products and convolutions for one image (a multiply-add is two); "
    "median time to score images, with this machine as busy as it was; memory of tensors, weights included, while 64 "
    "images are scored, and in a training step on them without the optimiser's state."
)
_CSV = (
    "arm",
    "table",
    "row",
    "metric",
    "seeds",
    "patients",
    "cases",
    "mean",
    "sd",
    "values",
    "mean_low",
    "mean_high",
    "published",
    "source",
    "difference",
    "low",
    "high",
    "p",
    "p_corrected",
)
LEVEL = 0.05


@dataclass(frozen=True)
class TableSection:
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
class ReproductionReport:
    """What a report says besides its tables.

    Attributes:
        request: how it was called: reproduction, on, protocol, budget, seeds.
        head: sentences at the top.
        scaled: rows (what, here, in the paper).
        chosen: {arm: rows (contender, complete trials, first and best configuration, validation metric of the best)}.
        metric: of that choice.
        reference: the contender with which all are compared.
        times: {arm: {contender: seconds of an epoch}}.
        printed_times: {contender: (seconds of an epoch as printed, where)}.
        first_trial: where the published values of the first trials are printed.
        notes: what a reader must know of this setting.
        facts: how it was called and on what, for programs.
        sections: what stands after the tables.
        how: what a cell, a difference and a published number are.
    """

    request: Mapping[str, Any]
    head: Sequence[str]
    scaled: Sequence[tuple[str, str, str]]
    chosen: Mapping[str, Sequence[tuple[str, str, str, str, float]]]
    metric: str
    reference: str
    times: Mapping[str, Mapping[str, float]]
    notes: Sequence[str]
    facts: Mapping[str, Any]
    sections: Sequence[TableSection] = ()
    how: Sequence[str] = ()
    printed_times: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    first_trial: str = ""

    @property
    def name(self) -> str:
        """Name of its files, without ending."""
        return "{reproduction}-{on}-{protocol}".format(**self.request)

    @property
    def title(self) -> str:
        """What was called, in a line."""
        return "{reproduction} on {on}, split `{protocol}`, budget `{budget}`".format(**self.request)


def command(facts: Mapping[str, Any]) -> str:
    """Return the call that gives a report again."""
    name, *options = facts.items()
    return " ".join([f"histotune reproduce {name[1]}", *(f"--{option} {value}" for option, value in options)])


def write(report: ReproductionReport, arms: Sequence[Arm], folder: Path) -> list[Path]:
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


@dataclass(frozen=True)
class TextTable:
    """A table of a report: its head, and rows of as many cells."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(report: ReproductionReport, arms: Sequence[Arm]) -> str:
    """Return the report for people, from `templates/reproduction.md.j2`."""
    parts: list[tuple[str, list[str | TextTable]]] = [
        ("Against the paper", [TextTable(["", "here", "in the paper"], report.scaled)])
    ]
    for arm in arms:
        for table, rows in arm.tables:
            filled = _table(table, rows, arm.measured, arm.reference)
            said = [unpublished(table, rows), verdict(table, rows, arm.reference)]
            parts.append((arm.title(table), [table.note, filled, *said]))
    parts += [(section.title, [section.note, TextTable(section.head, section.rows)]) for section in report.sections]
    costs = next((arm.measured.efficiencies for arm in arms if arm.measured.efficiencies), {})
    parts += [("What the networks cost to use", [_COSTS, _efficiencies(costs)])] if costs else []
    for heading, by, filled_in in (
        ("Chosen on the validation part", report.chosen, _chosen),
        ("Time", report.times, _times),
    ):
        blocks = [block for arm in by for block in _under(arm, filled_in(report, arm))]
        origin = [f"Published values of the first trial: {report.first_trial}."] * bool(report.first_trial)
        parts += [(heading, [*origin * (by is report.chosen), *blocks])] if by else []
    parts.append(("How to read it", ["\n".join(f"- {note}" for note in (*report.how, *report.notes))]))
    environment = Environment(
        loader=PackageLoader("histotune.reproductions"), autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("reproduction.md.j2").render(title=report.title, head=report.head, parts=parts)


def _table(
    table: ComparisonTable, rows: Sequence[ResultLine], measured: MeasuredContender, reference: str
) -> TextTable:
    """Return every metric that is known of a row, what is published of it right beside what was measured."""
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
    columns |= {"published in": [source or "nowhere" for source in sources]} if any(sources) else {}
    return TextTable(list(columns), list(zip(*columns.values(), strict=True)))


def unpublished(table: ComparisonTable, rows: Sequence[ResultLine]) -> str:
    """Return why nothing is published of some rows and metrics of a table; "" where nothing is known of any row."""
    known = [line.published for line in rows if line.published is not None]
    why = next((f": {one.missing}" for one in known if one.missing), "")
    sources = [line.source(table.metrics) for line in rows]
    metrics = [in_words(one) for one in table.metrics if not any(line.printed(one) for line in rows)]
    if known and not any(sources):
        return f"No number of this table is published{why}."
    missing = ["of rows that say nowhere"] * (not all(sources)) + [f"in {', '.join(metrics)}"] * bool(metrics)
    return f"Nothing is published {' and '.join(missing)}{why}." if known and missing else ""


def without_a_row(setting: Setting) -> list[TableSection]:
    """Return a table of what the paper prints on a setting and no row or column here stands beside."""
    rows = [[numbers, at, why] for at, numbers, why in unshown(setting.printed_tables)]
    head = ["published", "published in", "why it stands beside nothing"]
    return [TableSection("Published, without a row here", "As printed.", head, rows)] if rows else []


def _efficiencies(costs: Mapping[str, Efficiency]) -> TextTable:
    head = ["", "parameters", "million operations", "ms, 1 image", "ms, 64 images", "MiB, scoring", "MiB, training"]
    rows = [
        (
            label,
            f"{one.parameters:,}",
            f"{one.flops / 1e6:.1f}",
            f"{one.latency_ms:.2f}",
            f"{one.batch_latency_ms:.1f}",
            f"{one.peak_memory_mb:.1f}",
            f"{one.training_memory_mb:.1f}",
        )
        for label, one in costs.items()
    ]
    device = next(iter(costs.values())).device
    return TextTable([f"on {device}", *head[1:]], rows)


def _chosen(report: ReproductionReport, arm: str) -> str | TextTable:
    head = ["", "complete trials", "published, the first trial", "best here", f"validation {in_words(report.metric)}"]
    rows = [[*map(str, cells), f"{value:.3f}"] for *cells, value in report.chosen[arm]]
    return TextTable(head, rows) if rows else "Nothing: each contender has one configuration, its first."


def _times(report: ReproductionReport, arm: str) -> TextTable:
    base = report.times[arm][report.reference]
    rows = [[label, f"{seconds:.2f}", f"{seconds / base:.2f}"] for label, seconds in report.times[arm].items()]
    head = ["", "seconds per epoch, median; as busy as the machine was", f"times {report.reference}"]
    if known := report.printed_times:
        head += ["seconds per epoch, published (mean ± SD)", "published in"]
        rows = [[*row, *known.get(row[0], ("", "nowhere"))] for row in rows]
    return TextTable(head, rows)


def _under(arm: str, block: str | TextTable) -> list[str | TextTable]:
    return [f"{arm}:", block] if arm and isinstance(block, TextTable) else [block]


def _csv(arms: Sequence[Arm], sections: Sequence[TableSection]) -> str:
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


def _numbers(table: ComparisonTable, line: ResultLine, measured: MeasuredContender) -> list[dict[str, Any]]:
    """Return everything that is known of a row, one mapping per metric."""
    result, row = [], measured.of(table).get(line.label)
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
            result.append({"row": line.label, "metric": metric, **numbers})
    return result


@dataclass(frozen=True)
class ResultLine:
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
    interval: ConfidenceInterval | None = None

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
        where = self.source([metric]).partition(";")[0]  # the report has all of it
        return own | self.compared(metric, reference) | {"published in": where}


FilledTables = Sequence[tuple[ComparisonTable, Sequence[ResultLine]]]


@dataclass(frozen=True)
class Arm:
    """All tables over one set of cases and one way to train.

    Attributes:
        name: "" where there is one arm only, else such as "99:1" or "40x, by image".
        store: of the study in which everything was trained.
        trained: the trainings of each contender's best configuration, one per seed.
        measured: what they and their ensembles reach.
        tables: with their rows.
        reference: with which the rows are compared.
    """

    name: str
    store: StudyFolder
    trained: TrainingsByContender
    measured: MeasuredContender
    tables: FilledTables
    reference: str

    def title(self, table: ComparisonTable) -> str:
        """Name one of its tables."""
        return f"{self.name}: {table.title}" if self.name else table.title


def lines(table: ComparisonTable, measured: MeasuredContender, published: Mapping[str, Published]) -> list[ResultLine]:
    """Return the rows of a table of which something is known; p-values are corrected over them (Holm)."""
    rows = measured.of(table)
    known = {label: rows.get(label) for label in table.rows if label in rows or label in published}
    differences = {label: row.differences.get(table.tested) for label, row in known.items() if row is not None}
    tested = {label: difference.p for label, difference in differences.items() if difference is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [
        ResultLine(
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


def verdict(table: ComparisonTable, rows: Sequence[ResultLine], reference: str) -> str:
    """Say in a sentence which rows differ from the reference after correction."""
    sides: dict[str, list[str]] = {"better": [], "worse": []}
    for line in rows:
        if line.difference is not None and line.corrected is not None and line.corrected < LEVEL:
            sides["better" if line.difference.value * direction(table.tested) > 0 else "worse"].append(line.label)
    where = f"{reference} in {in_words(table.tested)} (p corrected < {LEVEL})"
    if not any(sides.values()):
        return f"No row differs significantly from {where}."
    return " ".join(
        f"Significantly {side} than {where}: {'; '.join(labels)}." for side, labels in sides.items() if labels
    )


def shown_p(value: float | None) -> str:
    """Write a p-value, "" for none."""
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"
