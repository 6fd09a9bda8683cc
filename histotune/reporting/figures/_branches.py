"""Which trial of several branches a figure shows, and what its training measured of them; panels over one axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histotune.errors import StudyError, suggest
from histotune.metrics.scores import INFORMATION
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import Source
from histotune.studies.leaderboard import SINGLE, TRIAL, Line

BEST = "best"


def measured(source: Source, of: str, key: str) -> tuple[Line, list[dict[str, Any]]]:
    """Find a trial whose branches were measured: the best one, or one by its number or name.

    Args:
        of: `best`, a trial's number, or a single training's name.
        key: what must have been measured, as `probe.measure` names it.

    Returns:
        The trial, and for every epoch that was measured its number as `epoch` and what `probe.measure` returned.

    Raises:
        StudyError: there is no such trial, or nothing to show of it.
    """
    study = source.settings.name
    lines = source.models() if of == BEST else [line for line in source.entries if line.record.metrics]
    trained = [line for line in lines if line.kind in (TRIAL, SINGLE)]
    if of == BEST and not trained:
        raise StudyError(f"study {study!r} has no complete trial yet: search on, or train one")
    asked = [line for line in trained if of in (BEST, line.name)]
    if not asked:
        raise StudyError(
            f"study {study!r} has no trial {of!r} with a result. {suggest(of, [BEST, *(t.name for t in trained)])}"
        )
    for line in asked:
        if len(line.record.config()["model"]["branches"]) > 1:  # else its curve need not be read
            rows = [{"epoch": row["epoch"], **row[INFORMATION]} for row in line.record.curve() if INFORMATION in row]
            if rows and rows[-1].get(key):
                return line, rows
    none = f"study {study!r} has no complete trial" if of == BEST else f"trial {of} of study {study!r} is none"
    what = "looks from one branch at another (fusion cross_attention or cmaf)" if key == "heads" else "joins branches"
    raise StudyError(
        f"{none} whose model {what} and was measured in training: search the space idc_cmaf, or give yours a second "
        "branch under model.branches"
    )


def by_name(rows: list[dict[str, Any]], key: str) -> dict[str, list[float]]:
    """Return {name: a number for every epoch} of what was measured under `key`; null is NaN."""
    return {name: [_number(row[key][name]) for row in rows] for name in rows[-1][key]}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def over_epochs(epochs: int, **further: Any) -> dict[str, Any]:
    """Describe an axis of whole epochs from 1."""
    return _style.axis("epoch", range=[0.5, epochs + 0.5], dtick=max(1, -(-epochs // 10)), tick0=0, **further)


def kept(epoch: int, axes: Mapping[str, str]) -> dict[str, Any]:
    """Mark in a panel the epoch whose weights are kept; `axes` are its `xref` and its `yref`, a domain."""
    line = {"color": _style.FAINT, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": epoch, "x1": epoch, "y0": 0, "y1": 1, **axes, "line": line}


def panel_title(text: str, axes: Mapping[str, str]) -> dict[str, Any]:
    """Write over a panel what it shows; `axes` are its `xref` and `yref`, domains."""
    return {"text": text, **axes, "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "align": "left",
            "showarrow": False, "font": {"size": 11.5}}  # fmt: skip
