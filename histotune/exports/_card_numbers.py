"""The numbers on a model card: validation, the sealed test part, external cohorts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from histotune.storage.seal import EXTERNAL, SEALED

SHOWN = ("balanced_accuracy", "auroc", "accuracy", "sensitivity", "specificity", "macro_f1", "mcc")
CALIBRATION = ("ece", "brier", "nll")
_CALLED = ("sensitivity", "specificity")


def validation(info: Mapping[str, Any]) -> list[str]:
    """Say what was reached where the model was chosen, how well it is calibrated there, and the threshold."""
    found, intervals = info["validation"], info.get("validation_intervals", {})
    lines = [
        "## Validation metrics",
        "",
        "Members and their temperatures were chosen on these very cases, so these numbers are optimistic; "
        "`histotune evaluate` measures on the study's sealed test part. Intervals: 95 %, over resampled patients.",
        "",
        "| metric | validation |",
        "|---|---|",
    ]
    told = {name: intervals.get(name, found[name]) for name in (*SHOWN, *CALIBRATION) if name in found}
    lines += [f"| {name} | {number(value)} |" for name, value in told.items()]
    temperatures = ", ".join(f"{member['temperature']:.3g}" for member in info["members"])
    lines += ["", f"Calibration: logits are divided by a temperature fitted on these cases ({temperatures})."]
    if info["threshold"] is not None:
        positive = info["classes"][info["positive"]]
        lines += [f"`label_at_threshold` is `{positive}` from a probability of {info['threshold']:.4f} on."]
    if point := info.get("operating_point"):
        asked = "" if point["asked"] is None else f" {point['asked']:g}"
        reached = ", ".join(f"{name} {number(point[name])}" for name in _CALLED)
        lines += ["", f"It was chosen by {point['rule']}{asked} and reaches {reached} ({point['fitted_on']})."]
    return [*lines, ""]


def sealed(info: Mapping[str, Any]) -> list[str]:
    """Say what every opening of the sealed test part found, and how often it was opened for anything."""
    found = _evaluations(info, SEALED)
    lines = ["## Sealed test part", ""]
    if not found:
        lines.append("Not measured. `histotune evaluate` opens it, once, on the record.")
    else:
        headers = [f"opening {one['openings_before'] + 1}, {one['time'][:10]}" for one in found]
        lines += _table(found, headers)
        lines += _at_threshold(found)
    if info.get("seal"):
        lines += ["", info["seal"]]
    return [*lines, ""]


def elsewhere(info: Mapping[str, Any]) -> list[str]:
    """Say what was reached on each external cohort, apart from the study's own cases, and how far off it lies."""
    found = _evaluations(info, EXTERNAL)
    if not found:
        return []
    lines = ["## External cohorts", "", "Nothing was fitted to them, not even the threshold.", ""]
    lines += _table(found, [f"{one['dataset']}, {one['time'][:10]}" for one in found])
    lines += _at_threshold(found)
    for one in found:
        lines += ["", *(f"- {one['dataset']}: {name} {_shift(shift)}" for name, shift in one.get("shift", {}).items())]
        lines += [one["note"]] if one.get("note") else []
    return [*lines, ""]


def number(value: Any) -> str:
    """Write a number, or one with its interval; what is not known is a dash."""
    if isinstance(value, Mapping):
        return f"{number(value['value'])} [{number(value['low'])}, {number(value['high'])}]"
    return "-" if value is None or value != value else f"{value:.4f}"


def _evaluations(info: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    return [one for one in info.get("evaluations", []) if one["part"] == part]


def _table(found: Iterable[Mapping[str, Any]], headers: Iterable[str]) -> list[str]:
    columns = list(found)
    names = [name for name in (*SHOWN, *CALIBRATION) if any(name in one["metrics"] for one in columns)]
    lines = ["| metric | " + " | ".join(headers) + " |", "|---" * (len(columns) + 1) + "|"]
    lines.append(
        "| cases (patients) | " + " | ".join(f"{one['cases']:,} ({one['patients']:,})" for one in columns) + " |"
    )
    for name in names:
        lines.append(f"| {name} | " + " | ".join(number(one["metrics"].get(name)) for one in columns) + " |")
    return lines


def _at_threshold(found: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in found:
        at = one.get("at_threshold") or {}
        if told := [f"{name} {number(at[name])}" for name in _CALLED if name in at]:
            lines += ["", f"At the threshold {one['threshold']:.4f}, {one['time'][:10]}: {', '.join(told)}."]
    return lines


def _shift(shift: Mapping[str, Any]) -> str:
    if shift["value"] is None:
        return f"is not known, for there are too few patients; {shift['unit']}"
    value, own, high = (number(shift[key]) for key in ("value", "own", "own_high"))
    verdict = " - **shifted**" if shift["shifted"] else ""
    return f"{value} (its own patients: {own}, 95 % below {high}){verdict}; {shift['unit']}"
