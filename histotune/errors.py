"""Errors that a person can act on; the command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HistotuneError(Exception):
    """Base of every error whose message says what is wrong, where, the value, and what to do."""


class ConfigError(HistotuneError):
    """A name, parameter, option or YAML file does not make sense."""


class DataError(HistotuneError):
    """Files, labels or patients do not allow what was asked."""


class StudyError(HistotuneError):
    """A study is missing, locked, or does not match what it began with."""


class StudyInUse(StudyError):
    """Another process holds the study."""


class TrialFailed(HistotuneError):
    """A trial ended without a result; `kind` is a word that can be counted.

    Args:
        kind: one of `nan_loss`, `out_of_memory`, `infeasible`, `bad_data`, `error`, `killed`, `hung`, `disk_full`.
        reason: one sentence for a person.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Say which known name is nearest to `wrong` and list all of them.

    >>> suggest("focl", ["focal", "cross_entropy"])
    "Did you mean 'focal'? Known: cross_entropy, focal."
    >>> suggest("xyz", ["focal"])
    'Known: focal.'
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."
