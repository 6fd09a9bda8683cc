"""The command that gives a search its honest number: `histotune confirm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from histotune.cli import options as given
from histotune.core.provenance import shell_command

if TYPE_CHECKING:
    from histotune.evaluation.confirmation import Confirmation, ConfirmationRow

EXAMPLES = ("confirm idc --top 5 --seeds 5", "confirm idc --top 3 --seeds 3 --outer 5 --max-concurrent 4")


def confirm(
    study: given.StudyArgument,
    top: Annotated[int, typer.Option(help="Number of best configurations to train again, beside the default one.")] = 5,
    seeds: Annotated[
        int, typer.Option(help="Number of new seeds, at least 2; each has new folds and new initial weights.")
    ] = 5,
    outer: Annotated[
        int | None,
        typer.Option(
            help="Number of outer folds of the training and validation cases.",
            show_default="folds of the study, at most 5, else 3",
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
    """Train the best configurations and the default again, with new seeds and folds, for an unbiased comparison."""
    from histotune.cli import progress as cli_progress
    from histotune.study import open_study
    from histotune.tuning.events import Resources

    command = shell_command()
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
    """Print the confirmed score first, then the table, then the configurations that are tied with the best."""
    from histotune.cli import tables as cli_show

    if json_wanted:
        cli_show.as_json(result.to_dict())
        return
    typer.echo(result.sentence)
    title = (
        f"{result.study}: {result.metric} over {result.seeds} seeds x {result.outer} outer folds of {result.patients} "
        "patients, 95 % intervals over patients and seeds"
    )
    cli_show.as_table([_line(row, result) for row in result.contenders], title)
    best = next(row for row in result.contenders if row.name == result.best)
    if len(result.contenders) > 1:
        typer.echo(
            f"Best after confirming: {best.name}, {best.confirmed.value:.3f}. As the highest of "
            f"{len(result.contenders)}, this score is still slightly optimistic."
        )
    advice = f"Recommended, as the cheapest of these: {result.recommended} ({result.cost})."
    if not result.recommended:
        advice = "None is recommended: not even the best is significantly better than chance."
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
        return "No other configuration was trained again, so there is none to compare it with."
    others = [name for name in result.tied if name != result.best]
    if not others:
        return f"All others are significantly worse than {result.best} (paired by patient and seed, Holm)."
    return f"Not significantly worse (paired by patient and seed, Holm): {', '.join(others)}."
