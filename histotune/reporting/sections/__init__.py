"""Sections of the report page: one file each; a new file is a new section."""

from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings

__all__ = ["SECTIONS", "Content", "Findings", "Section", "SectionRequest"]
