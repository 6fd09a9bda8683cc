"""Write a reproduction: Markdown for people, CSV and JSON of all numbers for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core import files
from histotune.core.config import unparse
from histotune.metrics.bootstrap import holm
from histotune.metrics.intervals import ConfidenceInterval, Difference
from histotune.metrics.scores import direction, in_words
from histotune.reproductions.papers import ComparisonTable, Published
from histotune.reproductions.rows import MeasuredContender, TrainingsByContender
from histotune.reproductions.train import LineUp, ReproductionRequest, choose, describe
from histotune.storage.study_folder import COMPLETE, StudyFolder, StudySettings
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
    sections: Sequence[TableSection] = ()
    how: Sequence[str] = HOW


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


def markdown(report: ReproductionReport, arms: Sequence[Arm]) -> str:
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


def _table(table: ComparisonTable, rows: Sequence[ResultLine], measured: MeasuredContender, reference: str) -> str:
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
    return _grid([f"on {device}", *head[1:]], rows)


def _chosen(report: ReproductionReport, arm: str) -> str:
    head = ["", "complete trials", "published, the first trial", "best here", f"validation {in_words(report.metric)}"]
    rows = [[*map(str, cells), f"{value:.3f}"] for *cells, value in report.chosen[arm]]
    return _under(arm, _grid(head, rows)) if rows else "Nothing: each contender has one configuration, its first."


def _times(report: ReproductionReport, arm: str) -> str:
    base = report.times[arm][report.reference]
    rows = [[label, f"{seconds:.2f}", f"{seconds / base:.2f}"] for label, seconds in report.times[arm].items()]
    head = ["", "seconds per epoch, median; as busy as the machine was", f"times {report.reference}"]
    return _under(arm, _grid(head, rows))


def _under(arm: str, text: str) -> str:
    return f"{arm}:\n\n{text}" if arm else text


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


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


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
        return own | self.compared(metric, reference)


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
        reference: with which the rows are compared; "" for the reproduction's.
    """

    name: str
    store: StudyFolder
    trained: TrainingsByContender
    measured: MeasuredContender
    tables: FilledTables
    reference: str = ""

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


def report_of(asked: ReproductionRequest, arms: Sequence[Arm]) -> ReproductionReport:
    """Say what was asked and done, for the arms that came of it."""
    facts: dict[str, Any] = {
        "reproduction": asked.name,
        "on": asked.on,
        "protocol": asked.protocol,
        "budget": asked.spent,
    }
    facts |= {"seeds": asked.scale.seeds}
    studies = {arm.store.folder: arm for arm in arms}.values()  # one of each study
    named = {arm.name if len(studies) > 1 else "": arm for arm in studies}
    return ReproductionReport(
        name=f"{asked.name}-{asked.on}-{asked.protocol}",
        title=f"{asked.name} on {asked.on}, split `{asked.protocol}`, budget `{asked.spent}`",
        head=_head(asked, facts, arms),
        scaled=_scaled(asked, arms),
        chosen={name: _chosen_values(asked.line_up, arm.store) for name, arm in named.items()},
        metric=asked.line_up.metric,
        reference=asked.reproduction.reference,
        times={
            name: {label: float(np.median([r.seconds / r.epochs for r in rows])) for label, rows in arm.trained.items()}
            for name, arm in named.items()
        },
        notes=asked.setting.notes,
        facts={
            **facts,
            "scale": asdict(asked.scale),
            "studies": {name: _plain(arm.store.settings) for name, arm in named.items()},
        },
    )


def _head(asked: ReproductionRequest, facts: Mapping[str, Any], arms: Sequence[Arm]) -> list[str]:
    name, *options = facts.items()
    command = " ".join([f"histotune reproduce {name[1]}", *(f"--{option} {value}" for option, value in options)])
    head = [f"{asked.reproduction.title}, measured again by `{command}`."]
    measured, settings = arms[0].measured, arms[0].store.settings
    parts = arms[0].store.split
    val = parts[parts["part"] == "val"]
    chosen = (
        f"Parameters and epochs were chosen by {in_words(settings.metric)} on the validation part, {len(val):,} images "
        f"of {val['patient'].nunique():,} patients."
    )
    if asked.setting.external:
        head.append(
            f"Measured on `{asked.setting.external}`, {_counted(arms[-1].measured)}, of which nothing was trained on "
            f"or fitted to: no label, threshold, statistic or stain. {chosen}"
        )
    else:
        head.append(f"Test part: {_counted(measured)}, opened when all trainings had ended. {chosen}")
    for arm in arms if not asked.setting.external else ():
        if before := arm.measured.openings_before:
            times = f"{before} time{'s' if before > 1 else ''}"
            head.append(
                f"The seal of study `{arm.store.folder.name}` had been opened {times} before: see "
                "`sealed/openings.jsonl` in its folder."
            )
    if not settings.facts.get("patients_known", True):
        head.append("**Patients are not known here**: each image counts as its own, so intervals and p are too small.")
    elif settings.leaky:
        head.append("**Leaky reproduction**: patients stand on both sides of the split, so no number here is honest.")
    if settings.facts.get("synthetic"):
        head.append("**The images are made up.**")
    return head


def _counted(measured: MeasuredContender) -> str:
    return f"{measured.cases['test']:,} images of {measured.patients['test']} patients"


def _scaled(asked: ReproductionRequest, arms: Sequence[Arm]) -> list[tuple[str, str, str]]:
    setting, scale, table = asked.setting, asked.scale, arms[0].store.split

    def part(store: StudyFolder, name: str) -> str:
        rows = store.split
        rows = rows[rows["part"] == name]
        return f"{len(rows):,} images of {rows['patient'].nunique()} patients"

    counts = {name: f"{(table['part'] == name).sum():,}" for name in ("train", "val", "test")}
    stores = {arm.store.folder: arm.store for arm in arms}.values()
    trained = [part(store, "train") + _in_brackets(store.settings.training) for store in stores]
    searched = f"{scale.trials}, with seed 0" if asked.line_up.searches else "none: each at its first configuration"
    here = {
        "split": "{}: training {train}, validation {val}, test {test} images".format(asked.protocol, **counts),
        "training part": "; ".join(trained),
        "test part": _counted(arms[-1].measured) if setting.external else part(arms[0].store, "test"),
        "epochs": f"{scale.epochs}, in the search and after it",
        "trials per contender": searched,
        "seeds": f"{scale.seeds} (1 to {scale.seeds}), trained after the search",
        "end of training": "all epochs for everyone; the best epoch by validation counts",
        "time of an epoch": "see Time",
    }
    return [(what, here.get(what, ""), setting.paper.get(what, "")) for what in {**here, **setting.paper}]


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _chosen_values(line_up: LineUp, store: StudyFolder) -> list[tuple[str, str, str, str, float]]:
    if not line_up.searches:
        return []
    ended, rows = {record.digest: record for record in store.trials()}, []
    for label, best in choose(line_up, store).items():
        configs = line_up.searched[label]
        complete = sum(ended[config.digest()].state == COMPLETE for config in configs)
        value = ended[best.digest()].metrics[line_up.metric]
        rows.append((label, f"{complete} of {len(configs)}", describe(configs[0]), describe(best), value))
    return rows


def _plain(settings: StudySettings) -> dict[str, Any]:
    """Return what a reader of the JSON needs of a study; not where the data lie."""
    kept = ("name", "dataset", "digests", "classes", "protocol", "leaky", "seed", "metric", "imbalance", "version")
    return {key: getattr(settings, key) for key in kept}
