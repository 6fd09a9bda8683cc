"""The report: page, figures, sections, templates."""
