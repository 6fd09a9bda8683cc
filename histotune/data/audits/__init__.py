"""Checks of a leak audit: one file each; a new file is a new check."""

from histotune.data.audits._base import AUDITS, LEAK, NOTE, OK, SEVERITIES, WARNING, Finding, Subject, worst_first

__all__ = ["AUDITS", "LEAK", "NOTE", "OK", "SEVERITIES", "WARNING", "Finding", "Subject", "worst_first"]
