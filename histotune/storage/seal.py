"""The note on openings of the sealed test set, shown wherever scores of the study are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histotune.metrics.scores import in_words
from histotune.storage.study_folder import StudyFolder

SEALED, EXTERNAL = "sealed test part", "external cohort"  # what an evaluation is of, as its file says it
_IN_WORDS = {SEALED: "sealed test set"}


def as_shown(name: str) -> str:
    """Return the words for what the file of an evaluation names: its cases, or whom a model is compared with.

    Files keep the names of 0.1.0, such as `control NAME` for a baseline.
    """
    return _IN_WORDS.get(name, name.replace("control ", "baseline ", 1) if name.startswith("control ") else name)


def seal_sentence(store: StudyFolder) -> str:
    """Return how often the sealed test set was opened, for what, and what that means; "" while it is sealed."""
    result = store.openings()
    if not result:
        return ""
    if len(result) == 1:
        return f"The sealed test set was opened once, on {_day(result[0])}, {_found(result[0], store)}."
    subjects = len({opening["subject"] for opening in result})
    without = sum(opening["figures"] is None and "shows" not in opening for opening in result)
    ended = f" {without} of these openings ended without a result." if without else ""
    return (
        f"The sealed test set was opened {len(result)} times, first on {_day(result[0])}, last on "
        f"{_day(result[-1])}, for {subjects} model{'s' if subjects > 1 else ''}.{ended} Only the first opening is a "
        "clean test: choosing among models by later ones makes their scores optimistic."
    )


def opening_lines(store: StudyFolder) -> list[str]:
    """Return the record as text, one line for each opening, first to last."""
    return [f"{opening['time']}, {_found(opening, store)}: `{opening['command']}`" for opening in store.openings()]


def _day(opening: Mapping[str, Any]) -> str:
    return str(opening["time"])[:10]


def _found(opening: Mapping[str, Any], store: StudyFolder) -> str:
    """Return for which model, and the result: the metric of the study, or that none is recorded."""
    if shows := opening.get("shows"):
        return f"to show {shows} beside predictions of model {opening['subject']}"
    figures = opening["figures"]
    if figures is None:
        return f"for model {opening['subject']}, and ended without a result"
    metric = store.settings.metric
    if len(figures) > 1:
        return f"for {len(figures)} models of a comparison ({opening['subject']})"
    name, result = next(iter(figures.items()))
    return f"for {name} ({opening['subject']}), {in_words(metric)} {_value(result.get(metric))}"


def _value(value: Any) -> str:
    """Write a number, or one with its interval; a bound that is not known is a dash."""
    if not isinstance(value, Mapping):
        return _number(value)
    return f"{_number(value['value'])} [{_number(value['low'])}, {_number(value['high'])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
