"""Command line: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from histotune._version import __version__
from histotune.cli import audit as cli_audit
from histotune.cli import confirm as cli_confirm
from histotune.cli import ensemble as cli_ensemble
from histotune.cli import evaluate as cli_evaluate
from histotune.cli import explain as cli_explain
from histotune.cli import options as given
from histotune.cli import prepare as cli_prepare
from histotune.cli import report as cli_report
from histotune.cli import reproduce as cli_reproduce
from histotune.cli import search as cli_search
from histotune.cli import serve as cli_serve
from histotune.errors import HistotuneError


class _Commands(TyperGroup):
    """Prints a `HistotuneError` without a traceback and exits with code 2; Ctrl-C exits with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HistotuneError as error:
            typer.secho(f"Error: {error}", err=True, fg=typer.colors.RED)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("Interrupted. Finished work is kept; run the same command again to continue.", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Search, compare, combine and honestly test classifiers for histopathology.",
    epilog="First steps without data: [bold]histotune search demo --trials 8[/bold]",
)


def main() -> None:
    """Run the command line; warnings are printed as a sentence, without a line of code."""
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    app(prog_name="histotune")


def _examples(*lines: str) -> str:
    return "\n\n".join(["Examples:", *(f"[bold]histotune {line}[/bold]" for line in lines)])


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"histotune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    plugins: given.PluginsOption = None,
) -> None:
    if plugins is not None:
        from histotune.core.registry import load_plugins

        load_plugins(plugins)


app.command(epilog=_examples(*cli_search.SEARCH_EXAMPLES))(cli_search.search)
app.command(epilog=_examples(*cli_search.TRAIN_EXAMPLES))(cli_search.train)
app.command(epilog=_examples(*cli_confirm.EXAMPLES))(cli_confirm.confirm)
app.command(epilog=_examples(*cli_reproduce.EXAMPLES))(cli_reproduce.reproduce)
app.command(epilog=_examples(*cli_evaluate.EXAMPLES))(cli_evaluate.evaluate)
app.command(epilog=_examples(*cli_serve.EXAMPLES))(cli_serve.serve)
app.command(epilog=_examples(*cli_explain.EXAMPLES))(cli_explain.explain)
app.command(epilog=_examples(*cli_prepare.EXAMPLES))(cli_prepare.prepare)
app.command(epilog=_examples(*cli_audit.EXAMPLES))(cli_audit.audit)
app.command(epilog=_examples(*cli_report.EXAMPLES))(cli_report.report)


@app.command(epilog=_examples("leaderboard idc"))
def leaderboard(
    study: given.StudyArgument, runs: given.RunsOption = None, json_wanted: given.JsonOption = False
) -> None:
    """Rank the trials, ensembles and baselines of a study by their validation score."""
    from histotune.cli import tables as cli_show  # without histotune.study, which loads torch
    from histotune.core.runtime import Places
    from histotune.storage.study_folder import StudyFolder

    cli_show.study(StudyFolder.named(study, Places.of(runs).runs), json_wanted=json_wanted)


app.command(epilog=_examples(*cli_ensemble.ENSEMBLE_EXAMPLES))(cli_ensemble.ensemble)
app.command(epilog=_examples(*cli_ensemble.EXPORT_EXAMPLES))(cli_ensemble.export)


@app.command(epilog=_examples("predict exports/idc new_patches -o predictions.csv", "predict exports/brca new_cases"))
def predict(
    exported: given.ExportArgument,
    cases: Annotated[
        Path,
        typer.Argument(
            help="An image, a folder of images, or a CSV file with a column 'path'. For other inputs a folder with "
            "MODALITY.csv (or .csv.gz, .parquet), MODALITY/ID.png, and bags as written by `prepare slides`."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file to write.")] = Path("predictions.csv"),
    strict: given.StrictOption = False,
) -> None:
    """Predict class probabilities of new cases."""
    from histotune.cli import tables as cli_show
    from histotune.exports.model import load

    cli_show.predictions(load(exported).predict(cases, strict=strict), output)


@app.command(epilog=_examples("figure confusion_matrix idc", "figure learned_features idc --set method=tsne --png"))
def figure(
    name: Annotated[str, typer.Argument(help="See `histotune list figures -v`.", autocompletion=given.figures)],
    study: given.StudyArgument,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE: parameter of the figure.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="reports/STUDY")] = None,
    png: Annotated[bool, typer.Option("--png", help="Also write a PNG image; needs kaleido and Chrome.")] = False,
    data: given.DataOption = None,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    json_wanted: given.JsonOption = False,
) -> None:
    """Draw a figure of a study as a self-contained HTML page."""
    from histotune.cli import tables as cli_show
    from histotune.core.runtime import Places
    from histotune.reporting import figures
    from histotune.space import read_values
    from histotune.storage.study_folder import StudyFolder

    places = Places.of(runs, cache)
    options = read_values(set_ or [], option="--set")
    numbers = figures.compute(name, StudyFolder.named(study, places.runs), places=places, data=data, **options)
    written = figures.save(name, numbers, out or Path("reports") / study, png=png)
    cli_show.figure(numbers, written, json_wanted=json_wanted)


@app.command("list", epilog=_examples("list losses -v"))
def list_(
    kind: Annotated[
        str,
        typer.Argument(
            help="modalities, backbones, fusions, redundancies, losses, datasets, ensembles, figures, metrics, spaces, "
            "presets, reproductions or audits."
        ),
    ],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show parameters, ranges and sources.")] = False,
    json_wanted: given.JsonOption = False,
) -> None:
    """List the names that a search space or the command line takes."""
    from histotune.cli import tables as cli_show
    from histotune.cli.catalogue import catalogue

    cli_show.catalogue(kind, catalogue(kind), verbose=verbose, json_wanted=json_wanted)


@app.command("show-space", epilog=_examples("show-space idc --fix loss.name=focal"))
def show_space(
    space: given.SpaceArgument,
    fix: given.FixOption = None,
    range_: given.RangeOption = None,
    choices: given.ChoicesOption = None,
    json_wanted: given.JsonOption = False,
) -> None:
    """Print a search space: each parameter with its range, default and condition."""
    from histotune.cli import tables as cli_show
    from histotune.space import load_space

    cli_show.space(
        load_space(space, fix=fix or [], ranges=range_ or [], choices=choices or []), json_wanted=json_wanted
    )


@app.command(epilog=_examples("gc", "gc idc --keep 5 --yes"))
def gc(
    study: given.OptionalStudyArgument = None,
    keep: Annotated[int, typer.Option(help="Keep the weights of the N best trials of each study.", min=0)] = 10,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete the files; without this option they are only listed.")
    ] = False,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    json_wanted: given.JsonOption = False,
) -> None:
    """List, or with --yes delete, files that are no longer needed; results are never deleted."""
    from histotune.cli import tables as cli_show
    from histotune.core.runtime import Places
    from histotune.studies.disk import tidy

    tidied = tidy(Places.of(runs, cache), study, keep=keep, remove=yes)
    cli_show.tidied(tidied, removed=yes, json_wanted=json_wanted)


@app.command(epilog=_examples("ui --port 5000"))
def ui(
    runs: given.RunsOption = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI with all studies, on 127.0.0.1 only."""
    from histotune.core.runtime import Places
    from histotune.tracking.client import ui_command

    command, environment = ui_command(Places.of(runs).runs, port)
    typer.echo(f"MLflow UI: http://127.0.0.1:{port} (Ctrl-C to stop)")
    os.execvpe(command[0], command, environment)
