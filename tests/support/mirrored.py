"""Ended trials, and their runs in MLflow."""

from __future__ import annotations

from typing import Any

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.storage.records import TrialRecord, read_record, write_record
from histotune.storage.study_folder import StudyFolder
from histotune.tracking import client as _mlflow
from histotune.tracking.tracker import MlflowTracker


def end_trial(store: StudyFolder, number: int, state: str = "complete", **changes: Any) -> TrialRecord:
    """Write the files that an ended trial leaves."""
    folder = store.trial_folder(number)
    config = TrialConfig.from_dict({"loss": {"name": "focal", "gamma": 2.0}, "seed": number})
    files.write_json(folder / "config.yaml", config.to_dict())
    epochs = int(changes.get("epochs", 3))
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "train_loss": 1 / epoch, "seconds": 2.0, "balanced_accuracy": 0.5 + epoch / 100}
        files.append_json(folder / "curve.jsonl", row)
    record = {
        "state": state,
        "digest": config.digest(),
        "metrics": {"balanced_accuracy": 0.6 + number / 100, "auroc": float("nan")} if state != "failed" else {},
        "epochs": epochs,
        "best_epoch": epochs,
        "seconds": 2.0 * epochs,
        "parameters": 1000,
        "started": 1_700_000_000.0 + 100 * number,
    }
    write_record(folder, record | changes)
    result = read_record(folder, number)
    assert result is not None
    return result


def tracker_of(store: StudyFolder) -> MlflowTracker:
    return MlflowTracker(store, store.folder.parent)


def runs(store: StudyFolder) -> dict[str, Any]:
    """Return all runs of the study by key; fails on a double."""
    client = _mlflow.api().MlflowClient(_mlflow.database_uri(store.folder.parent))
    experiment = client.get_experiment_by_name(store.folder.name)
    if experiment is None:
        return {}
    result = client.search_runs([experiment.experiment_id])
    keys = [run.data.tags["key"] for run in result]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, result, strict=True))
