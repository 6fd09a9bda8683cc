"""Where the best model errs: by site and by patient."""

from __future__ import annotations

from typing import ClassVar

from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings


@SECTIONS.register("errors")
class Errors(Section):
    """Where the best model errs: by site and by patient."""

    title = "Errors by site and patient"
    order = 90
    figures: ClassVar = (SectionRequest("errors_by_group"),)

    def build(self, findings: Findings) -> Content:
        """Say how much is known of sites and patients."""
        facts = findings.settings.facts
        sites = int(facts.get("sites", 0) or 0)
        text = f"{html.counted(sites, 'site')} known." if sites else "Sites are not known of this cohort."
        if not facts.get("patients_known", True):
            text += " Patients are not known either: every image counts as one."
        return Content(html.paragraph(text))
