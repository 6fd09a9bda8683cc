"""Arguments and options that several commands share, with their completions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


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
    names = (path.parent.name for path in runs.glob("*/study.json"))
    return sorted(name for name in names if name.startswith(incomplete))


SpaceArgument = Annotated[
    str, typer.Argument(help="Search space: a shipped name or a YAML file.", autocompletion=_spaces)
]
SpaceOfPresetArgument = Annotated[
    str | None, typer.Argument(help="Search space; that of the preset if left out.", autocompletion=_spaces)
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="A published configuration; see `list presets`.", autocompletion=_presets),
]
StudyArgument = Annotated[str, typer.Argument(help="Name of the study.", autocompletion=_studies)]
OptionalStudyArgument = Annotated[
    str | None, typer.Argument(help="Name of a study; all of them if left out.", autocompletion=_studies)
]
ExportArgument = Annotated[Path, typer.Argument(help="Folder that `ensemble --export` or `export` wrote.")]
OnnxOption = Annotated[bool, typer.Option("--onnx", help="With the folder's model as one ONNX graph.")]
TorchExportOption = Annotated[
    bool, typer.Option("--torch-export", help="With the folder's model as one program of torch.export.")
]
DataOption = Annotated[str | None, typer.Option("--data", help="Data folder; else $HISTOTUNE_DATA/NAME, data/NAME.")]
RunsOption = Annotated[
    Path | None, typer.Option("--runs", help="Folder of all studies.", envvar="HISTOTUNE_RUNS", show_default="runs")
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Prepared cohorts.", envvar="HISTOTUNE_CACHE", show_default="~/.cache/histotune"),
]
StudyOption = Annotated[str | None, typer.Option("--study", help="Study name; the space's name if left out.")]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="Split protocol, such as patient or official_patient.")
]
ImbalanceOption = Annotated[
    str | None,
    typer.Option("--imbalance", help="Thin the training part: long_tail, or negatives to positives such as 90:10."),
]
FoldsOption = Annotated[int | None, typer.Option("--folds", help="Every trial trains once for each of K folds.", min=0)]
RepeatsOption = Annotated[int | None, typer.Option("--repeats", help="How often the folds are dealt anew.", min=1)]
OuterOption = Annotated[
    int | None,
    typer.Option("--outer", help="Nested cross-validation: a whole search for each of L outer folds.", min=2),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="A file that cannot be read, or a leak, is an error.")]
FixOption = Annotated[list[str] | None, typer.Option("--fix", help="PATH=VALUE: take a choice out of the search.")]
RangeOption = Annotated[list[str] | None, typer.Option("--range", help="PATH=low:high[:log|:step=S].")]
ChoicesOption = Annotated[list[str] | None, typer.Option("--choices", help="PATH=a,b,c.")]
PluginsOption = Annotated[Path | None, typer.Option("--plugins", help="Folder of your own losses, backbones, ...")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the end only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of split and search; 0 if left out.", min=0)]
StartOption = Annotated[
    list[Path] | None,
    typer.Option("--start-with", help="A configuration to train first: config.yaml of a trial, or a part of one."),
]
WarmOption = Annotated[
    str | None,
    typer.Option("--warm-start", help="Study whose trials the sampler may learn from.", autocompletion=_studies),
]
TrackingOption = Annotated[
    str | None, typer.Option("--tracking-uri", help="An MLflow server instead of runs/mlflow.db.")
]
RayOption = Annotated[
    str | None, typer.Option("--ray-address", help="Join a Ray cluster: auto or HOST:PORT; else a private Ray.")
]
StorageOption = Annotated[
    str | None, typer.Option("--storage", help="Path (instead of --runs) or URI that all nodes of the cluster reach.")
]
CpusOption = Annotated[float, typer.Option("--cpus-per-trial", help="CPU cores of a trial.", min=0.1)]
GpusOption = Annotated[
    float | None,
    typer.Option("--gpus-per-trial", help="GPUs of a trial; fractions share one. One if there are any.", min=0.0),
]
ConcurrentOption = Annotated[
    int | None, typer.Option("--max-concurrent", help="Trials at once; as many as fit.", min=1)
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--trial-timeout",
        help="Seconds without an epoch after which a trial counts as hung; 0: never.",
        show_default="10 x the longest epoch, at least 600",
        min=0.0,
    ),
]
JoinOption = Annotated[
    bool,
    typer.Option("--join", help="Look on when another process searches in this study; take over what it leaves."),
]
KeepModelsOption = Annotated[
    int, typer.Option("--keep-models", help="Best trials whose weights are kept; 0: of every trial.", min=0)
]
DatasetOption = Annotated[
    list[str] | None, typer.Option("--option", help="NAME=VALUE of the dataset; see `histotune list datasets -v`.")
]
ReceptorOption = Annotated[
    bool,
    typer.Option("--include-receptor-status", help="tcga_brca: ER, PR and HER2 as inputs, which nearly are the label."),
]


def dataset_options(option: list[str] | None, *, include_receptor_status: bool) -> dict[str, Any]:
    """Return a dataset's options as the command line gave them."""
    from histotune.space import read_values

    receptors = {"include_receptor_status": True} if include_receptor_status else {}
    return read_values(option or [], option="--option") | receptors
