"""The command that shows what predictions rest on: `histotune explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histotune.cli import options as given
from histotune.core.provenance import shell_command

EXAMPLES = (
    "explain exports/idc new_patches",
    "explain exports/idc idc_patches/8863 --slide --png",
    "explain exports/idc slide.csv --slide --most 0",
)


def explain(
    exported: given.ExportArgument,
    images: Annotated[Path, typer.Argument(help="An image, a folder of images, or a CSV file with a column 'path'.")],
    slide: Annotated[
        bool,
        typer.Option(
            "--slide", help="Arrange the patches as one slide, by file names (_xX_yY_) or the CSV columns x, y."
        ),
    ] = False,
    most: Annotated[int, typer.Option(help="Number of images to explain, evenly spread over all.", min=0)] = 24,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class", help="Class to explain.", show_default="the predicted class; for a slide the positive class"
        ),
    ] = None,
    branch: Annotated[
        list[str] | None,
        typer.Option("--branch", help="Branch to compute Grad-CAM for; by default all convolutional ones."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="reports/explain-EXPORT")] = None,
    png: Annotated[
        bool, typer.Option("--png", help="Also write PNG images; those of a slide need kaleido and Chrome.")
    ] = False,
    open_seal: Annotated[
        bool, typer.Option("--open-seal", help="Show true classes of the sealed test set; the opening is recorded.")
    ] = False,
    strict: given.StrictOption = False,
) -> None:
    """Explain predictions: Grad-CAM, attention of the fusion, and a heat map of the slide beside the true classes."""
    from histotune.explanation.images import explain as run
    from histotune.exports.model import load
    from histotune.reporting.explanation_page import write

    command = shell_command()
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
