"""What the best trials reach when they are trained again on fresh seeds and other divisions of the patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

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
        """Show every contender beside what the search had shown of it."""
        result, name = findings.confirmed, findings.settings.name
        pieces = []
        if result:
            pieces = [_told(result), _contenders(result)]
        else:
            text = (
                f"The search was not confirmed. `histotune confirm {name} --top 5 --seeds 5` trains the best "
                "configurations and the default again, says how much the search's number was too good, and which "
                "trials are tied."
            )
            pieces = [html.paragraph(text)]
        return Content(html.joined([*pieces, *_nested(findings)]))


def _told(result: Mapping[str, Any]) -> Markup:
    how = f"{result.get('seeds', 'several')} seeds and {result.get('outer', 'several')} divisions of the patients"
    tied = [str(name) for name in result.get("tied", []) if name != result.get("best")]
    text = f"Every contender was trained again on {how}."
    if tied:
        text += f" Statistically tied with the best, {result.get('best')}: {', '.join(tied)}."
    if result.get("recommended"):
        text += f" Recommended, as the cheapest of them: {result['recommended']}."
    when = (
        f" Made {html.time(result['time'])} UTC by `{result['command']}`."
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
                None if best else against.get("p_corrected"),
                one.get("latency_ms"),
                one.get("parameters"),
            ]
        )
    head = ["contender", f"{metric} in the search", "confirmed", "optimism gap", "minus the best", "p (Holm)"]
    caption = f"{metric}, with 95 % intervals; the optimism gap is the search's score minus the confirmed one."
    return html.table(caption, [*head, "latency, ms", "parameters"], rows)


def _failed(one: Mapping[str, Any]) -> list[str]:
    return [f"could not be trained again: {one['failed']}"] if one.get("failed") else []


def _nested(findings: Findings) -> list[Markup]:
    """Show what a nested cross-validation found, fold by fold."""
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
    caption = f"{in_words(str(result.get('metric', 'score')))} of what the search chose without each outer fold."
    head = ["outer fold", "chosen", "inner score", "on the outer fold", "cases", "patients", "trials"]
    text = html.paragraph(str(result.get("sentence", "")))
    return [html.heading("Nested cross-validation"), text, html.table(caption, head, rows)]
