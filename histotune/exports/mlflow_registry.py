"""Exports as MLflow models: the best trials under their runs, every ensemble in the registry."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from histotune._version import __version__
from histotune.core import files
from histotune.ensembles.merge import EnsembleResult
from histotune.exports.export import ENSEMBLE, export_ensemble, export_trial
from histotune.metrics import scores as metrics
from histotune.storage import layout
from histotune.storage.records import TrialRecord
from histotune.storage.selection import best_trials
from histotune.storage.study_folder import COMPLETE
from histotune.tracking import client as _mlflow
from histotune.tracking.saved_view import NOTE
from histotune.tracking.tracker import MlflowTracker

_LONGEST = 5000  # characters of a description
_NEEDED = ("mlflow", "torch", "timm", "numpy", "pandas", "pillow", "pyyaml", "safetensors")


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


def log_ensemble(tracker: MlflowTracker, merged: EnsembleResult) -> str | None:
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


def _log_and_register(tracker: MlflowTracker, client: Any, folder: Path, merged: EnsembleResult) -> str:
    info, metric = _info(folder), tracker.store.settings.metric
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
    version = client.create_model_version(
        name, source, run, tags=tags, model_id=model.model_id, description=_card(folder)
    )
    best = max([*versions, version], key=lambda one: metrics.direction(metric) * float(one.tags["validation"]))
    client.set_registered_model_alias(name, "champion", best.version)
    return str(version.version)


def _ensemble_run(tracker: MlflowTracker, client: Any, info: Mapping[str, Any], merged: EnsembleResult) -> str:
    key = f"ensemble/{merged.name}/{info['digest']}"
    result = tracker.runs_of(client, key)
    now = time.time()
    tags = {"key": key, "kind": ENSEMBLE, "strategy": merged.strategy, "trials": str(merged.members)}
    run = (
        str(result[key].info.run_id)
        if key in result
        else tracker.open_run(client, f"ensemble {merged.name}", tags, now)
    )
    values = [_mlflow.metric(name, value, now) for name, value in merged.metrics.items()]
    _mlflow.log(client, run, values, _mlflow.params({"strategy": {"name": merged.strategy, **merged.params}}))
    client.set_terminated(run, "FINISHED")
    return run


def _log_model(client: Any, experiment: str, run: str, folder: Path) -> Any:
    """Log an export folder as a model made from code: MLflow gets safetensors and a Python file, never a pickle."""
    mlflow, info = _mlflow.api(), _info(folder)
    model = client.create_logged_model(
        experiment, name=info["name"], source_run_id=run, tags={"digest": info["digest"], NOTE: _card(folder)}
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


def _card(folder: Path) -> str:
    """Return the model card as far as MLflow's descriptions go; whole it lies among the model's artifacts."""
    card = (folder / layout.CARD).read_text(encoding="utf-8")
    return (
        card if len(card) <= _LONGEST else f"{card[: _LONGEST - 100].rpartition(chr(10))[0]}\n\n(more in {layout.CARD})"
    )


def _info(folder: Path) -> dict[str, Any]:
    return files.read_json(folder / layout.EXPORT)
