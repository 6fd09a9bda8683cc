"""A trial or an ensemble -> one portable folder, and the same as an MLflow model.

FOLDER/
    export.json     how it was made: members, temperatures, strategy, threshold, data, split, validation metrics, digest
    README.md       the same for people
    members/<k>/    config.yaml, model.json, preprocessing.json, model.safetensors; with folds in folds/<k>/
    model.onnx      where asked for: all of it as one graph, from images to probabilities
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from histotune import __version__, _mlflow, files, metrics
from histotune._model_card import card, what_it_reads
from histotune.errors import ConfigError, StudyError
from histotune.members import best_trials, complete_trial
from histotune.merge import Merged
from histotune.onnx_model import add_onnx
from histotune.operating import OperatingPoint
from histotune.predict import EXPORT, FORMAT, MEMBERS, content_digest
from histotune.predictor import CLASSES, CONFIG, PREPROCESSING, WEIGHTS
from histotune.single import describe_single
from histotune.store import COMPLETE, StudyStore, TrialRecord, networks
from histotune.tracking import MlflowTracker

TRIAL, ENSEMBLE = "trial", "ensemble"
DEALT = ("folds", "repeats")
_NEEDED = ("mlflow", "torch", "timm", "numpy", "pandas", "pillow", "pyyaml", "safetensors")


def export_trial(
    store: StudyStore,
    number: int,
    folder: Path,
    *,
    onnx: bool = False,
    operating_point: str | OperatingPoint | None = None,
) -> Path:
    """Write trial `number` as a portable folder, with an ONNX graph if asked, and return the folder.

    Its temperature and threshold are fitted on the validation part and described, cross-fitted, by patients that had
    no part in their fit.

    Args:
        operating_point: how the threshold is chosen, such as "sensitivity=0.95"; None takes the study's metric.

    Raises:
        StudyError: there is no such trial, it is not complete, or the operating point is out of reach.
        ConfigError: `folder` holds something else, or a package for ONNX is missing.
        HistotuneError: the ONNX graph cannot be written, or gives other probabilities.
    """
    record = complete_trial(store, number)
    name = f"{store.settings().name}-trial-{number}"
    how, temperature = describe_single(store, record.predictions(), operating_point)
    return write_export(store, folder, {"kind": TRIAL, "name": name, **how}, [record], [temperature], onnx=onnx)


def export_ensemble(store: StudyStore, merged: Merged, folder: Path, *, onnx: bool = False) -> Path:
    """Write an ensemble as a portable folder, with an ONNX graph if asked, and return the folder.

    Raises:
        StudyError: a member is gone or not complete.
        ConfigError, HistotuneError: as `export_trial`.
    """
    how = {
        "kind": ENSEMBLE,
        "name": f"{store.settings().name}-{merged.name}",
        "strategy": merged.strategy,
        "params": dict(merged.params),
        "state": dict(merged.state),
        "temperature": merged.temperature,
        "threshold": merged.threshold,
        "operating_point": merged.operating_point and asdict(merged.operating_point),
        "calibration": dict(merged.calibration),
        "validation": dict(merged.metrics),
    }
    return write_export(store, folder, how, _records(store, merged), merged.temperatures, onnx=onnx)


def _records(store: StudyStore, merged: Merged) -> list[TrialRecord]:
    studies = merged.studies or ("",) * len(merged.members)
    places = [StudyStore(Path(study)) if study else store for study in studies]
    return [complete_trial(place, number) for place, number in zip(places, merged.members, strict=True)]


def write_export(
    store: StudyStore,
    folder: Path,
    how: Mapping[str, Any],
    members: Sequence[TrialRecord],
    temperatures: Sequence[float],
    *,
    onnx: bool,
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
                _copy_member(member, fresh / MEMBERS / str(k))
            told = {**how, **_facts(store), "members": _members(members, temperatures), "reads": what_it_reads(fresh)}
            info = json.loads(json.dumps(files.without_nan(told)))  # as it will be read: the digest must not differ
            info["digest"] = content_digest(fresh, info)
            files.write_json(fresh / EXPORT, info)
            if onnx:  # the digest stays that of the model, in whatever form it lies there
                info = add_onnx(fresh)
            files.write_text(fresh / "README.md", card(info))
            if folder.exists():
                folder.rename(Path(unfinished) / "replaced")
            fresh.rename(folder)
    except OSError as error:
        raise files.unwritable(folder, error) from error
    return folder


def _refuse_strangers(folder: Path) -> None:
    """Replace an earlier export or fill an empty folder, but never remove what somebody else put there."""
    if folder.exists() and not (folder / EXPORT).exists() and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is no export: name a new folder, or remove it first")


def _copy_member(member: TrialRecord, folder: Path) -> None:
    for place in networks(member.folder):
        _copy_network(member, place, folder / place.relative_to(member.folder))


def _copy_network(member: TrialRecord, place: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in (CONFIG, CLASSES, PREPROCESSING, WEIGHTS):
        if name == WEIGHTS and not (place / name).exists():
            raise StudyError(
                f"the weights of trial {member.number} are not there (`--keep-models` of a search and "
                "`histotune gc` free them): train it again with `histotune train SPACE --set ...` and the values of "
                f"{member.folder / CONFIG}, or choose a trial that has its weights"
            )
        if not (place / name).exists():
            raise StudyError(f"{place / name} is missing: trial {member.number} cannot be exported")
        shutil.copyfile(place / name, folder / name)


def _members(members: Sequence[TrialRecord], temperatures: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {
            "folder": f"{MEMBERS}/{k}",
            "trial": member.number,
            "digest": member.digest,
            "temperature": float(temperature),
            "validation": dict(member.metrics),
        }
        for k, (member, temperature) in enumerate(zip(members, temperatures, strict=True))
    ]


def _facts(store: StudyStore) -> dict[str, Any]:
    settings = store.settings()
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
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }


def log_models(tracker: MlflowTracker, *, top: int = 3) -> int:
    """Log the best complete trials as MLflow models under their runs; returns how many were new.

    A failure of MLflow is the tracker's to tell; a study without a complete trial logs nothing.
    """
    store = tracker.store
    if not any(trial.state == COMPLETE for trial in store.trials()):
        return 0
    new = 0
    for record in best_trials(store, top):
        with tempfile.TemporaryDirectory() as scratch:
            folder = export_trial(store, record.number, Path(scratch) / "export")
            new += tracker.attempt(partial(_log_trial, tracker=tracker, folder=folder, record=record), False)
    return new


def log_ensemble(tracker: MlflowTracker, merged: Merged) -> str | None:
    """Log an ensemble as an MLflow model, register it, and return its version; None where MLflow failed.

    The registered model is `<study>-ensemble`; its alias `champion` is the version that is best on validation. The
    same ensemble, weights included, is not logged twice.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_ensemble(tracker.store, merged, Path(scratch) / "export")
        return tracker.attempt(lambda client: _log_and_register(tracker, client, folder, merged), None)


