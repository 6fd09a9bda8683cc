"""Results on the terminal: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from histotune.core.files import without_nan, write_text
from histotune.core.format import cell, megabytes, with_spread

if TYPE_CHECKING:
    import pandas as pd

    from histotune.data.cohort import Cohort
    from histotune.space import Space
    from histotune.storage.records import TrialRecord
    from histotune.storage.study_folder import StudyFolder, StudySettings
    from histotune.studies.disk import Tidied
    from histotune.studies.leaderboard import LeaderboardLine
    from histotune.tuning.events import SearchSummary

SHOWN_METRICS = ("balanced_accuracy", "auroc", "sensitivity", "specificity")
ROWS = 25


def as_table(rows: Sequence[Mapping[str, Any]], title: str = "", *, whole_cells: bool = False) -> None:
    """Print mappings with the same keys as a table; floats with four digits, NaN as a dash.

    Args:
        rows: one mapping per line.
        title: printed above, in bold.
        whole_cells: on a terminal that is too narrow, leave out the last columns instead of folding cells.
    """
    cells = [{name: cell(value) for name, value in row.items()} for row in rows]
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


def study(store: StudyFolder, summary: SearchSummary | None = None, *, json_wanted: bool) -> None:
    """Print a study's leaderboard, the comparisons with baseline and default, and the next command."""
    from histotune.evaluation.next_steps import after_search
    from histotune.storage.seal import seal_sentence
    from histotune.studies.leaderboard import gain, leaderboard, lines, verdict

    settings, entries = store.settings, lines(store)
    board = leaderboard(store, entries)
    if json_wanted:
        text = {"study": settings.name, "folder": str(store.folder), "openings": store.openings()}
        as_json(text | {"leaderboard": board.to_dict("records")})
        return
    title = f"{settings.name}: {scored(settings)}, ranked by {settings.metric}, split {settings.protocol}"
    if settings.others:
        title += f"; * on the Pareto front with {', '.join(settings.others)}"
    if settings.leaky:
        title += " (leaky reproduction: patients are on both sides)"
    if settings.facts.get("synthetic"):
        title += " (synthetic data)"
    as_table(board_rows(board, settings.metrics), title, whole_cells=True)
    if settings.training:
        typer.echo(_thinned(settings.training))
    if len(board) > ROWS:
        typer.echo(f"{len(board) - ROWS} more lines: histotune leaderboard {settings.name} --json")
    for line in _option_lines(store, entries):
        typer.echo(line)
    noted = zip(board["name"], board["note"], strict=True)
    if descent := [f"{name} ({note})" for name, note in noted if note.startswith("continues trial")]:
        typer.echo(f"Descendants: {', '.join(descent[:ROWS])}")
    for note in summary.notes if summary else ():
        typer.echo(f"Note: {note}")
    typer.echo(str(verdict(store, entries)))
    typer.echo(str(gain(store, entries)))
    if opened := seal_sentence(store):
        typer.echo(opened)
    for line in after_search(store):
        typer.echo(line)


def trial(record: TrialRecord, *, json_wanted: bool) -> None:
    """Print one training's result."""
    from histotune.storage.study_folder import StudyFolder

    training = StudyFolder(record.folder.parents[1]).settings.training
    if json_wanted:
        text = {"folder": str(record.folder), "state": record.state, "training": training}
        as_json(text | {"metrics": dict(record.metrics)})
        return
    typer.echo(f"{record.state} after {record.epochs} epochs, best epoch {record.best_epoch}, {record.seconds:.0f} s")
    if record.reason:
        typer.echo(f"{record.kind}: {record.reason}")
    as_table(record_rows(record))
    if training:
        typer.echo(_thinned(training))
    typer.echo(f"Folder: {record.folder}")


def tidied(result: Tidied, *, removed: bool, json_wanted: bool) -> None:
    """Print what can be freed, or was freed, by kind."""
    if json_wanted:
        rows = [{"path": str(one.path), "bytes": one.size, "why": one.why} for one in result.found]
        as_json({"found": rows, "freed": result.freed, "skipped": result.skipped})
        return
    sizes: dict[str, list[int]] = {}
    for one in result.found:
        sizes.setdefault(one.why, []).append(one.size)
    as_table([{"kind": why, "count": len(s), "size": megabytes(sum(s))} for why, s in sizes.items()])
    total = megabytes(sum(one.size for one in result.found))
    if result.skipped:
        typer.echo(f"Left out, because they are in use: {', '.join(result.skipped)}")
    if removed or not result.found:
        typer.echo(f"Freed {megabytes(result.freed)}" if removed else "Nothing to free")
    else:
        typer.echo(f"{total} can be freed: the same command with --yes does it")


