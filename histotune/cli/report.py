"""The command that shows a study as one page: `histotune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histotune.cli import options as given
from histotune.core.provenance import shell_command

EXAMPLES = ("report idc", "report idc --with-images --pdf", "report idc -o idc-for-review.html --watts 250")


def report(
    study: given.StudyArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write.", show_default="reports/STUDY.html")
    ] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Include images of the cases with the most confident errors.")
    ] = False,
    watts: Annotated[
        float | None,
        typer.Option(
            help="Power draw of a trial in watts, for the estimate of energy.", min=0.0, show_default="a guess"
        ),
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write a PDF; needs Chrome or Chromium.")] = False,
    data: given.DataOption = None,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    json_wanted: given.JsonOption = False,
) -> None:
    """Write the report of a study: one HTML page that opens offline, the least biased result first."""
    from histotune.cli import tables as cli_show
    from histotune.core.runtime import Places
    from histotune.reporting.page import write_pdf, write_report
    from histotune.storage.study_folder import StudyFolder

    places = Places.of(runs, cache)
    command = shell_command()
    written = write_report(
        StudyFolder.named(study, places.runs),
        out,
        places=places,
        data=data,
        images=with_images,
        watts=watts,
        command=command,
    )
    paths = [written.path, *([write_pdf(written.path)] if pdf else [])]
    if json_wanted:
        result = {"files": [str(path) for path in paths], "summary": written.first, "missing": dict(written.missing)}
        cli_show.as_json(result)
        return
    typer.echo(written.first)
    for path in paths:
        typer.echo(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
