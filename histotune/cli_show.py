"""Results on the terminal: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from histotune.files import without_nan

if TYPE_CHECKING:
    import pandas as pd

    from histotune.cohort import Cohort
    from histotune.space import Space
    from histotune.store import TrialRecord
    from histotune.study import Study

SHOWN_METRICS = ("balanced_accuracy", "auroc", "sensitivity", "specificity")
ROWS = 25


def as_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print mappings with the same keys as a table; floats with four digits, NaN as a dash."""
    console = Console()
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)


def as_json(value: Any) -> None:
    """Print `value` as JSON on standard output, NaN as null."""
    typer.echo(json.dumps(without_nan(value), indent=2, default=str))


def study(found: Study, *, json_wanted: bool) -> None:
    """Print a study's leaderboard, what it means, and the next command to type."""
    board = found.leaderboard()
    if json_wanted:
        as_json({"study": found.name, "folder": str(found.store.folder), "leaderboard": board.to_dict("records")})
        return
    settings = found.settings
    title = f"{found.name}: validation part, ranked by {settings.metric}, split {settings.protocol}"
    if settings.leaky:
        title += " (leaky reproduction: patients stand on both sides)"
    if settings.facts.get("synthetic"):
        title += " (synthetic images)"
    as_table(_board_rows(board, settings.metric), title)
    if len(board) > ROWS:
        typer.echo(f"{len(board) - ROWS} more lines: histotune leaderboard {found.name} --json")
    typer.echo(found.verdict())
    typer.echo(f"Next: histotune ensemble {found.name} --top 5 --strategy average --export exports/{found.name}")


def trial(record: TrialRecord, *, json_wanted: bool) -> None:
    """Print one training's result."""
    if json_wanted:
        as_json({"folder": str(record.folder), "state": record.state, "metrics": dict(record.metrics)})
        return
    typer.echo(f"{record.state} after {record.epochs} epochs, best epoch {record.best_epoch}, {record.seconds:.0f} s")
    if record.reason:
        typer.echo(f"{record.kind}: {record.reason}")
    as_table([{"metric": name, "validation": value} for name, value in record.metrics.items()])
    typer.echo(f"Folder: {record.folder}")


def cohort(prepared: Cohort, *, json_wanted: bool) -> None:
    """Print what a cohort holds and what was wrong with its files."""
    facts = {
        "cases": len(prepared),
        "patients": prepared.table["patient"].nunique(),
        "classes": ", ".join(prepared.classes),
        **prepared.facts,
        "digest": prepared.digest,
        "folder": str(prepared.folder),
    }
    if json_wanted:
        as_json({"dataset": prepared.name, **facts})
        return
    as_table([{"what": key, "value": _plain(value)} for key, value in facts.items()], f"cohort {prepared.name}")


def catalogue(kind: str, entries: Sequence[Mapping[str, Any]], *, verbose: bool, json_wanted: bool) -> None:
    """Print the registered names of a kind, with their parameters if asked."""
    if json_wanted:
        as_json(entries)
        return
    rows = [{"name": entry["name"], "what": entry["summary"]} for entry in entries]
    if verbose:
        for row, entry in zip(rows, entries, strict=True):
            row["parameters"] = ", ".join(f"{name}={value!r}" for name, value in entry["parameters"].items()) or "-"
    as_table(rows, kind)


def space(loaded: Space, *, json_wanted: bool) -> None:
    """Print a search space's paths."""
    rows = [row._asdict() for row in loaded.describe()]
    if json_wanted:
        as_json({"space": loaded.to_dict(), "paths": rows})
        return
    as_table(rows, f"{loaded.name}: {loaded.description}")


def _board_rows(board: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    metrics = list(dict.fromkeys([metric, *SHOWN_METRICS]))
    columns = ["rank", "kind", "name", "state", *[m for m in metrics if m in board], "epochs", "seconds"]
    shown = board[[column for column in columns if column in board]].head(ROWS)
    return [dict(row) for row in shown.to_dict("records")]  # type: ignore[arg-type]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    return _cell(value)
