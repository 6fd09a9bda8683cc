"""Which classes the best model takes for which, and how well it ranks cases."""

from __future__ import annotations

from typing import ClassVar

from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings


@SECTIONS.register("predictions")
class PredictionsSection(Section):
    """Confusion matrices, ROC and precision-recall curves."""

    title = "What is taken for what"
    order = 60
    figures: ClassVar = (
        SectionRequest("confusion_matrix"),
        SectionRequest("confusion_matrix", {"of": "evaluation"}),
        SectionRequest("roc_curve"),
        SectionRequest("precision_recall_curve"),
    )

    def build(self, findings: Findings) -> Content:
        """Say of which model and part the figures are."""
        text = "Of the model that stands first in the leaderboard, on the cases it was chosen on, so at its best."
        if findings.evaluations:
            text += " The matrix of the latest evaluation stands beside it."
        return Content(html.paragraph(text))
