"""The commands that train: `histotune search` and `histotune train`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated

import typer

from histotune.cli import options as given
from histotune.core.provenance import shell_command

if TYPE_CHECKING:
    from histotune.storage.study_folder import StudyFolder
    from histotune.studies.options import SearchOptions
    from histotune.tuning.events import SearchSummary

EXIT_CODES = {"interrupted": 130, "failures": 1}  # by the reason for which a search ended early
SEARCH_EXAMPLES = (
    "search demo --trials 8",
    "search idc --data idc_patches --trials 20 --split official_patient",
    "search idc --time 2h --gpus-per-trial 0.25 --metric auroc",
    "search idc --study focal-only --fix loss=focal --range optimizer.learning_rate=1e-4:1e-2:log",
)
TRAIN_EXAMPLES = (
    "train idc --set loss.name=focal --set loss.gamma=2",
    "train --preset janowczyk --data idc_patches --set epochs=20",
)


def search(
    space: given.SpaceArgument,
    data: given.DataOption = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Total number of trials of the study; by default 20 if no budget is given.", min=1),
    ] = None,
    time: Annotated[str | None, typer.Option(help="Stop after this time: 90s, 30m, 2h.")] = None,
    epochs_total: Annotated[
        int | None, typer.Option(help="Total number of epochs of the study, stopped and failed trials included.", min=1)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop when none of the last N trials improved on the best one before them.", min=1),
    ] = None,
    start_with: given.StartOption = None,
    warm_start: given.WarmOption = None,
    study: given.StudyOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric to optimise; give several for a Pareto front (the first one ranks)."),
    ] = None,
    sampler: Annotated[str, typer.Option(help="Sampler: tpe, gp, cmaes, random or grid.")] = "tpe",
    scheduler: Annotated[
        str, typer.Option(help="Scheduler that stops weak trials: asha, hyperband, median, pbt or none.")
    ] = "asha",
    split: given.SplitOption = None,
    imbalance: given.ImbalanceOption = None,
    folds: given.FoldsOption = None,
    repeats: given.RepeatsOption = None,
    outer: given.OuterOption = None,
    seed: given.SeedOption = None,
    cpus_per_trial: given.CpusOption = 1.0,
    gpus_per_trial: given.GpusOption = None,
    max_concurrent: given.ConcurrentOption = None,
    trial_timeout: given.TimeoutOption = None,
    join: given.JoinOption = False,
    keep_models: given.KeepModelsOption = 20,
    fix: given.FixOption = None,
    range_: given.RangeOption = None,
    choices: given.ChoicesOption = None,
    option: given.DatasetOption = None,
    include_receptor_status: given.ReceptorOption = False,
    strict: given.StrictOption = False,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    tracking_uri: given.TrackingOption = None,
    ray_address: given.RayOption = None,
    storage: given.StorageOption = None,
    quiet: given.QuietOption = False,
    json_wanted: given.JsonOption = False,
) -> None:
    """Search SPACE for the best configuration. Run the same command again to continue."""
    data_options = given.dataset_options(option, include_receptor_status=include_receptor_status)
    renamed = {"protocol": split, "ranges": range_, "options": data_options, "training_cases": None}
    keywords = locals() | renamed
    from histotune.cli import tables as cli_show
    from histotune.studies.options import SearchOptions

    options = SearchOptions.of(keywords)
    if outer is not None:
        _nested(space, options, outer, quiet=quiet or json_wanted, json_wanted=json_wanted)
        return
    store, summary = _shown(space, options, quiet=quiet or json_wanted)
    cli_show.study(store, summary, json_wanted=json_wanted)
    if summary.reason in EXIT_CODES:
        typer.echo(summary.message, err=True)
        raise typer.Exit(EXIT_CODES[summary.reason])


def _shown(space: str, options: SearchOptions, *_: object, quiet: bool) -> tuple[StudyFolder, SearchSummary]:
    """Search, and show how far it is."""
    from histotune.cli import progress as cli_progress
    from histotune.studies.train_and_search import search as run
    from histotune.tuning.options import Callbacks

    with cli_progress.display(quiet=quiet) as display:
        store, summary = run(space, options, Callbacks(display.progress, display.say, display.began, [display]))
    store.record_command(shell_command())
    return store, summary


def _nested(space: str, options: SearchOptions, outer: int, *, quiet: bool, json_wanted: bool) -> None:
    """Search once for each outer fold, and print the nested estimate."""
    from histotune.cli import progress as cli_progress
    from histotune.cli import tables as cli_show
    from histotune.evaluation.nested import nested_search

    searching, command = functools.partial(_shown, quiet=quiet), shell_command()
    with cli_progress.display(quiet=quiet, live=False) as display:
        result = nested_search(space, options, outer=outer, searching=searching, message=display.say, command=command)
    if json_wanted:
        cli_show.as_json(result.to_dict())
        return
    typer.echo(result.sentence)
    names = {
        "outer": "outer fold",
        "trial": "trial",
        "what": "winner",
        "inner": "inside",
        "score": "outside",
        "patients": "patients",
    }
    rows = [{shown: getattr(one, name) for name, shown in names.items()} for one in result.folds]
    cli_show.as_table(rows, f"{result.study}: {result.metric}, nested cross-validation")
    typer.echo(
        "This estimates the search procedure, not one model. Run the same command without --outer to get the model."
    )


def train(
    space: given.SpaceOfPresetArgument = None,
    preset: given.PresetOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="PATH=VALUE: change a parameter of the preset or the default configuration."),
    ] = None,
    data: given.DataOption = None,
    study: given.StudyOption = None,
    split: given.SplitOption = None,
    imbalance: given.ImbalanceOption = None,
    folds: given.FoldsOption = None,
    repeats: given.RepeatsOption = None,
    seed: given.SeedOption = None,
    strict: given.StrictOption = False,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    quiet: given.QuietOption = False,
    json_wanted: given.JsonOption = False,
) -> None:
    """Train one configuration on the split of the study, without a search and without Ray."""
    from histotune.api import train as run
    from histotune.cli import progress as cli_progress
    from histotune.cli import tables as cli_show

    with cli_progress.display(quiet=quiet or json_wanted) as display:
        record = run(
            space,
            set_ or [],
            preset=preset,
            data=data,
            study=study,
            protocol=split,
            imbalance=imbalance,
            folds=folds,
            repeats=repeats,
            seed=seed,
            strict=strict,
            runs=runs,
            cache=cache,
            progress=display.progress,
            report=display.epoch,
        )
    cli_show.trial(record, json_wanted=json_wanted)
