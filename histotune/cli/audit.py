"""The command that looks for leaks before anything trains: `histotune audit`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from histotune.cli import options as given
from histotune.core.provenance import shell_command

if TYPE_CHECKING:
    from histotune.studies.audit import AuditReport

EXAMPLES = (
    "audit idc --data idc_patches",
    "audit idc --data idc_patches --split patch_random_70_30 --strict",
    "audit my-study",
)


def audit(
    what: Annotated[str, typer.Argument(help="A study, a search space (name or YAML file), or a dataset.")],
    data: given.DataOption = None,
    split: given.SplitOption = None,
    folds: given.FoldsOption = None,
    repeats: given.RepeatsOption = None,
    seed: given.SeedOption = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the images in pixels.", min=8, show_default="that of the search space, else 32"),
    ] = None,
    option: given.DatasetOption = None,
    include_receptor_status: given.ReceptorOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 2 if there is a leak.")] = False,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    quiet: given.QuietOption = False,
    json_wanted: given.JsonOption = False,
) -> None:
    """Check data and split for leaks and for shortcuts that give the label away; every search does this first."""
    from histotune.api import audit as run
    from histotune.cli import progress as cli_progress

    with cli_progress.display(quiet=quiet or json_wanted) as display:
        report = run(
            what,
            data=data,
            protocol=split,
            folds=folds,
            repeats=repeats,
            seed=seed,
            image_size=image_size,
            options=given.dataset_options(option, include_receptor_status=include_receptor_status),
            runs=runs,
            cache=cache,
            progress=display.progress,
            command=shell_command(),
        )
    _show(report, json_wanted=json_wanted)
    if strict and report.leaks:
        raise typer.Exit(2)


def _show(report: AuditReport, *, json_wanted: bool) -> None:
    """Print the checks, leaks first: what was found, how many, three examples, and what to do."""
    from histotune.cli import tables as cli_show

    if json_wanted:
        cli_show.as_json(asdict(report))
        return
    rows = [
        {
            "check": result.name,
            "found": result.severity,
            "count": f"{result.count:,} of {result.of:,}",
            "what": result.sentence,
        }
        for result in report.checks
    ]
    cli_show.as_table(rows)
    for result in report.checks:
        if result.severity == "ok" or not (result.examples or result.advice):
            continue
        typer.echo(f"\n{result.name}:")
        for example in result.examples:
            typer.echo(f"  {example}")
        if result.advice:
            typer.echo(f"  What to do: {result.advice}")
    typer.echo(f"\n{report}, {report.seconds:.1f} s")
