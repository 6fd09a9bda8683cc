"""Commands that make a model to keep: an ensemble of trials, or a single trial, as a portable folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histotune.cli import options as given

ENSEMBLE_EXAMPLES = (
    "ensemble idc --top 5 --strategy vote --export exports/idc-vote --onnx",
    "ensemble idc --top 50 --strategy greedy --at-sensitivity 0.95 --export exports/idc",
    "ensemble idc_folds --top 5 --distill --export exports/idc-student",
    "ensemble brca_loose --strategy weighted_logits --modalities image,cnv,clinical",
    "ensemble brca_loose --strategy weighted_logits --drop-modality cnv",
)
EXPORT_EXAMPLES = ("export idc 7 exports/idc-trial7", "export idc 7 exports/idc-trial7 --at-cost 10:1 --onnx")

SensitivityOption = Annotated[
    float | None, typer.Option("--at-sensitivity", help="Threshold that reaches this sensitivity, such as 0.95.")
]
SpecificityOption = Annotated[
    float | None, typer.Option("--at-specificity", help="Threshold that reaches this specificity.")
]
YoudenOption = Annotated[
    bool, typer.Option("--at-youden", help="Threshold of the greatest sensitivity + specificity - 1.")
]
CostOption = Annotated[str | None, typer.Option("--at-cost", help="FN:FP, such as 10:1: threshold of the least cost.")]


def operating_point(sensitivity: float | None, specificity: float | None, youden: bool, cost: str | None) -> str | None:
    """Return the one operating point that was asked for, as `OperatingPoint.parse` reads it; None for none.

    Raises:
        ConfigError: several were.
    """
    from histotune.errors import ConfigError

    numbers = {"sensitivity": sensitivity, "specificity": specificity, "cost": cost}
    asked = [f"{rule}={value}" for rule, value in numbers.items() if value is not None] + ["youden"] * youden
    if len(asked) > 1:
        raise ConfigError(f"operating points {' and '.join(asked)}: a model has one threshold, so ask for one of them")
    return asked[0] if asked else None


def ensemble(
    study: given.StudyArgument,
    top: Annotated[int, typer.Option(help="How many of the best trials.", min=1)] = 5,
    strategy: Annotated[str, typer.Option(help="See `histotune list ensembles`.")] = "average",
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the strategy's parameters.")] = None,
    modalities: Annotated[str, typer.Option(help="A,B: of each the best trial that reads it alone.")] = "",
    add_modality: Annotated[
        list[str] | None,
        typer.Option(help="NAME=STUDY: with that study's best trial; to `--modalities` or the latest such ensemble."),
    ] = None,
    drop_modality: Annotated[list[str] | None, typer.Option(help="Without it; as --add-modality.")] = None,
    at_sensitivity: SensitivityOption = None,
    at_specificity: SpecificityOption = None,
    at_youden: YoudenOption = False,
    at_cost: CostOption = None,
    export: Annotated[Path | None, typer.Option(help="Write a portable folder here.")] = None,
    onnx: given.OnnxOption = False,
    torch_export: given.TorchExportOption = False,
    distill: Annotated[
        bool, typer.Option("--distill", help="Train one network on the ensemble's out-of-fold words; export that.")
    ] = False,
    student: Annotated[
        int | None, typer.Option(help="--distill: trial whose configuration it takes.", show_default="cheapest member")
    ] = None,
    data: given.DataOption = None,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    tracking_uri: given.TrackingOption = None,
    json_wanted: given.JsonOption = False,
) -> None:
    """Combine the best trials on their validation predictions, and export the result."""
    from histotune.cli import merged as cli_merged
    from histotune.cli import progress as cli_progress
    from histotune.errors import ConfigError
    from histotune.exports.distill import check_distillable
    from histotune.space import read_values
    from histotune.study import open_study

    if student is not None and not distill:
        raise ConfigError(f"--student {student}: nothing is distilled without --distill; give both or neither")
    point = operating_point(at_sensitivity, at_specificity, at_youden, at_cost)
    opened = open_study(study, runs=runs)
    if distill:
        check_distillable(opened.store, student, onnx=onnx, graphs=onnx or torch_export, exported=export is not None)
    merged = opened.ensemble(
        top=top,
        strategy=strategy,
        params=read_values(set_ or [], option="--set"),
        modalities=[name.strip() for name in modalities.split(",") if name.strip()],
        add_modality={k: str(v) for k, v in read_values(add_modality or [], option="--add-modality").items()},
        drop_modality=drop_modality or [],
        operating_point=point,
        export=None if distill else export,
        onnx=onnx and not distill,
        torch_export=torch_export and not distill,
        tracking_uri=tracking_uri,
    )
    if not (distill and json_wanted):
        cli_merged.merged(merged, None if distill else export, json_wanted=json_wanted)
    if distill:
        with cli_progress.display(quiet=json_wanted) as display:
            taught = opened.distill(
                merged,
                student=student,
                operating_point=point,
                export=export,
                onnx=onnx,
                torch_export=torch_export,
                data=data,
                cache=cache,
                progress=display.progress,
            )
        cli_merged.distilled(taught, export, json_wanted=json_wanted)


def export(
    study: given.StudyArgument,
    number: Annotated[int, typer.Argument(help="Trial number.", min=0)],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    at_sensitivity: SensitivityOption = None,
    at_specificity: SpecificityOption = None,
    at_youden: YoudenOption = False,
    at_cost: CostOption = None,
    onnx: given.OnnxOption = False,
    torch_export: given.TorchExportOption = False,
    runs: given.RunsOption = None,
) -> None:
    """Write one trial as a portable folder that `predict` and `evaluate` read."""
    from histotune.cli import merged as cli_merged
    from histotune.study import open_study

    point = operating_point(at_sensitivity, at_specificity, at_youden, at_cost)
    opened = open_study(study, runs=runs)
    written = opened.export(number, folder, onnx=onnx, torch_export=torch_export, operating_point=point)
    cli_merged.exported(written)
