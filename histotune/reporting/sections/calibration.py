"""How well predicted probabilities are calibrated, and the net benefit of decisions based on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from markupsafe import Markup

from histotune.core.format import interval, number
from histotune.metrics.scores import in_words
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings

_SCORES = ("ece", "brier", "nll")


@SECTIONS.register("calibration")
class Calibration(Section):
    """How well predicted probabilities are calibrated, and the decision thresholds."""

    title = "Calibration and thresholds"
    order = 70
    figures: ClassVar = (SectionRequest("reliability"), SectionRequest("decision_curve"))

    def build(self, findings: Findings) -> Content:
        """Show the calibration of the best models and of the ensembles."""
        if not findings.models:
            return Content(html.paragraph("No trial is complete yet, so there is nothing to calibrate."))
        rows = [[line.title, *(line.record.metrics.get(name) for name in _SCORES)] for line in findings.models[:5]]
        caption = "Calibration of the best models on the validation set; lower is better."
        pieces = [html.table(caption, ["model", *map(in_words, _SCORES)], rows)]
        for name, result in findings.ensembles.items():
            pieces += _fitted(name, result)
        return Content(html.joined(pieces))


def _fitted(name: str, result: Mapping[str, Any]) -> list[Markup]:
    """Show the threshold and calibration that were fitted to held-out predictions of an ensemble."""
    point, scores = result.get("operating_point") or {}, result.get("calibration") or {}
    text = {"threshold for the positive class": result.get("threshold")}
    if point:
        asked = point.get("asked")
        rule = in_words(str(point.get("rule", ""))) + (f" {number(asked)}" if isinstance(asked, float) else "")
        text = {
            "threshold chosen by": rule,
            "threshold": point.get("threshold"),
            "sensitivity": interval(point.get("sensitivity")),
            "specificity": interval(point.get("specificity")),
            "fitted on": str(point.get("fitted_on") or "").replace("validation part", "validation set"),
        }
    for key, value in scores.items():
        if isinstance(value, (int, float, str)):
            text[in_words(key)] = value
        elif isinstance(value, Mapping):
            parts = (f"{inner} {number(v) if isinstance(v, (int, float)) else v}" for inner, v in value.items())
            text[in_words(key)] = ", ".join(parts)
    return [html.heading(f"Ensemble {name}"), html.facts(text)]
