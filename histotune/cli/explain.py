"""The command that shows what predictions rest on: `histotune explain`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from histotune.cli import options as given

EXAMPLES = (
    "explain exports/idc new_patches",
    "explain exports/idc idc_patches/8863 --slide --png",
    "explain exports/idc slide.csv --slide --most 0",
)


def explain(
    exported: given.ExportArgument,
    images: Annotated[Path, typer.Argument(help="An image, a folder of images, or a CSV with a column 'path'.")],
    slide: Annotated[
        bool,
        typer.Option("--slide", help="Lay them out as one slide; places from the names (_xX_yY_) or CSV columns x, y."),
    ] = False,
    most: Annotated[int, typer.Option(help="Images explained one by one, evenly spread over all.", min=0)] = 24,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Class to ask for.", show_default="the predicted one; for the slide the positive"),
    ] = None,
    branch: Annotated[
        list[str] | None, typer.Option("--branch", help="Branch that gets a Grad-CAM; the convolutional ones.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="reports/explain-EXPORT")] = None,
    png: Annotated[bool, typer.Option("--png", help="Also as images; a slide's need kaleido and Chrome.")] = False,
    open_seal: Annotated[
        bool, typer.Option("--open-seal", help="Show true classes of the sealed test part, on the study's record.")
    ] = False,
    strict: given.StrictOption = False,
) -> None:
    """Draw what predictions rest on: Grad-CAM, attention of the fusion, and a slide's heat map beside the truth."""
    from histotune.explanation.images import explain as run
    from histotune.exports.model import load
    from histotune.reporting.explanation_page import write

    command = " ".join(["histotune", *sys.argv[1:]])
    explained = run(
        load(exported),
        images,
        slide=slide,
        most=most,
        asked=class_,
        branches=branch or [],
        strict=strict,
        seal=command if open_seal else None,
    )
    written = write(explained, out or Path("reports") / f"explain-{exported.absolute().name}", images=png)
    for note in explained.notes:
        typer.echo(note)
    for path in written:
        typer.echo(f"Wrote {path}")
