"""Errors of the best model by site and by patient."""

from __future__ import annotations

from typing import ClassVar

from histotune.core.format import counted
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings


@SECTIONS.register("errors")
class Errors(Section):
    """Errors of the best model by site and by patient."""

    title = "Errors by site and patient"
    order = 90
    figures: ClassVar = (SectionRequest("errors_by_group"),)

    def build(self, findings: Findings) -> Content:
        """Return whether sites and patients are known."""
        facts = findings.settings.facts
        sites = int(facts.get("sites", 0) or 0)
        text = f"The cohort has {counted(sites, 'site')}." if sites else "The sites of this cohort are unknown."
        if not facts.get("patients_known", True):
            text += " Patients are unknown, so every image counts as its own patient."
        return Content(html.paragraph(text))
