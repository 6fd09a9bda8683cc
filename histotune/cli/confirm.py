"""The command that gives a search its honest number: `histotune confirm`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histotune.cli import options as given

if TYPE_CHECKING:
    from histotune.evaluation.confirmation import Confirmation, ConfirmationRow

EXAMPLES = ("confirm idc --top 5 --seeds 5", "confirm idc --top 3 --seeds 3 --outer 5 --max-concurrent 4")


def confirm(
    study: given.StudyArgument,
    top: Annotated[int, typer.Option(help="How many of the best distinct configurations, beside the default.")] = 5,
    seeds: Annotated[int, typer.Option(help="Fresh seeds, at least 2: other folds, other initial weights.")] = 5,
    outer: Annotated[
        int | None,
        typer.Option(
            help="Outer folds of training and validation part.", show_default="the study's folds, at most 5, else 3"
        ),
    ] = None,
    data: given.DataOption = None,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    cpus_per_trial: given.CpusOption = 1.0,
    gpus_per_trial: given.GpusOption = None,
    max_concurrent: given.ConcurrentOption = None,
    ray_address: given.RayOption = None,
    quiet: given.QuietOption = False,
    json_wanted: given.JsonOption = False,
) -> None:
    """Train the best of a search and its default again, on fresh seeds and folds: what is the winner really worth?"""
    from histotune.cli import progress as cli_progress
    from histotune.study import open_study
    from histotune.tuning.events import Resources

    command = " ".join(["histotune", *sys.argv[1:]])
    with cli_progress.display(quiet=quiet or json_wanted, live=False) as display:
        result = open_study(study, runs=runs).confirm(
            top=top,
            seeds=seeds,
            outer=outer,
            data=data,
            cache=cache,
            ray_address=ray_address,
            say=display.say,
            resources=Resources(cpus_per_trial, gpus_per_trial, max_concurrent),
            command=command,
        )
    show(result, json_wanted=json_wanted)


def show(result: Confirmation, *, json_wanted: bool) -> None:
    """Print what was confirmed: the honest number first, then the table, then who is tied."""
    from histotune.cli import tables as cli_show

    if json_wanted:
        cli_show.as_json(result.to_dict())
        return
    typer.echo(result.sentence)
    title = (
        f"{result.study}: {result.metric} over {result.seeds} seeds x {result.outer} outer folds of {result.patients} "
        "patients, 95 % intervals by patient and seed"
    )
    cli_show.as_table([_line(row, result) for row in result.contenders], title)
    best = next(row for row in result.contenders if row.name == result.best)
    if len(result.contenders) > 1:
        typer.echo(
            f"Best after confirming: {best.name}, {best.confirmed.value:.3f}. It is the highest of "
            f"{len(result.contenders)}, so that a little of this number is still luck."
        )
    advice = f"Recommended, as the cheapest: {result.recommended} ({result.cost})."
    if not result.recommended:
        advice = "None is recommended: not even the best is better than chance."
    typer.echo(f"{_tied(result)} {advice}")
    for note in result.notes:
        typer.echo(f"Note: {note}")


def _line(row: ConfirmationRow, result: Confirmation) -> dict[str, Any]:
    best = row.name == result.best
    return {
        "configuration": row.name,
        "search": row.search_score,
        "confirmed": str(row.confirmed),
        "optimism gap": str(row.optimism_gap),
        "minus the best": None if best or row.failed else row.against_best["value"],
        "p (Holm)": None if best or row.failed else row.against_best["p_corrected"],
        "tied": "best" if best else "yes" if row.tied else "no",
        "latency_ms": row.latency_ms,
        "parameters": row.parameters,
    }


def _tied(result: Confirmation) -> str:
    if len(result.contenders) == 1:
        return "Nothing else was trained again, so nothing can be tied with it."
    others = [name for name in result.tied if name != result.best]
    if not others:
        return f"No other is as good as {result.best} within noise."
    return f"Not worse than it beyond noise (paired by patient and seed, Holm): {', '.join(others)}."
