"""Arguments and options that several commands share, with their completions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from histotune.storage import layout


def _spaces(incomplete: str) -> list[str]:
    from histotune.space import space_names

    return [name for name in space_names() if name.startswith(incomplete)]


def _presets(incomplete: str) -> list[str]:
    from histotune.space.presets import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def figures(incomplete: str) -> list[str]:
    """Complete the name of a figure."""
    from histotune.reporting.figures import FIGURES

    return [name for name in FIGURES.names() if name.startswith(incomplete)]


def _studies(incomplete: str) -> list[str]:
    runs = Path(os.environ.get("HISTOTUNE_RUNS", "runs"))
    return [folder.name for folder in layout.studies(runs) if folder.name.startswith(incomplete)]


SpaceArgument = Annotated[
    str, typer.Argument(help="Search space: the name of a shipped one, or a YAML file.", autocompletion=_spaces)
]
SpaceOfPresetArgument = Annotated[
    str | None, typer.Argument(help="Search space; by default that of the preset.", autocompletion=_spaces)
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="A published configuration; see `list presets`.", autocompletion=_presets),
]
StudyArgument = Annotated[str, typer.Argument(help="Name of the study.", autocompletion=_studies)]
OptionalStudyArgument = Annotated[
    str | None, typer.Argument(help="Name of a study; by default all of them.", autocompletion=_studies)
]
ExportArgument = Annotated[Path, typer.Argument(help="Export folder, as written by `ensemble --export` or `export`.")]
OnnxOption = Annotated[bool, typer.Option("--onnx", help="Also write the model as one ONNX graph.")]
TorchExportOption = Annotated[
    bool, typer.Option("--torch-export", help="Also write the model as one torch.export program.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Data folder; by default $HISTOTUNE_DATA/NAME, then data/NAME.")
]
RunsOption = Annotated[
    Path | None, typer.Option("--runs", help="Folder of all studies.", envvar="HISTOTUNE_RUNS", show_default="runs")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="Folder of prepared cohorts.", envvar="HISTOTUNE_CACHE", show_default="~/.cache/histotune"
    ),
]
StudyOption = Annotated[
    str | None, typer.Option("--study", help="Name of the study; by default the name of the search space.")
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="How cases are split: patient, site, given, official_patient, ...")
]
ImbalanceOption = Annotated[
    str | None,
    typer.Option(
        "--imbalance", help="Subsample the training set: long_tail, or a ratio of negatives to positives such as 90:10."
    ),
]
FoldsOption = Annotated[
    int | None, typer.Option("--folds", help="K-fold cross-validation: each trial trains once per fold.", min=0)
]
RepeatsOption = Annotated[
    int | None, typer.Option("--repeats", help="Repeat the cross-validation with new random folds.", min=1)
]
OuterOption = Annotated[
    int | None,
    typer.Option("--outer", help="Nested cross-validation: one whole search for each of L outer folds.", min=2),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Stop with an error at an unreadable file or a leak.")]
FixOption = Annotated[
    list[str] | None, typer.Option("--fix", help="PATH=VALUE: fix a parameter instead of searching it.")
]
RangeOption = Annotated[
    list[str] | None, typer.Option("--range", help="PATH=low:high[:log|:step=S]: search this range.")
]
ChoicesOption = Annotated[list[str] | None, typer.Option("--choices", help="PATH=a,b,c: search these options.")]
PluginsOption = Annotated[
    Path | None,
    typer.Option("--plugins", help="Folder with your own losses, backbones, ...; every *.py in it is loaded."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the final result only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of the split and the search; by default 0.", min=0)
]
StartOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--start-with",
        help="Train this configuration right after the default one: config.yaml of a trial, or a part of one.",
    ),
]
WarmOption = Annotated[
    str | None,
    typer.Option(
        "--warm-start", help="Let the sampler learn from the trials of another study.", autocompletion=_studies
    ),
]
TrackingOption = Annotated[
    str | None, typer.Option("--tracking-uri", help="MLflow server to use instead of runs/mlflow.db.")
]
RayOption = Annotated[
    str | None,
    typer.Option("--ray-address", help="Ray cluster to join: auto or HOST:PORT; by default a private Ray is started."),
]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", help="Shared storage of the cluster: a path (replaces --runs) or a URI such as s3://..."),
]
CpusOption = Annotated[float, typer.Option("--cpus-per-trial", help="CPU cores per trial.", min=0.1)]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-trial", help="GPUs per trial; a fraction shares one. By default 1 where there is a GPU.", min=0.0
    ),
]
ConcurrentOption = Annotated[
    int | None,
    typer.Option("--max-concurrent", help="Most trials that run at the same time; by default as many as fit.", min=1),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--trial-timeout",
        help="Restart a trial that has finished no epoch for so many seconds; 0: never.",
        show_default="10 x the longest epoch, at least 600",
        min=0.0,
    ),
]
JoinOption = Annotated[
    bool,
    typer.Option("--join", help="If another process is searching in this study, follow it and take over if it stops."),
]
KeepModelsOption = Annotated[
    int, typer.Option("--keep-models", help="Keep the weights of the N best trials; 0: of all.", min=0)
]
DatasetOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE: option of the dataset; see `histotune list datasets -v`."),
]
ReceptorOption = Annotated[
    bool,
    typer.Option(
        "--include-receptor-status",
        help="tcga_brca: use ER, PR and HER2 status as inputs, although they nearly give the label away.",
    ),
]


def dataset_options(option: list[str] | None, *, include_receptor_status: bool) -> dict[str, Any]:
    """Return the options of a dataset from the command line."""
    from histotune.space import read_values

    receptors = {"include_receptor_status": True} if include_receptor_status else {}
    return read_values(option or [], option="--option") | receptors
