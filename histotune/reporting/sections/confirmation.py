"""What the best trials reach when they are trained again with new seeds on other splits of the patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from histotune.core.format import minute, p_value
from histotune.evaluation.next_steps import confirming
from histotune.metrics.scores import in_words
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings


@SECTIONS.register("confirmation")
class ConfirmationSection(Section):
    """What the best trials reach when they are trained again."""

    title = "Confirmation"
    order = 30

    def build(self, findings: Findings) -> Content:
        """Show every contender's confirmed score beside its score in the search."""
        result = findings.confirmed
        pieces = []
        if result:
            pieces = [_overview(result), _contenders(result)]
        else:
            text = "The search has not been confirmed."
            if not findings.models:
                text += " It has no complete trial."
            for command in confirming(findings.store):
                text += (
                    f" `{command} --top 5 --seeds 5` trains the best configurations and the default configuration "
                    "again, estimates by how much the search's score was too optimistic, and reports which trials are "
                    "tied."
                )
            pieces = [html.paragraph(text)]
        return Content(html.joined([*pieces, *_nested(findings)]))


def _overview(result: Mapping[str, Any]) -> Markup:
    how = f"{result.get('seeds', 'several')} seeds on {result.get('outer', 'several')} outer folds of the patients"
    tied = [str(name) for name in result.get("tied", []) if name != result.get("best")]
    text = f"Every contender was trained again with {how}."
    if tied:
        text += f" Not significantly different from the best, {result.get('best')}: {', '.join(tied)}."
    if result.get("recommended"):
        text += f" Recommended, because it is the cheapest of these: {result['recommended']}."
    when = (
        f" Run {minute(result['time'])} UTC by `{result['command']}`."
        if result.get("command") and result.get("time")
        else ""
    )
    return html.paragraph(text + when)


def _contenders(result: Mapping[str, Any]) -> Markup:
    metric = in_words(str(result.get("metric", "score")))
    rows = []
    for one in result.get("contenders", []):
        best = one.get("name") == result.get("best")
        marks = [html.badge("best" if best else "tied", "good")] if best or one.get("tied") else []
        marks += [html.badge("recommended", "good")] if one.get("name") == result.get("recommended") else []
        against = one.get("against_best") or {}
        rows.append(
            [
                Markup(" ").join([Markup.escape(one.get("name", "")), *marks, *_failed(one)]),
                one.get("search_score"),
                html.span(one.get("confirmed")),
                html.span(one.get("optimism_gap"), signed=True),
                "the best" if best else html.span(against, signed=True),
                "-" if best else p_value(against.get("p_corrected")),
                one.get("latency_ms"),
                one.get("parameters"),
            ]
        )
    head = ["contender", f"{metric} in the search", "confirmed", "optimism gap", "difference from the best", "p (Holm)"]
    caption = f"Confirmed {metric} with 95 % intervals. Optimism gap: the score in the search minus the confirmed one."
    return html.table(caption, [*head, "latency, ms", "parameters"], rows)


def _failed(one: Mapping[str, Any]) -> list[str]:
    return [f"could not be trained again: {one['failed']}"] if one.get("failed") else []


def _nested(findings: Findings) -> list[Markup]:
    """Show the result of a nested cross-validation, fold by fold."""
    result = findings.nested
    if not result:
        return []
    rows = [
        [
            one.get("outer"),
            one.get("what"),
            one.get("inner"),
            one.get("score"),
            one.get("cases"),
            one.get("patients"),
            one.get("trials"),
        ]
        for one in result.get("folds", [])
    ]
    metric = in_words(str(result.get("metric", "score")))
    caption = f"For each outer fold, {metric} of the model that a search without this fold selected."
    head = ["outer fold", "selected model", "inner score", "score on the outer fold", "cases", "patients", "trials"]
    text = html.paragraph(str(result.get("sentence", "")))
    return [html.heading("Nested cross-validation"), text, html.table(caption, head, rows)]
