"""An ensemble or an exported trial on the terminal: beside its rivals, calibrated, at its operating point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from histotune.cli.scores import SHOWN_METRICS
from histotune.cli.tables import as_json, as_table
from histotune.core import files

if TYPE_CHECKING:
    from histotune.ensembles.merge import Merged
    from histotune.exports.distill import Distilled

_CALIBRATION = ("ece", "brier", "nll")


def merged(found: Merged, export: Path | None, *, json_wanted: bool) -> None:
    """Print an ensemble beside its best member and the uniform mean."""
    if json_wanted:
        told = asdict(found) | {"folder": str(found.folder), "name": found.name}
        as_json(told | {"members": found.members, "export": export})
        return
    shown = [m for m in SHOWN_METRICS if m in found.metrics]
    rows = [
        {"what": who.replace("_", " "), **{m: str(figures[m]) for m in shown}}
        for who, figures in found.intervals.items()
    ]
    as_table(rows, f"{found.name}: trials {_members(found)}; held-out predictions, 95 % intervals by patient")
    if found.state:
        numbers = sum(_count(value) for value in found.state.values())
        were = "number was" if numbers == 1 else "numbers were"
        typer.echo(f"{numbers} {were} fitted in {found.fit_seconds:.3f} s; no network was trained.")
    if found.candidates:
        typer.echo(f"{len(found.members)} of {len(found.candidates)} trials were selected.")
    for other, gain in found.gains.items():
        typer.echo(f"ensemble minus {other.replace('_', ' ')}: {gain}")
    if len(found.members) > 1:
        typer.echo(_diversity(found.diversity))
    else:
        typer.echo("One member alone: the ensemble is that trial, and gains nothing.")
    tuned(found.calibration, None if found.operating_point is None else asdict(found.operating_point))
    typer.echo("Members and their temperatures were chosen on these very cases: the sealed test part decides.")
    if export is not None:
        typer.echo(f"Wrote {export}. Next: histotune evaluate {export}")


def exported(folder: Path) -> None:
    """Print where a trial was written, and at which operating point."""
    info = files.read_json(folder / "export.json")
    tuned(info["calibration"], info["operating_point"])
    typer.echo(f"Wrote {folder}. Next: histotune evaluate {folder}")


def distilled(found: Distilled, export: Path | None, *, json_wanted: bool) -> None:
    """Print a student beside its ensemble and the best trial."""
    if json_wanted:
        as_json(asdict(found) | {"export": export})
        return
    rows = [{"what": who.replace("_", " "), found.metric: str(value)} for who, value in found.values.items()]
    small, large = found.parameters
    title = f"student of {found.ensemble} with the configuration of trial {found.student}, out of folds"
    as_table(rows, f"{title}: {small:,} weights instead of {large:,}")
    for other, gain in found.gains.items():
        typer.echo(f"student minus {other.replace('_', ' ')}: {gain}")
    typer.echo(
        "Its targets came from networks that knew the cases it is scored on, which lends it a little: the sealed test "
        "part decides."
    )
    tuned(found.how["calibration"], found.how["operating_point"])
    if export is not None:
        typer.echo(f"Wrote {export}: one network, trained on all folds. Next: histotune evaluate {export}")


def tuned(calibration: Mapping[str, Any], point: Mapping[str, Any] | None) -> None:
    """Print what a temperature did, and what a threshold reaches."""
    from histotune.metrics.scores import in_words

    changes = (
        f"{in_words(name)} {calibration[name]['before']:.3f} -> {calibration[name]['after']:.3f}"
        for name in _CALIBRATION
    )
    vain = calibration["nll"]["after"] >= calibration["nll"]["before"]
    how = "cross-fitted by patient" + (": no gain on patients that it was not fitted on" if vain else "")
    typer.echo(f"temperature {calibration['temperature']:.3g}: {', '.join(changes)} ({how})")
    if point is None:
        return
    from histotune.metrics.operating_points import OperatingPoint

    rule = OperatingPoint(point["rule"], point["asked"])
    typer.echo(
        f"threshold {point['threshold']:.4f} by {rule}: sensitivity {_interval(point['sensitivity'])}, "
        f"specificity {_interval(point['specificity'])} ({point['fitted_on']})"
    )


def _members(found: Merged) -> str:
    modalities = found.modalities or [""] * len(found.members)
    weights = [f"{weight:.2f}" for weight in found.weights] or [""] * len(found.members)
    if len(set(found.weights)) < 2:
        weights = [""] * len(found.members)
    told = zip(found.members, modalities, weights, strict=True)
    return ", ".join(
        str(number) + (f" ({', '.join(filter(None, about))})" if any(about) else "") for number, *about in told
    )


def _diversity(found: Mapping[str, Any]) -> str:
    return (
        f"diversity, mean over pairs: disagreement {found['mean_disagreement']:.3f}, error correlation "
        f"{found['mean_error_correlation']:.3f}, both wrong {found['mean_double_fault']:.3f}"
    )


def _interval(found: Mapping[str, Any]) -> str:
    """Write an interval as JSON holds it, where an unknown bound is null."""
    value, low, high = (float("nan") if found[name] is None else found[name] for name in ("value", "low", "high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _count(value: Any) -> int:
    """Count the numbers in nested lists."""
    return sum(map(_count, value)) if isinstance(value, list) else 1