def cohort(prepared: Cohort, *, json_wanted: bool) -> None:
    """Print the content of a cohort, and the problems with its files."""
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
    text = facts.pop("report", [])
    as_table([{"property": key, "value": _plain(value)} for key, value in facts.items()], f"cohort {prepared.name}")
    for line in text:
        typer.echo(line)


def catalogue(kind: str, entries: Sequence[Mapping[str, Any]], *, verbose: bool, json_wanted: bool) -> None:
    """Print the registered names of a kind; if asked, with their parameters, defaults, ranges and source."""
    if json_wanted:
        as_json(entries)
        return
    if not verbose:
        as_table([{"name": entry["name"], "description": entry["summary"]} for entry in entries], kind)
        return
    for entry in entries:
        typer.echo(f"{entry['name']}: {entry['summary']}")
        for line in _parameters(entry):
            typer.echo(f"    {line}")
        for about in ("source", "layout", "size", "licence", "split"):
            if entry.get(about):
                typer.echo(f"    {about.capitalize()}: {entry[about]}")


def space(loaded: Space, *, json_wanted: bool) -> None:
    """Print a search space's paths."""
    rows = [row._asdict() for row in loaded.describe()]
    if json_wanted:
        as_json({"space": loaded.to_dict(), "paths": rows})
        return
    as_table(rows, f"{loaded.name}: {loaded.description}")


def figure(numbers: Any, written: Sequence[Path], *, json_wanted: bool) -> None:
    """Print where a figure was written, or its numbers."""
    if json_wanted:
        as_json({"files": list(written), "numbers": _listed(asdict(numbers))})
        return
    for path in written:
        typer.echo(f"Wrote {path}")


def predictions(table: pd.DataFrame, output: Path) -> None:
    """Write predictions and count them by class."""
    write_text(output, table.to_csv(index=False))
    counts = ", ".join(f"{name}: {count}" for name, count in table["label"].value_counts().items())
    typer.echo(f"Wrote {len(table)} predictions to {output} ({counts})")


def _thinned(training: str) -> str:
    return f"Training set {training}; the validation and test sets keep their natural class frequencies."


def _option_lines(store: StudyFolder, entries: Sequence[LeaderboardLine]) -> list[str]:
    """Return how the trials are spread over the options of a conditional space, a line for each choice."""
    from histotune.studies.leaderboard import option_shares

    spread: dict[str, list[str]] = {}
    for share in option_shares(store, entries):
        spread.setdefault(share.path, []).append(f"{share.option} {share.trials} ({share.share:.0%})")
    return [f"Trials by {path}: {', '.join(options)}" for path, options in spread.items()]


def _parameters(entry: Mapping[str, Any]) -> list[str]:
    """Return one line per parameter: name, default, and allowed values where they are known."""
    rows = [(name, _word(value), entry["ranges"].get(name, "")) for name, value in entry["parameters"].items()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"{name:<{widths[0]}}  {default:<{widths[1]}}  {allowed}".rstrip() for name, default, allowed in rows]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


def _listed(value: Any) -> Any:
    """Turn arrays in nested mappings and sequences into lists."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    return cell(value)


def scored(settings: StudySettings) -> str:
    """Return what trials are scored on."""
    if not settings.folds:
        return "validation set"
    often = f", {settings.repeats} random splits" if settings.repeats > 1 else ""
    return f"mean over {settings.folds} folds{often} ± standard deviation"


def record_rows(record: TrialRecord) -> list[dict[str, Any]]:
    """Return one training's metrics as they are shown."""
    if not record.spread:
        return [{"metric": name, "validation": value} for name, value in record.metrics.items()]
    return [
        {"metric": name, "mean over folds": with_spread(value, record.spread[name], 4), "out of fold": pooled}
        for name, value in record.metrics.items()
        for pooled in [record.out_of_fold.get(name)]
    ]


def board_rows(board: pd.DataFrame, asked: Sequence[str]) -> list[dict[str, Any]]:
    """Return a leaderboard's first lines as they are shown; `asked` are the metrics of the study."""
    from histotune.studies.leaderboard import shown_kind

    metrics = list(dict.fromkeys([*asked, *SHOWN_METRICS]))
    figures = [m for m in metrics if m in board]
    marked = ["front"] if "front" in board else []
    columns = ["rank", *marked, "kind", "name", "state", *figures, "loss", "backbone", "epochs", "seconds"]
    shown = board[columns].head(ROWS).astype({"rank": object, "seconds": int})
    shown["kind"] = shown["kind"].map(shown_kind)
    if (spread := f"{asked[0]}_sd") in board:
        shown[asked[0]] = [with_spread(*pair, 4) for pair in zip(shown[asked[0]], board[spread], strict=False)]
    if marked:
        shown["front"] = shown["front"].map({True: "*", False: ""})
    return [dict(row) for row in shown.to_dict("records")]  # type: ignore[arg-type]
