"""Confusion matrix of the best model, and how well it ranks cases."""

from __future__ import annotations

from typing import ClassVar

from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings


@SECTIONS.register("predictions")
class PredictionsSection(Section):
    """Confusion matrices, ROC and precision-recall curves."""

    title = "Confusion matrix, ROC and precision-recall"
    order = 60
    figures: ClassVar = (
        SectionRequest("confusion_matrix"),
        SectionRequest("confusion_matrix", {"of": "evaluation"}),
        SectionRequest("roc_curve"),
        SectionRequest("precision_recall_curve"),
    )

    def build(self, findings: Findings) -> Content:
        """Return which model and cases the figures show."""
        text = "The best model of the leaderboard on the validation set. It was selected on these cases: optimistic."
        if findings.evaluations:
            text += " The second confusion matrix is that of the latest evaluation."
        return Content(html.paragraph(text))
