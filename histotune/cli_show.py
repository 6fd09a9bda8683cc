"""Results on the terminal: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from histotune.files import without_nan, write_text

if TYPE_CHECKING:
    import pandas as pd

    from histotune.cohort import Cohort
    from histotune.evaluate import Evaluation
    from histotune.merge import Merged
    from histotune.search import Summary
    from histotune.space import Space
    from histotune.store import StudyStore, TrialRecord

SHOWN_METRICS = ("balanced_accuracy", "auroc", "sensitivity", "specificity")
ROWS = 25


def as_table(rows: Sequence[Mapping[str, Any]], title: str = "", *, whole_cells: bool = False) -> None:
    """Print mappings with the same keys as a table; floats with four digits, NaN as a dash.

    Args:
        rows: one mapping per line.
        title: printed above, in bold.
        whole_cells: on a terminal that is too narrow, leave out the last columns instead of folding cells.
    """
    cells = [{name: _cell(value) for name, value in row.items()} for row in rows]
    names = list(cells[0]) if cells else []
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) + 1 for name in names}
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, sum(widths.values()))
    while whole_cells and len(names) > 2 and sum(widths[name] for name in names) > console.width:
        names.pop()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in names:
        numeric = all(row[name] is None or isinstance(row[name], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(row[name] for name in names))
    if title:
        console.print(title, style="bold", highlight=False, soft_wrap=True)
    console.print(table)


def as_json(value: Any) -> None:
    """Print `value` as JSON on standard output, NaN as null."""
    typer.echo(json.dumps(without_nan(value), indent=2, default=str))


def study(store: StudyStore, summary: Summary | None = None, *, json_wanted: bool) -> None:
    """Print a study's leaderboard, what it means, and the next command to type."""
    from histotune.leaderboard import leaderboard, lines, verdict

    settings, entries = store.settings(), lines(store)
    board = leaderboard(store, entries)
    if json_wanted:
        as_json({"study": settings.name, "folder": str(store.folder), "leaderboard": board.to_dict("records")})
        return
    title = f"{settings.name}: validation part, ranked by {settings.metric}, split {settings.protocol}"
    if settings.leaky:
        title += " (leaky reproduction: patients stand on both sides)"
    if settings.facts.get("synthetic"):
        title += " (synthetic images)"
    as_table(_board_rows(board, settings.metric), title, whole_cells=True)
    if len(board) > ROWS:
        typer.echo(f"{len(board) - ROWS} more lines: histotune leaderboard {settings.name} --json")
    for note in summary.notes if summary else ():
        typer.echo(f"Note: {note}")
    typer.echo(str(verdict(store, entries)))
    typer.echo(f"Next: histotune ensemble {settings.name} --top 5 --strategy average --export exports/{settings.name}")


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


def merged(found: Merged, export: Path | None, *, json_wanted: bool) -> None:
    """Print an ensemble beside its best member and the uniform mean."""
    if json_wanted:
        as_json({"name": found.name, "members": found.members, "metrics": dict(found.metrics), "export": export})
        return
    shown = [m for m in SHOWN_METRICS if m in found.metrics]
    rows = [
        {"what": who.replace("_", " "), **{m: str(figures[m]) for m in shown}}
        for who, figures in found.intervals.items()
    ]
    members = ", ".join(map(str, found.members))
    as_table(rows, f"{found.name}: trials {members}; validation part, 95 % intervals by patient")
    for other, gain in found.gains.items():
        typer.echo(f"ensemble minus {other.replace('_', ' ')}: {gain}")
    typer.echo("Members, temperatures and threshold were chosen on these very cases: the sealed test part decides.")
    if export is not None:
        typer.echo(f"Wrote {export}. Next: histotune evaluate {export}")


def evaluation(found: Evaluation, *, json_wanted: bool) -> None:
    """Print what an export reaches where nothing was chosen."""
    if json_wanted:
        as_json(found.to_dict())
        return
    name = f"{found.export} on the {found.part} of {found.dataset}"
    title = f"{name}: {found.cases} images of {found.patients} patients, split {found.protocol}"
    if found.leaky:
        title += " (leaky reproduction: patients stand on both sides)"
    if found.synthetic:
        title += " (synthetic images)"
    rows = [{"metric": metric, "at .5": str(value)} for metric, value in found.metrics.items()]
    if found.threshold is not None:
        for row in rows:
            row[f"at {found.threshold:.2f} (from validation)"] = str(found.at_threshold[row["metric"]])
    as_table(rows, title)
    shown = [m for m in SHOWN_METRICS if m in found.metrics]
    beside = [{"beside": who, **{m: str(v[m]) for m in shown}} for who, v in found.beside.items()]
    as_table(beside, "The same cases")
    for other, gain in found.gains.items():
        typer.echo(f"{found.metric}, minus {other}: {gain}")
    if found.note and not found.openings_before:  # of a second opening a warning has told already
        typer.echo(found.note)


def predictions(table: pd.DataFrame, output: Path) -> None:
    """Write predictions and say what became of the images."""
    write_text(output, table.to_csv(index=False))
    counts = ", ".join(f"{name}: {count}" for name, count in table["label"].value_counts().items())
    typer.echo(f"Wrote {len(table)} predictions to {output} ({counts})")


def _board_rows(board: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    metrics = list(dict.fromkeys([metric, *SHOWN_METRICS]))
    figures = [m for m in metrics if m in board]
    columns = ["rank", "kind", "name", "state", *figures, "loss", "backbone", "epochs", "seconds"]
    shown = board[columns].head(ROWS).astype({"rank": object, "seconds": int})
    return [dict(row) for row in shown.to_dict("records")]  # type: ignore[arg-type]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    return _cell(value)
