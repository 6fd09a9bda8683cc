"""What an export reaches on the sealed test set, evaluation by evaluation, and on external cohorts, apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from histotune.core.format import counted, minute, number, ordinal, p_value
from histotune.metrics.scores import in_words
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings
from histotune.storage.seal import SEALED, as_shown, opening_lines, seal_sentence

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
    """Results on cases that nothing was selected on: the sealed test set, and external cohorts."""

    title = "Evaluation"
    order = 40

    def build(self, findings: Findings) -> Content:
        """Show every evaluation on the sealed test set and on external cohorts."""
        sealed = [one for one in findings.evaluations if one["part"] == SEALED]
        outside = [one for one in findings.evaluations if one["part"] != SEALED]
        pieces = [html.heading("Sealed test set"), _openings(findings)]
        pieces += [piece for one in sealed for piece in _measured(one, _title(one))]
        pieces.append(html.heading("External cohorts"))
        if not outside:
            pieces.append(
                html.paragraph("No external cohort was evaluated: `histotune evaluate EXPORT --on DATASET` does this.")
            )
        else:
            text = "Nothing was fitted to these cohorts, not even the threshold. Report them apart from the test set."
            pieces.append(html.paragraph(text))
        pieces += [piece for one in outside for piece in [*_measured(one, str(one["dataset"])), _shift(one)]]
        return Content(html.joined(pieces))


def _openings(findings: Findings) -> Markup:
    """List when the sealed test set was evaluated, and by which command."""
    if not findings.source.part("test")[0]:
        return html.paragraph("This study has no sealed test set: its scores are out-of-fold.")
    cases, patients = findings.source.part("test")
    text = f"{counted(cases, 'case')} of {counted(patients, 'patient')}."
    if not findings.openings:
        return html.paragraph(f"{text} Not evaluated yet: `histotune evaluate EXPORT` does this, and records it.")
    lines = html.bullets(map(html.words, opening_lines(findings.store)))
    return html.joined([html.paragraph(f"{text} {seal_sentence(findings.store)}"), lines])


def _title(one: Mapping[str, Any]) -> str:
    before = int(one.get("openings_before", 0))
    doubt = " (optimistic if an earlier one helped to select this export)" if before else ""
    return f"{one['export']}, {ordinal(before + 1)} evaluation{doubt}"


def _measured(one: Mapping[str, Any], title: str) -> list[Markup]:
    """Show the metrics of one evaluation beside the baselines, and the differences from them."""
    beside: Mapping[str, Any] = one.get("beside", {})
    columns = {
        "this export": one["metrics"],
        **({"at its threshold": one["at_threshold"]} if one.get("at_threshold") else {}),
    }
    columns |= {as_shown(name): result for name, result in beside.items() if name != "uniform mean" or len(beside) < 5}
    names = [name for name in SHOWN if name in one["metrics"]]
    rows = [[in_words(name), *(html.span(result.get(name)) for result in columns.values())] for name in names]
    part = f"{counted(one['cases'], 'case')} of {counted(one['patients'], 'patient')}"
    text = (
        f"{one['dataset']}, {one['part'].replace('test part', 'test set')}: {part}. Measured {minute(one['time'])} UTC"
    )
    text += f" by `{one.get('command') or 'Python'}`."
    if one.get("threshold") is not None:
        text += f" Threshold, chosen on the validation set: {number(one['threshold'])}."
    pieces = [Markup("<h4>{}</h4>").format(title), html.paragraph(text)]
    pieces += [html.paragraph(one["note"], kind="warning")] if one.get("note") else []
    pieces.append(html.table("Metrics with 95 % intervals over patients.", ["metric", *columns], rows))
    gains = [
        [as_shown(name), html.span(gain, signed=True), p_value(gain.get("p"))]
        for name, gain in one.get("gains", {}).items()
    ]
    if gains:
        caption = f"Difference of this export from others in {in_words(one['metric'])}, paired by patient."
        pieces.append(html.table(caption, ["compared with", "difference", "p"], gains))
    return pieces


def _shift(one: Mapping[str, Any]) -> Markup:
    """Show how far an external cohort is from the study's own data."""
    result: Mapping[str, Mapping[str, Any]] = one.get("shift") or {}
    if not result:
        return html.paragraph("The shift of these data from the study's own (colour, embeddings) was not measured.")
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
    head = ["shift in", "distance", "between own patients", "95th percentile of those", "unit"]
    return html.table("How far these data are from the study's own.", head, rows)
