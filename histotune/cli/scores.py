"""Scores as the terminal shows them: of a trial, of a leaderboard's lines, with their spread where there are folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from histotune.storage.study_folder import StudySettings, TrialRecord

SHOWN_METRICS = ("balanced_accuracy", "auroc", "sensitivity", "specificity")
ROWS = 25


def scored(settings: StudySettings) -> str:
    """Say on what trials are scored."""
    if not settings.folds:
        return "validation part"
    often = f", dealt {settings.repeats} times" if settings.repeats > 1 else ""
    return f"mean over {settings.folds} folds{often} ± standard deviation"


def record_rows(record: TrialRecord) -> list[dict[str, Any]]:
    """Return one training's metrics as they are shown."""
    if not record.spread:
        return [{"metric": name, "validation": value} for name, value in record.metrics.items()]
    return [
        {"metric": name, "mean over folds": with_spread(value, record.spread[name]), "out of fold": pooled}
        for name, value in record.metrics.items()
        for pooled in [record.out_of_fold.get(name)]
    ]


def board_rows(board: pd.DataFrame, asked: Sequence[str]) -> list[dict[str, Any]]:
    """Return a leaderboard's first lines as they are shown; `asked` are the metrics of the study."""
    metrics = list(dict.fromkeys([*asked, *SHOWN_METRICS]))
    figures = [m for m in metrics if m in board]
    marked = ["front"] if "front" in board else []
    columns = ["rank", *marked, "kind", "name", "state", *figures, "loss", "backbone", "epochs", "seconds"]
    shown = board[columns].head(ROWS).astype({"rank": object, "seconds": int})
    if (spread := f"{asked[0]}_sd") in board:
        shown[asked[0]] = [with_spread(*pair) for pair in zip(shown[asked[0]], board[spread], strict=False)]
    if marked:
        shown["front"] = shown["front"].map({True: "*", False: ""})
    return [dict(row) for row in shown.to_dict("records")]  # type: ignore[arg-type]


def with_spread(value: float, spread: float) -> str:
    """Write a mean with the standard deviation over what it is a mean of; a dash where there is none.

    >>> with_spread(0.81234, 0.03)
    '0.8123 ± 0.0300'
    """
    return " ± ".join(map(cell, (value, spread))) if value == value else cell(value)


def cell(value: Any) -> str:
    """Write a value for a table: floats with four digits, what is not known as a dash."""
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
