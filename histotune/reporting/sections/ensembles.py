"""What ensembles consist of, and whether they are better than their best member."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from markupsafe import Markup

from histotune.core.format import counted, interval, number
from histotune.evaluation.next_steps import combining
from histotune.metrics.scores import in_words
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings

_WHO = {"ensemble": "ensemble", "best_member": "best member", "uniform_mean": "unweighted mean of the members"}


@SECTIONS.register("ensembles")
class Ensembles(Section):
    """What ensembles consist of, and what they gain."""

    title = "Ensembles"
    order = 80
    figures: ClassVar = (SectionRequest("ensemble_anatomy"),)

    def build(self, findings: Findings) -> Content:
        """Show every ensemble beside its best member and the unweighted mean."""
        if not findings.ensembles:
            text = "No ensemble was built."
            for command in combining(findings.store, export=False):
                text = f"No ensemble was built: `{command}` builds one."
            return Content(html.paragraph(text))
        metric = findings.settings.metric
        return Content(
            html.joined(piece for name, result in findings.ensembles.items() for piece in _one(name, result, metric))
        )


def _one(name: str, result: Mapping[str, Any], metric: str) -> list[Markup]:
    gain = (result.get("gains") or {}).get("best_member") or {}
    text = f"{result.get('strategy', 'An ensemble')} of {counted(len(result.get('members', [])), 'member')}."
    if gain.get("value") is not None:
        low, high = gain.get("low"), gain.get("high")
        within = low is None or high is None or low <= 0 <= high
        text += f" Its difference from its best member is {interval(gain, signed=True)} {in_words(metric)}" + (
            ", which is not significant, and the member alone costs less."
            if within
            else ", on the cases that it was selected on."
        )
    intervals = result.get("intervals") or {}
    rows = [[_WHO.get(who, who), html.span(spans.get(metric))] for who, spans in intervals.items()]
    pieces = [html.heading(name), html.paragraph(text)]
    if rows:
        caption = f"Validation {in_words(metric)} with 95 % intervals over patients."
        pieces.append(html.table(caption, ["model", in_words(metric)], rows))
    return [*pieces, _members(result), *_diversity(result)]


def _members(result: Mapping[str, Any]) -> Markup:
    """Show the members with the parameters that the strategy fitted to each."""
    members = list(result.get("members", []))
    columns: dict[str, list[Any]] = {"trial": [str(number) for number in members]}
    if any(studies := [Path(study).name for study in result.get("studies") or []]):
        columns["study"] = studies
    columns |= {"modality": list(result["modalities"])} if any(result.get("modalities") or []) else {}
    columns["temperature"] = list(result.get("temperatures", []))
    for name, value in (result.get("state") or {}).items():
        if isinstance(value, list) and len(value) == len(members):
            columns[name.replace("_", " ")] = [_weight(one) for one in value]
    whole = {name: values for name, values in columns.items() if len(values) == len(members)}
    rows = zip(*whole.values(), strict=True)
    how = f", {result['selection']}" if result.get("selection") else ""
    return html.table(f"Members, best first{how}.", list(whole), rows)


def _weight(value: Any) -> Any:
    return ", ".join(number(one) for one in value) if isinstance(value, list) else value


def _diversity(result: Mapping[str, Any]) -> list[Markup]:
    pairs = result.get("diversity") or {}
    plain = {
        str(name).replace("_", " "): value for name, value in pairs.items() if isinstance(value, (int, float, str))
    }
    return [html.paragraph("Diversity of the members:"), html.facts(plain)] if plain else []
