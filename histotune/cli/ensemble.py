"""Commands that make a model to keep: an ensemble of trials, or a single trial, as a portable folder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histotune.cli import options as given
from histotune.cli.tables import SHOWN_METRICS, as_json, as_table
from histotune.core import files
from histotune.core.format import bracketed
from histotune.storage import layout

if TYPE_CHECKING:
    from histotune.ensembles.merge import EnsembleResult
    from histotune.exports.distill import Distilled


ENSEMBLE_EXAMPLES = (
    "ensemble idc --top 5 --strategy vote --export exports/idc-vote --onnx",
    "ensemble idc --top 50 --strategy greedy --at-sensitivity 0.95 --export exports/idc",
    "ensemble idc_folds --top 5 --distill --export exports/idc-student",
    "ensemble idc --best-of loss.name",
    "ensemble idc --trials 7 --seeds 5",
    "ensemble brca_loose --strategy weighted_logits --modalities image,cnv,clinical",
    "ensemble brca_loose --strategy weighted_logits --drop-modality cnv",
)
EXPORT_EXAMPLES = ("export idc 7 exports/idc-trial7", "export idc 7 exports/idc-trial7 --at-cost 10:1 --onnx")

SensitivityOption = Annotated[
    float | None,
    typer.Option("--at-sensitivity", help="Choose the threshold that reaches this sensitivity, such as 0.95."),
]
SpecificityOption = Annotated[
    float | None, typer.Option("--at-specificity", help="Choose the threshold that reaches this specificity.")
]
YoudenOption = Annotated[
    bool, typer.Option("--at-youden", help="Choose the threshold with the largest sensitivity + specificity - 1.")
]
CostOption = Annotated[
    str | None, typer.Option("--at-cost", help="FN:FP, such as 10:1: choose the threshold with the least cost.")
]
_CALIBRATION = ("ece", "brier", "nll")


def operating_point(sensitivity: float | None, specificity: float | None, youden: bool, cost: str | None) -> str | None:
    """Return the one operating point that was asked for, as `OperatingPoint.parse` reads it; None for none.

    Raises:
        ConfigError: several were.
    """
    from histotune.errors import ConfigError

    numbers = {"sensitivity": sensitivity, "specificity": specificity, "cost": cost}
    asked = [f"{rule}={value}" for rule, value in numbers.items() if value is not None] + ["youden"] * youden
    if len(asked) > 1:
        raise ConfigError(
            f"operating points {' and '.join(asked)}: a model has one threshold, so give only one of them"
        )
    return asked[0] if asked else None


def ensemble(
    study: given.StudyArgument,
    top: Annotated[int | None, typer.Option(help="Number of best trials to combine.", min=1, show_default="5")] = None,
    strategy: Annotated[str, typer.Option(help="How to combine them; see `histotune list ensembles`.")] = "average",
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE: parameter of the strategy.")] = None,
    trials: Annotated[
        str | None, typer.Option(help="Combine these trials instead of the best, such as 3,7,12.")
    ] = None,
    best_of: Annotated[
        str | None, typer.Option(help="Combine the best trial of each value of a parameter, such as loss.name.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Combine one trial, the best or that of --trials, with so many seeds; trains those that are missing.",
        ),
    ] = None,
    modalities: Annotated[str, typer.Option(help="A,B: combine the best single-modality trial of each of these.")] = "",
    add_modality: Annotated[
        list[str] | None,
        typer.Option(help="NAME=STUDY: add a modality with the best trial of that study."),
    ] = None,
    drop_modality: Annotated[
        list[str] | None, typer.Option(help="Leave this modality out of --modalities or of the latest ensemble.")
    ] = None,
    at_sensitivity: SensitivityOption = None,
    at_specificity: SpecificityOption = None,
    at_youden: YoudenOption = False,
    at_cost: CostOption = None,
    export: Annotated[Path | None, typer.Option(help="Write the ensemble as an export folder.")] = None,
    onnx: given.OnnxOption = False,
    torch_export: given.TorchExportOption = False,
    distill: Annotated[
        bool,
        typer.Option(
            "--distill", help="Distil the ensemble into one network, trained on its out-of-fold probabilities."
        ),
    ] = False,
    student: Annotated[
        int | None,
        typer.Option(
            help="With --distill: trial whose configuration the network takes.", show_default="cheapest member"
        ),
    ] = None,
    data: given.DataOption = None,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    tracking_uri: given.TrackingOption = None,
    json_wanted: given.JsonOption = False,
) -> None:
    """Combine the best trials into an ensemble, fitted on their validation predictions."""
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
    combine = functools.partial(
        opened.ensemble,
        top=top,
        strategy=strategy,
        params=read_values(set_ or [], option="--set"),
        trials=None if trials is None else _numbers(trials),
        best_of=best_of,
        seeds=seeds,
        modalities=[name.strip() for name in modalities.split(",") if name.strip()],
        add_modality={k: str(v) for k, v in read_values(add_modality or [], option="--add-modality").items()},
        drop_modality=drop_modality or [],
        operating_point=point,
        export=None if distill else export,
        onnx=onnx and not distill,
        torch_export=torch_export and not distill,
        tracking_uri=tracking_uri,
        data=data,
        cache=cache,
    )
    with cli_progress.display(quiet=json_wanted) as display:
        merged = combine(progress=display.progress)
    if not (distill and json_wanted):
        show_ensemble(merged, None if distill else export, json_wanted=json_wanted)
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
        show_student(taught, export, json_wanted=json_wanted)


def _numbers(text: str) -> list[int]:
    """Read numbers of trials, such as "3,7,12"."""
    from histotune.errors import ConfigError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if bad := [part for part in parts if not part.isdecimal()]:
        raise ConfigError(f"--trials {text}: {bad[0]!r} is no number of a trial; give them as 3,7,12")
    return [int(part) for part in parts]


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
    """Write one trial as an export folder, for `predict`, `evaluate` and `serve`."""
    from histotune.study import open_study

    point = operating_point(at_sensitivity, at_specificity, at_youden, at_cost)
    opened = open_study(study, runs=runs)
    written = opened.export(number, folder, onnx=onnx, torch_export=torch_export, operating_point=point)
    show_export(written)


def show_ensemble(result: EnsembleResult, export: Path | None, *, json_wanted: bool) -> None:
    """Print an ensemble beside its best member and the uniform mean."""
    if json_wanted:
        text = asdict(result) | {"folder": str(result.folder), "name": result.name}
        as_json(text | {"members": result.members, "export": export})
        return
    shown = [m for m in SHOWN_METRICS if m in result.metrics]
    rows = [
        {"what": who.replace("_", " "), **{m: str(figures[m]) for m in shown}}
        for who, figures in result.intervals.items()
    ]
    as_table(rows, f"{result.name}: trials {_members(result)}; held-out predictions, 95 % intervals over patients")
    if result.state:
        numbers = sum(_count(value) for value in result.state.values())
        were = "number was" if numbers == 1 else "numbers were"
        typer.echo(f"{numbers} {were} fitted in {result.fit_seconds:.3f} s; no network was trained.")
    if result.selection:
        typer.echo(f"Members: {result.selection}.")
    if result.candidates:
        typer.echo(f"{len(result.members)} of {len(result.candidates)} trials were selected.")
    for other, gain in result.gains.items():
        typer.echo(f"ensemble minus {other.replace('_', ' ')}: {gain}")
    if len(result.members) > 1:
        typer.echo(_diversity(result.diversity))
    else:
        typer.echo("There is one member only: the ensemble equals that trial.")
    tuned(result.calibration, None if result.operating_point is None else asdict(result.operating_point))
    typer.echo(
        "Members and temperatures were chosen on these cases, so these scores are optimistic; evaluate on the sealed "
        "test set."
    )
    if export is not None:
        _wrote(export)


def show_export(folder: Path) -> None:
    """Print where a trial was written, and at which operating point."""
    info = files.read_json(folder / layout.EXPORT)
    tuned(info["calibration"], info["operating_point"])
    _wrote(folder)


def show_student(result: Distilled, export: Path | None, *, json_wanted: bool) -> None:
    """Print a student beside its ensemble and the best trial."""
    if json_wanted:
        as_json(asdict(result) | {"export": export})
        return
    rows = [{"what": who.replace("_", " "), result.metric: str(value)} for who, value in result.values.items()]
    small, large = result.parameters
    title = f"student of {result.ensemble} with the configuration of trial {result.student}, out of folds"
    as_table(rows, f"{title}: {small:,} weights instead of {large:,}")
    for other, gain in result.gains.items():
        typer.echo(f"student minus {other.replace('_', ' ')}: {gain}")
    typer.echo(
        "Its soft targets come from networks that were trained on the cases it is scored on, so its score is slightly "
        "optimistic; evaluate on the sealed test set."
    )
    tuned(result.how["calibration"], result.how["operating_point"])
    if export is not None:
        _wrote(export, ": one network, trained on all folds")


def _wrote(folder: Path, what: str = "") -> None:
    from histotune.evaluation.next_steps import after_export

    typer.echo(f"Wrote {folder}{what}. {after_export(folder)}")


def tuned(calibration: Mapping[str, Any], point: Mapping[str, Any] | None) -> None:
    """Print what a temperature did, and what a threshold reaches."""
    from histotune.metrics.scores import in_words

    changes = (
        f"{in_words(name)} {calibration[name]['before']:.3f} -> {calibration[name]['after']:.3f}"
        for name in _CALIBRATION
    )
    if calibration["temperature"] == 1.0:
        values = ", ".join(f"{in_words(name)} {calibration[name]['before']:.3f}" for name in _CALIBRATION)
        typer.echo(f"no temperature, which would not help on held-out patients: {values}")
    else:
        typer.echo(f"temperature {calibration['temperature']:.3g}: {', '.join(changes)} (cross-fitted by patient)")
    if point is None:
        return
    from histotune.metrics.operating_points import OperatingPoint

    rule = OperatingPoint(point["rule"], point["asked"])
    typer.echo(
        f"threshold {point['threshold']:.4f} by {rule}: sensitivity {bracketed(point['sensitivity'])}, "
        f"specificity {bracketed(point['specificity'])} ({point['fitted_on']})"
    )


def _members(result: EnsembleResult) -> str:
    modalities, studies = (given or ("",) * len(result.members) for given in (result.modalities, result.studies))
    chosen = [modality or Path(study).name for modality, study in zip(modalities, studies, strict=True)]
    weights = [f"{weight:.2f}" for weight in result.weights] or [""] * len(result.members)
    if len(set(result.weights)) < 2:
        weights = [""] * len(result.members)
    text = zip(result.members, chosen, weights, strict=True)
    return ", ".join(
        str(number) + (f" ({', '.join(filter(None, about))})" if any(about) else "") for number, *about in text
    )


def _diversity(result: Mapping[str, Any]) -> str:
    return (
        f"diversity, mean over pairs: disagreement {result['mean_disagreement']:.3f}, error correlation "
        f"{result['mean_error_correlation']:.3f}, both wrong {result['mean_double_fault']:.3f}"
    )


def _count(value: Any) -> int:
    """Count the numbers in nested lists."""
    return sum(map(_count, value)) if isinstance(value, list) else 1
