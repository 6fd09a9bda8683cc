"""The command that measures a paper's comparison again: `histotune reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histotune.cli import options as given
from histotune.core.provenance import shell_command

if TYPE_CHECKING:
    from histotune.reproductions.run import Reproduced

EXAMPLES = (
    "reproduce cfal --on idc --data idc_patches",
    "reproduce cfal --on idc --protocol official_patient --budget full --seeds 5",
    "reproduce cmaf --on breakhis --data idc_patches --external-data BreaKHis_v1",
    "reproduce subtyping --on pam50 --data tcga_brca",
    "list reproductions -v",
)


def reproduce(
    name: Annotated[str, typer.Argument(help="See `histotune list reproductions`.")],
    on: Annotated[
        str,
        typer.Option(
            help="Data and network of the paper: for cfal idc, crc, crc_cct, ..., for subtyping pam50, ihc, or demo."
        ),
    ],
    protocol: Annotated[
        str | None, typer.Option("--protocol", "--split", help="Split protocol; the dataset's own if left out.")
    ] = None,
    budget: Annotated[str, typer.Option(help="small or full: epochs, trials, seeds and training cases.")] = "small",
    seeds: Annotated[int | None, typer.Option(help="Trainings of each best configuration.", min=1)] = None,
    data: given.DataOption = None,
    external_data: Annotated[
        Path | None, typer.Option(help="Data folder of the external dataset, where a setting measures on one.")
    ] = None,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("reports"),
    tracking_uri: given.TrackingOption = None,
    quiet: given.QuietOption = False,
    json_wanted: given.JsonOption = False,
) -> None:
    """Search a paper's contenders alike, train the best of each with every seed, and write its tables again."""
    from histotune.cli import progress as cli_progress
    from histotune.reproductions.run import reproduce as run

    command = shell_command()
    with cli_progress.display(quiet=quiet or json_wanted, live=False) as display:
        result = run(
            name,
            on=on,
            protocol=protocol,
            budget=budget,
            seeds=seeds,
            data=data,
            external_data=external_data,
            runs=runs,
            cache=cache,
            out=out,
            tracking_uri=tracking_uri,
            command=command,
            progress=display.progress,
            said=display.say,
        )
    _show(result, json_wanted=json_wanted)


def _show(result: Reproduced, *, json_wanted: bool) -> None:
    """Print what a reproduction tested, and where all of its numbers are."""
    from histotune.cli import tables as cli_show
    from histotune.reproductions.report import verdict

    if json_wanted:
        typer.echo(result.files[2].read_text(encoding="utf-8"), nl=False)
        return
    for arm in result.arms:
        for table, lines in arm.tables:
            rows = [line.summary(table.tested, arm.reference) for line in lines]
            columns = [name for name in rows[0] if any(row[name] for row in rows)]  # nothing may be published of it
            cli_show.as_table([{name: row[name] for name in columns} for row in rows], arm.title(table))
            typer.echo(verdict(table, lines, arm.reference))
    typer.echo(f"Wrote {', '.join(map(str, result.files))}")