def _log_trial(client: Any, tracker: MlflowTracker, folder: Path, record: TrialRecord) -> bool:
    run = tracker.runs_of(client, f"trial/{record.number}").get(f"trial/{record.number}")
    if run is None or run.info.lifecycle_stage == "deleted" or run.data.tags.get("model") == _info(folder)["digest"]:
        return False
    _log_model(client, tracker.experiment, run.info.run_id, folder)
    return True


def _log_and_register(tracker: MlflowTracker, client: Any, folder: Path, merged: Merged) -> str:
    info, metric = _info(folder), tracker.store.settings().metric
    name = f"{tracker.store.folder.name}-ensemble"
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=f"Ensembles of study {tracker.store.folder.name}")
    versions = client.search_model_versions(f"name = '{name}'")
    known = {version.tags.get("digest"): str(version.version) for version in versions}
    if info["digest"] in known:
        return known[info["digest"]]
    run = _ensemble_run(tracker, client, info, merged)
    model = _log_model(client, tracker.experiment, run, folder)
    # A database looks `models:/` addresses up in MLflow's global settings, which are not ours to change.
    source = model.artifact_location if tracker.uri.startswith("sqlite") else f"models:/{model.model_id}"
    tags = {"digest": info["digest"], "strategy": merged.strategy, "metric": metric, "trials": str(merged.members)}
    tags["validation"] = str(merged.metrics[metric])
    version = client.create_model_version(name, source, run, tags=tags, model_id=model.model_id)
    best = max([*versions, version], key=lambda one: metrics.direction(metric) * float(one.tags["validation"]))
    client.set_registered_model_alias(name, "champion", best.version)
    return str(version.version)


def _ensemble_run(tracker: MlflowTracker, client: Any, info: Mapping[str, Any], merged: Merged) -> str:
    key = f"ensemble/{merged.name}/{info['digest']}"
    found = tracker.runs_of(client, key)
    now = time.time()
    tags = {"key": key, "kind": ENSEMBLE, "strategy": merged.strategy, "trials": str(merged.members)}
    run = (
        str(found[key].info.run_id) if key in found else tracker.open_run(client, f"ensemble {merged.name}", tags, now)
    )
    values = [_mlflow.metric(name, value, now) for name, value in merged.metrics.items()]
    _mlflow.log(client, run, values, _mlflow.params({"strategy": {"name": merged.strategy, **merged.params}}))
    client.set_terminated(run, "FINISHED")
    return run


def _log_model(client: Any, experiment: str, run: str, folder: Path) -> Any:
    """Log an export folder as a model made from code: MLflow gets safetensors and a Python file, never a pickle."""
    mlflow, info = _mlflow.api(), _info(folder)
    model = client.create_logged_model(
        experiment, name=info["name"], source_run_id=run, tags={"digest": info["digest"]}
    )
    with tempfile.TemporaryDirectory() as scratch:
        place, code = Path(scratch) / "model", Path(__file__).with_name("mlflow_model.py")
        described = mlflow.models.Model(model_id=model.model_id, run_id=run)
        only_images = {one["kind"] for one in info["reads"].values()} == {"image"}
        _mlflow.save_model(place, code, folder, _requirements(), described, only_images=only_images)
        client.log_model_artifacts(model.model_id, str(place))
    client.finalize_logged_model(model.model_id, mlflow.entities.LoggedModelStatus.READY)
    client.log_outputs(run, [mlflow.entities.LoggedModelOutput(model.model_id, step=0)])
    client.set_tag(run, "model", info["digest"])  # last: a model that a kill cut short is logged again
    return model


def _requirements() -> list[str]:
    """Pin what loading an export needs; MLflow's own inference would load the model in another process, for seconds."""
    pinned = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in _NEEDED]
    return [f"histotune=={__version__}", *pinned]


def _info(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
    return loaded
