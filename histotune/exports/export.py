"""A trial or an ensemble -> one portable folder.

FOLDER/
    export.json     how it was made: members, temperatures, strategy, threshold, data, split, validation metrics, digest
    README.md       the same for people
    members/<k>/    config.yaml, model.json, preprocessing.json, model.safetensors; with folds in folds/<k>/
    model.onnx      where asked for: all of it as one graph, from images to probabilities
    model.pt2       where asked for: the same as a program of torch.export
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from histotune._version import __version__
from histotune.core import files
from histotune.core.provenance import utc_time
from histotune.data.splits import TEST, TRAIN, VAL
from histotune.ensembles.crossfit import calibration, parts_by_patient, reached, tune
from histotune.ensembles.merge import EnsembleResult
from histotune.ensembles.operating import point_of, scored_cases
from histotune.errors import ConfigError, StudyError
from histotune.exports.card import card, what_it_reads
from histotune.exports.model import FORMAT, content_digest
from histotune.exports.onnx import add_onnx
from histotune.exports.torch_export import add_torch_export
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import patient_bootstrap
from histotune.metrics.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE
from histotune.metrics.intervals import ConfidenceInterval
from histotune.metrics.operating_points import OperatingPoint
from histotune.storage import layout
from histotune.storage.records import Predictions, TrialRecord, networks
from histotune.storage.seal import seal_sentence
from histotune.storage.selection import complete_trial
from histotune.storage.study_folder import StudyFolder

TRIAL, ENSEMBLE = "trial", "ensemble"
DEALT = ("folds", "repeats")
_TOLD = ("torch", "torchvision", "timm", "numpy")


def export_trial(
    store: StudyFolder,
    number: int,
    folder: Path,
    *,
    onnx: bool = False,
    torch_export: bool = False,
    operating_point: str | OperatingPoint | None = None,
) -> Path:
    """Write trial `number` as a portable folder, if asked with an ONNX graph or a torch.export program; return it.

    Its temperature and threshold are fitted on the validation part and described, cross-fitted, by patients that had
    no part in their fit.

    Args:
        operating_point: how the threshold is chosen, such as "sensitivity=0.95"; None takes the study's metric.

    Raises:
        StudyError: there is no such trial, it is not complete, or the operating point is out of reach.
        ConfigError: `folder` holds something else, or a package for ONNX is missing.
        HistotuneError: the graph or program cannot be written, or gives other probabilities.
    """
    record = complete_trial(store, number)
    name = f"{store.settings.name}-trial-{number}"
    how, temperature = describe_single(store, record.predictions(), operating_point)
    how = {"kind": TRIAL, "name": name, **how}
    return write_export(store, folder, how, [record], [temperature], onnx=onnx, torch_export=torch_export)


def export_ensemble(
    store: StudyFolder, merged: EnsembleResult, folder: Path, *, onnx: bool = False, torch_export: bool = False
) -> Path:
    """Write an ensemble as a portable folder, if asked with an ONNX graph or a torch.export program; return it.

    Raises:
        StudyError: a member is gone or not complete.
        ConfigError, HistotuneError: as `export_trial`.
    """
    how = {
        "kind": ENSEMBLE,
        "name": f"{store.settings.name}-{merged.name}",
        "strategy": merged.strategy,
        "params": dict(merged.params),
        **({"selection": merged.selection} if merged.selection else {}),
        "state": dict(merged.state),
        "temperature": merged.temperature,
        "threshold": merged.threshold,
        "operating_point": merged.operating_point and asdict(merged.operating_point),
        "calibration": dict(merged.calibration),
        "validation": dict(merged.metrics),
        "validation_intervals": _plain(merged.intervals["ensemble"]),
    }
    return write_export(
        store, folder, how, _records(store, merged), merged.temperatures, onnx=onnx, torch_export=torch_export
    )


def _records(store: StudyFolder, merged: EnsembleResult) -> list[TrialRecord]:
    studies = merged.studies or ("",) * len(merged.members)
    pairs = zip(merged.members, studies, strict=True)
    return [complete_trial(store.of_member(study), number) for number, study in pairs]


def write_export(
    store: StudyFolder,
    folder: Path,
    how: Mapping[str, Any],
    members: Sequence[TrialRecord],
    temperatures: Sequence[float],
    *,
    onnx: bool,
    torch_export: bool,
) -> Path:
    """Write the folder beside its place and move it there, whole or not at all; returns it.

    Args:
        how: what `export.json` says of how the members are joined, calibrated and called.
    """
    folder = folder.absolute()
    _refuse_strangers(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
            fresh = Path(unfinished) / folder.name
            for k, member in enumerate(members):
                _copy_member(member, fresh / layout.MEMBERS / str(k))
            reads = what_it_reads(member.folder for member in members)
            text = {**how, **_facts(store), "members": _members(members, temperatures), "reads": reads}
            info = json.loads(json.dumps(files.without_nan(text)))  # as it will be read: the digest must not differ
            info["digest"] = content_digest(fresh, info)
            files.write_json(fresh / layout.EXPORT, info)
            if onnx:  # the digest stays that of the model, in whatever form it lies there
                info = add_onnx(fresh)
            if torch_export:
                info = add_torch_export(fresh)
            files.write_text(fresh / layout.CARD, card(info))
            if folder.exists():
                folder.rename(Path(unfinished) / "replaced")
            fresh.rename(folder)
    except OSError as error:
        raise files.unwritable(folder, error) from error
    return folder


def _refuse_strangers(folder: Path) -> None:
    """Replace an earlier export or fill an empty folder, but never remove other files."""
    layout.checked_name(folder.name, "an export")
    if folder.exists() and not (folder / layout.EXPORT).exists() and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is no export: name a new folder, or remove it first")


def _copy_member(member: TrialRecord, folder: Path) -> None:
    for place in networks(member.folder):
        _copy_network(member, place, folder / place.relative_to(member.folder))


def _copy_network(member: TrialRecord, place: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in (layout.CONFIG, layout.CLASSES, layout.PREPROCESSING, layout.WEIGHTS):
        if name == layout.WEIGHTS and not (place / name).exists():
            raise StudyError(
                f"the weights of trial {member.number} are not there (`--keep-models` of a search and "
                "`histotune gc` free them): train it again with `histotune train SPACE --set ...` and the values of "
                f"{member.folder / layout.CONFIG}, or choose a trial that has its weights"
            )
        if not (place / name).exists():
            raise StudyError(f"{place / name} is missing: trial {member.number} cannot be exported")
        shutil.copyfile(place / name, folder / name)


def _members(members: Sequence[TrialRecord], temperatures: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {
            "folder": f"{layout.MEMBERS}/{k}",
            "trial": member.number,
            "digest": member.digest,
            "temperature": float(temperature),
            "validation": dict(member.metrics),
        }
        for k, (member, temperature) in enumerate(zip(members, temperatures, strict=True))
    ]


def _parts(store: StudyFolder) -> dict[str, Any]:
    """Count cases and patients of each part of the split."""
    table = store.split
    parts = {part: table["patient"][table["part"] == part] for part in (TRAIN, VAL, TEST)}
    return {part: {"cases": len(who), "patients": who.nunique()} for part, who in parts.items() if len(who)}


def _plain(result: Mapping[str, ConfidenceInterval]) -> dict[str, dict[str, float]]:
    return {name: asdict(interval) for name, interval in result.items()}


def _facts(store: StudyFolder) -> dict[str, Any]:
    settings = store.settings
    return {
        "format": FORMAT,
        "classes": list(settings.classes),
        "positive": settings.positive,
        "resize": settings.facts.get("resize", "area"),
        "metric": settings.metric,
        "study": {"name": settings.name, "folder": str(store.folder), "created": settings.created},
        "split": {name: getattr(settings, name) for name in ("protocol", "leaky", "seed", "training", *DEALT)},
        "dataset": {
            "name": settings.dataset,
            "options": dict(settings.options),
            "digests": dict(settings.digests),
            "synthetic": bool(settings.facts.get("synthetic", False)),
            "source": settings.facts.get("source", ""),
            "licence": settings.facts.get("licence", ""),
            **{
                name: settings.facts[name]
                for name in ("sites", "patients_known", "left_out", "id_columns")
                if name in settings.facts
            },
        },
        "parts": _parts(store),
        "seal": seal_sentence(store),
        "versions": {"histotune": __version__, "Python": platform.python_version()}
        | {name: metadata.version(name) for name in _TOLD},
        "created": utc_time(),
        "version": __version__,
    }


def describe_single(
    store: StudyFolder, saved: Predictions, operating_point: str | OperatingPoint | None = None
) -> tuple[dict[str, Any], float]:
    """Return what an export says of one network with these held-out predictions, and its temperature."""
    settings, raw = store.settings, metrics.softmax(saved.logits)
    point, parts = point_of(operating_point, settings), parts_by_patient(saved.patients, saved.labels)
    positive, bounds = settings.positive, (LEAST_TEMPERATURE, MOST_TEMPERATURE)
    tuned = tune(raw, saved.labels, saved.patients, parts, point, positive=positive, bounds=bounds)
    at = point and reached(tuned, point, saved.labels, saved.patients, scored_cases(settings), positive=positive)
    validation, on = tuned.measure(saved.labels, positive), (saved.labels, saved.patients)
    intervals = {name: patient_bootstrap(name, tuned.of(name), *on, positive=positive) for name in validation}
    how = {
        "strategy": "average",
        "params": {},
        "state": {},
        "temperature": 1.0,
        "threshold": tuned.threshold,
        "operating_point": at and asdict(at),
        "calibration": calibration(tuned.temperature, raw, tuned.crossfitted, saved.labels),
        "validation": validation,
        "validation_intervals": {name: asdict(interval) for name, interval in intervals.items()},
    }
    return how, tuned.temperature
