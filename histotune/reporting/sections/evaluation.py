"""What an export reaches on the sealed test part, opening by opening, and on external cohorts, apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from histotune.metrics.scores import in_words
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings
from histotune.storage.seal import SEALED, opening_lines, seal_sentence

SHOWN = (
    "balanced_accuracy",
    "auroc",
    "average_precision",
    "accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "macro_f1",
    "mcc",
    "ece",
    "brier",
    "nll",
)


@SECTIONS.register("evaluation")
class EvaluationSection(Section):
    """What was measured where nothing was chosen: the sealed test part, and external cohorts."""

    title = "Evaluation"
    order = 40

    def build(self, findings: Findings) -> Content:
        """Show every opening of the seal and every external cohort."""
        sealed = [one for one in findings.evaluations if one["part"] == SEALED]
        outside = [one for one in findings.evaluations if one["part"] != SEALED]
        pieces = [html.heading("Sealed test part"), _openings(findings)]
        pieces += [piece for one in sealed for piece in _measured(one, _title(one))]
        pieces.append(html.heading("External cohorts"))
        if not outside:
            pieces.append(html.paragraph("None on record: `histotune evaluate EXPORT --on DATASET` measures on one."))
        else:
            text = "Nothing was fitted to these, not even the threshold; do not mix them with the sealed test part."
            pieces.append(html.paragraph(text))
        pieces += [piece for one in outside for piece in [*_measured(one, str(one["dataset"])), _shift(one)]]
        return Content(html.joined(pieces))


def _openings(findings: Findings) -> Markup:
    """Say who opened the seal when."""
    if not findings.source.part("test")[0]:
        return html.paragraph("This study has no sealed test part: its numbers are out of folds.")
    cases, patients = findings.source.part("test")
    text = f"{html.counted(cases, 'case')} of {html.counted(patients, 'patient')}."
    if not findings.openings:
        return html.paragraph(f"{text} Never opened: `histotune evaluate EXPORT` opens it, on the record.")
    lines = html.bullets(map(html.words, opening_lines(findings.store)))
    return html.joined([html.paragraph(f"{text} {seal_sentence(findings.store)}"), lines])


def _title(one: Mapping[str, Any]) -> str:
    before = int(one.get("openings_before", 0))
    return f"{one['export']}, {_nth(before + 1)} opening" + (
        " (optimistic if chosen by an earlier one)" if before else ""
    )


def _nth(number: int) -> str:
    names = {1: "first", 2: "second", 3: "third"}
    return names.get(number, f"{number}th")


def _measured(one: Mapping[str, Any], title: str) -> list[Markup]:
    """Show the metrics of one evaluation beside the controls, and what it gains on them."""
    beside: Mapping[str, Any] = one.get("beside", {})
    columns = {
        "this export": one["metrics"],
        **({"at its threshold": one["at_threshold"]} if one.get("at_threshold") else {}),
    }
    columns |= {name: result for name, result in beside.items() if name != "uniform mean" or len(beside) < 5}
    names = [name for name in SHOWN if name in one["metrics"]]
    rows = [[in_words(name), *(html.span(result.get(name)) for result in columns.values())] for name in names]
    part = f"{html.counted(one['cases'], 'case')} of {html.counted(one['patients'], 'patient')}"
    text = f"{one['dataset']}, {one['part']}: {part}. Measured {html.time(one['time'])} UTC"
    text += f" by `{one.get('command') or 'Python'}`."
    if one.get("threshold") is not None:
        text += f" Threshold, chosen on validation: {html.number(one['threshold'])}."
    pieces = [Markup("<h4>{}</h4>").format(title), html.paragraph(text)]
    pieces += [html.paragraph(one["note"], kind="warning")] if one.get("note") else []
    pieces.append(html.table("Metrics with 95 % intervals over patients.", ["metric", *columns], rows))
    gains = [[name, html.span(gain, signed=True), gain.get("p")] for name, gain in one.get("gains", {}).items()]
    if gains:
        caption = f"This export minus others in {in_words(one['metric'])}, paired by patient."
        pieces.append(html.table(caption, ["against", "difference", "p"], gains))
    return pieces


def _shift(one: Mapping[str, Any]) -> Markup:
    """Say how far an external cohort is from the study's own data."""
    result: Mapping[str, Mapping[str, Any]] = one.get("shift") or {}
    if not result:
        return html.paragraph("How far these data are from the study's own (colour, embeddings) was not measured.")
    rows = [
        [
            Markup("{} {}").format(name.replace("_", " "), html.badge("shifted", "warn") if at.get("shifted") else ""),
            at.get("value"),
            at.get("own"),
            at.get("own_high"),
            at.get("unit"),
        ]
        for name, at in result.items()
    ]
    head = ["what", "distance", "among own patients", "95 % of those below", "unit"]
    return html.table("How far these data are from the study's own.", head, rows)
