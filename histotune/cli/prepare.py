"""The command that brings data into the form that is trained on: `histotune prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histotune.cli import options as given
from histotune.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = (
    "prepare idc --data idc_patches --image-size 50",
    "prepare tcga_brca --data tcga_brca --option target=ihc",
    "prepare slides my_slides --mpp 0.5 --top 50",
    "prepare slides --data my_slides-bags",
)
_SLIDES = "Whole slides (prepare slides FOLDER)"


def prepare(
    dataset: Annotated[str, typer.Argument(help="Dataset name; see `histotune list datasets`.")],
    folder: Annotated[
        Path | None, typer.Argument(help="For `slides`: folder of whole-slide files to cut into patches.")
    ] = None,
    data: given.DataOption = None,
    image_size: Annotated[int, typer.Option(help="Side of the prepared images, pixels.", min=8)] = 32,
    resize: Annotated[str, typer.Option(help="area (stretch to the square) or pad (keep the proportions).")] = "area",
    option: given.DatasetOption = None,
    include_receptor_status: given.ReceptorOption = False,
    strict: given.StrictOption = False,
    cache: given.CacheOption = None,
    quiet: given.QuietOption = False,
    json_wanted: given.JsonOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="FOLDER-bags", rich_help_panel=_SLIDES)
    ] = None,
    patch_size: Annotated[
        int | None, typer.Option(help="Side of a patch, pixels.", show_default="256", rich_help_panel=_SLIDES)
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of a patch.", show_default="0.5", rich_help_panel=_SLIDES)
    ] = None,
    slide_mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of slides whose files do not state it.", rich_help_panel=_SLIDES)
    ] = None,
    tissue: Annotated[
        str | None,
        typer.Option(
            help="Tissue detection: otsu, or hsv (saturation above 20).", show_default="otsu", rich_help_panel=_SLIDES
        ),
    ] = None,
    min_tissue: Annotated[
        float | None,
        typer.Option(help="Least share of tissue in a patch.", show_default="0.5", rich_help_panel=_SLIDES),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            help="Keep the N patches with most tissue, spread over the slide; 0: all.",
            show_default="50",
            rich_help_panel=_SLIDES,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the draw among equally full patches.", min=0, show_default="0", rich_help_panel=_SLIDES
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Frozen network that embeds the patches: timm/NAME, or an export folder.",
            show_default="timm/tf_efficientnet_lite0",
            rich_help_panel=_SLIDES,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of the network: a file, or package (ImageNet weights).",
            show_default="package",
            rich_help_panel=_SLIDES,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of red, green and blue that the weights were trained with, in [0, 1]: R,G,B.",
            show_default="the architecture's",
            rich_help_panel=_SLIDES,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Standard deviation, as --mean.", show_default="the architecture's", rich_help_panel=_SLIDES),
    ] = None,
    edges: Annotated[
        str | None,
        typer.Option(help="Edges of the patch graph: knn or delaunay.", show_default="knn", rich_help_panel=_SLIDES),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(help="Number of nearest neighbours for knn.", show_default="8", rich_help_panel=_SLIDES),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            help="Longest edge in pixels of the slide; 0: no limit.", show_default="0", rich_help_panel=_SLIDES
        ),
    ] = None,
) -> None:
    """Read a dataset once into a memory-mapped cohort, and list files with problems.

    For whole slides, `prepare slides FOLDER` first cuts and embeds patches (bags and graphs).
    """
    asked = {
        "patch_size": patch_size,
        "mpp": mpp,
        "slide_mpp": slide_mpp,
        "tissue": tissue,
        "min_tissue": min_tissue,
        "top": top,
        "seed": seed,
        "backbone": backbone,
        "weights": weights,
        "mean": _channels("--mean", mean),
        "std": _channels("--std", std),
        "edges": edges,
        "k": k,
        "limit": limit,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if folder is not None:
        _refuse_other(dataset, folder, data)
        _slides(folder, out, asked, strict=strict, quiet=quiet, json_wanted=json_wanted)
        return
    if asked or out:
        name = next(iter([*asked, "out"])).replace("_", "-")
        raise ConfigError(f"--{name} is for whole slides: histotune prepare slides FOLDER --{name} ...")
    how: dict[str, Any] = {"resize": resize, "strict": strict}
    options = given.dataset_options(option, include_receptor_status=include_receptor_status)
    _cohort(dataset, options, data, image_size, cache, how, quiet=quiet, json_wanted=json_wanted)


def _channels(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read R,G,B."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected three numbers R,G,B, such as 0.485,0.456,0.406") from error


def _refuse_other(dataset: str, folder: Path, data: str | None) -> None:
    if dataset != "slides":
        raise ConfigError(f"{str(folder)!r} is one argument too many: give the data folder by --data {folder}")
    if data is not None:
        raise ConfigError(
            f"give either a folder of whole slides ({str(folder)!r}) or, by --data, one that was prepared ({data!r})"
        )


def _slides(
    folder: Path, out: Path | None, asked: dict[str, Any], *, strict: bool, quiet: bool, json_wanted: bool
) -> None:
    from histotune.cli import progress as cli_progress
    from histotune.ingest.slides.prepare import SlideSettings, prepare_slides

    out = out or folder.absolute().with_name(f"{folder.absolute().name}-bags")
    settings = SlideSettings(**asked)
    with cli_progress.display(quiet=quiet or json_wanted) as display:
        table = prepare_slides(folder, out, settings, strict=strict, progress=display.progress)
    _show(table, out, json_wanted=json_wanted)


def _show(table: pd.DataFrame, out: Path, *, json_wanted: bool) -> None:
    """Print a summary of the slides, those left out with the reason, and the next command."""
    from histotune.cli import tables as cli_show
    from histotune.cli.tables import ROWS
    from histotune.evaluation.next_steps import after_slides

    rows, problems = [dict(row) for _, row in table.iterrows()], table.attrs["problems"]
    if json_wanted:
        cli_show.as_json({"folder": str(out), "slides": rows, "problems": [problem._asdict() for problem in problems]})
        return
    shown = ("id", "width", "height", "mpp", "tissue", "patches")
    title = f"slides: {len(rows)}, patches: {table['patches'].sum()}"
    cli_show.as_table([{name: row[name] for name in shown} for row in rows[:ROWS]], title)
    for line in _artefacts(table):
        typer.echo(line)
    for row in [row for row in rows if row["notes"]][:ROWS]:
        typer.echo(f"{row['id']}: {row['notes']}")
    for problem in problems[:ROWS]:
        typer.echo(f"Left out {problem.path}: {problem.kind}: {problem.reason}")
    if max(len(rows), len(problems)) > ROWS:
        typer.echo(f"All slides: {out / 'slides.csv'}; all that were left out: {out / 'problems.csv'}")
    typer.echo(f"Pictures of tissue and patches: {out / 'pictures'}")
    typer.echo(after_slides(out))


def _artefacts(table: pd.DataFrame) -> list[str]:
    """Count what may disturb: pen marks, folds and patches that are out of focus."""
    patches, pen = int(table["patches"].sum()), int((table["pen"] > 0).sum())
    lines = [f"Pen marks on {pen} of {len(table)} slides: left out of the tissue"] if pen else []
    counts = {"out of focus": int(table["blurred"].sum()), "folded": int(table["folded"].sum())}
    shown = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return [*lines, *([f"Of {patches} patches that are kept: {shown} (slides.csv has them by slide)"] if shown else [])]


def _cohort(
    dataset: str,
    options: dict[str, Any],
    data: str | None,
    image_size: int,
    cache: Path | None,
    how: dict[str, Any],
    *,
    quiet: bool,
    json_wanted: bool,
) -> None:
    from histotune.cli import progress as cli_progress
    from histotune.cli import tables as cli_show
    from histotune.core.runtime import Places
    from histotune.studies.create import prepare_cohort

    with cli_progress.display(quiet=quiet or json_wanted) as display:
        places = Places.of(None, cache)
        cohort = prepare_cohort(dataset, options, data, image_size, places, progress=display.progress, **how)
    cli_show.cohort(cohort, json_wanted=json_wanted)
