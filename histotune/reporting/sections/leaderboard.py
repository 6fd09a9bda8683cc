"""Every trial, ensemble and baseline, sortable and filterable, with its parameters and its learning curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from histotune.metrics import scores as metrics
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings
from histotune.studies.leaderboard import TRIAL, LeaderboardLine, shown_kind

CURVES = 100  # best trials whose learning curve is on the page
PARAMETERS = 24  # of a configuration that differ between trials, at most
_ALWAYS = ("rank", "kind", "name", "state", "loss", "backbone", "seconds", "latency_ms", "parameters", "note")
_HIDDEN = ("number", "digest", "protocol", "front")
_LABELS = {"latency_ms": "latency, ms", "seconds": "time, s", "best_epoch": "best epoch", "front": "Pareto front"}
_DIGITS = {"seconds": 1, "latency_ms": 2}


@SECTIONS.register("leaderboard")
class Leaderboard(Section):
    """Every trial, ensemble and baseline, best first."""

    title = "Leaderboard"
    order = 20

    def build(self, findings: Findings) -> Content:
        """Return the table's frame, and the rows for the page's script."""
        settings = findings.settings
        if findings.board.empty:
            return Content(html.paragraph("Nothing has ended yet."))
        caption = (
            f"Ranked by validation {metrics.in_words(settings.metric)}, which is optimistic for the first ranks. A "
            "stopped trial had fewer epochs and has no rank. Click a name for its parameters and learning curve."
        )
        tied = {one["number"] for one in findings.confirmed.get("contenders", []) if one.get("tied")}
        if len(tied) < 2:
            tied = set()  # nothing is tied with the best
        else:
            caption += " Tied: not significantly different from the best in the confirmation."
        return Content(html.piece("board", caption, settings.name), {"board": _board(findings, tied)})


def _board(findings: Findings, tied: set[int | None]) -> dict[str, Any]:
    board, entries = findings.board, {(line.kind, line.name): line for line in findings.source.entries}
    ordered = [entries[kind, name] for kind, name in zip(board["kind"], board["name"], strict=True)]
    columns = [name for name in board.columns if name not in _HIDDEN]
    shown = board[columns].assign(kind=board["kind"].map(shown_kind))
    names, values = _parameters(ordered)
    return {
        "metric": findings.settings.metric,
        "columns": [_column(name, board, findings.settings.metrics) for name in columns],
        "rows": [[_plain(value) for value in row] for row in shown.itertuples(index=False)],
        "tied": [at for at, line in enumerate(ordered) if line.kind == TRIAL and line.record.number in tied],
        "parameters": names,
        "values": values,
        "curves": {str(at): _curve(line, findings.settings.metric) for at, line in enumerate(ordered[:CURVES])},
    }


def _column(name: str, board: pd.DataFrame, searched: Sequence[str]) -> dict[str, Any]:
    numeric = pd.api.types.is_numeric_dtype(board[name])
    shown = name in _ALWAYS or name in searched or name.endswith("_sd")
    better = metrics.direction(name) if name in metrics.METRICS else 0
    digits = _DIGITS.get(name, 3)
    whole = bool(numeric and pd.api.types.is_integer_dtype(board[name]))
    label = _LABELS.get(name, metrics.in_words(name))
    return {
        "name": name,
        "label": label,
        "numeric": bool(numeric),
        "shown": shown,
        "better": better,
        "digits": digits,
        "whole": whole,
    }


def _plain(value: Any) -> Any:
    """Write a value in few bytes: five digits, nothing for what is unknown."""
    if value is pd.NA or value is None:
        return None
    if isinstance(value, str):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.5g}")


def _parameters(lines: Sequence[LeaderboardLine]) -> tuple[list[str], list[list[Any] | None]]:
    """Return the paths of configurations that differ between trials, and their values by line."""
    flat = [_flat(line.record.known_config or {}) for line in lines]
    seen: dict[str, set[str]] = {}
    for one in flat:
        for path, value in one.items():
            seen.setdefault(path, set()).add(str(value))
    paths = [path for path in seen if len(seen[path]) > 1 or any(path not in one for one in flat if one)]
    paths = [path for path in paths if path != "seed"][:PARAMETERS]
    return paths, [[_value(one.get(path)) for path in paths] if one else None for one in flat]


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in config.items():
        result |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return result


def _value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    return _plain(value) if isinstance(value, (int, float)) else str(value)


def _curve(line: LeaderboardLine, metric: str) -> list[Any]:
    return [_plain(row.get(metric)) for row in line.record.curve()]
