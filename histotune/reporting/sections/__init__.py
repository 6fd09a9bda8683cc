"""Sections of the report page: one file each; a new file is a new section."""

from histotune.reporting.sections._base import SECTIONS, Content, Section, Wanted
from histotune.reporting.sections._findings import Findings

__all__ = ["SECTIONS", "Content", "Findings", "Section", "Wanted"]
