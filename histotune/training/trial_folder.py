"""The files of a trial folder at its beginning and its end: complete, stopped or failed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from histotune.core import files, runtime
from histotune.core.config import TrialConfig
from histotune.errors import StudyError, TrialFailed
from histotune.metrics.scores import reported
from histotune.models.predictor import save_preparations, save_weights
from histotune.storage import layout
from histotune.storage.records import (
    Predictions,
    TrialEnd,
    TrialRecord,
    inherited,
    networks,
    read_config,
    read_curve,
    read_record,
    write_record,
)
from histotune.storage.study_folder import COMPLETE, FAILED, STOPPED
from histotune.training import memory
from histotune.training.checkpoint import Checkpoint, TrainingProgress, forget
from histotune.training.pooling import pool
from histotune.training.session import Session

_OF_TRAINING = ("train_loss", "learning_rate")


def ended(folder: Path, config: TrialConfig) -> TrialRecord | None:
    """Read the trial that ended here with a result, or None; a failure is taken off the record, to be tried again.

    Raises:
        StudyError: it is the trial of another configuration.
    """
    record = read_record(folder)
    if record is None:
        return None
    if record.state not in (COMPLETE, STOPPED) or not record.epochs:
        (folder / layout.RECORD).unlink()
        return None
    if record.digest != config.digest():
        raise StudyError(f"{folder} holds trial {record.digest}, not {config.digest()}: choose another folder")
    return record


def open_folder(folder: Path, config: TrialConfig, curve: Sequence[Mapping[str, Any]]) -> None:
    """Write the configuration and the curve as far as the checkpoint goes: later epochs will be repeated."""
    files.write_text(folder / layout.CONFIG, yaml.safe_dump(config.to_dict(), sort_keys=False))
    files.write_text(folder / layout.CURVE, "".join(json.dumps(files.without_nan(row)) + "\n" for row in curve))


def describe(folder: Path, session: Session) -> None:
    """Write what the weights will need to be of use, and what must be known to repeat the training."""
    data = session.data
    classes = {"classes": list(data.classes), "counts": list(session.counts), "positive": data.positive}
    files.write_json(folder / layout.CLASSES, classes)
    save_preparations(session.preparations, folder / layout.PREPROCESSING)
    precision = str(session.autocast or "float32").removeprefix("torch.")
    how = {"seed": session.config.seed, "device": str(session.device), "precision": precision}
    cases = {"data": data.digest, "training_cases": len(session.train), "validation_cases": len(data.val)}
    files.write_json(folder / layout.ENVIRONMENT, runtime.environment() | how | cases | memory.facts(session))


def complete(folder: Path, progress: TrainingProgress, metrics: Mapping[str, float]) -> TrialRecord:
    """End a trial that trained to its end, or until patience ran out."""
    _write_best(folder, progress)
    return _end(folder, COMPLETE, progress, metrics)


def conclude(folder: Path, state: TrialEnd = STOPPED) -> TrialRecord:
    """End a trial that was stopped: its best epoch so far, from its checkpoint, becomes its result."""
    if (record := read_record(folder)) is not None:
        return record
    if (folder / layout.FOLDS).is_dir():
        for fold in networks(folder):
            conclude(fold, state)
        if all((fold / layout.PREDICTIONS).exists() for fold in networks(folder)):
            return pool(folder, state)
        return _end(folder, state, _nothing(folder), {})
    progress = Checkpoint(folder).load()
    if progress is None:
        return _end(folder, state, _nothing(folder), {})
    _write_best(folder, progress)
    best = progress.curve[progress.best_epoch - 1]
    return _end(folder, state, progress, {k: value for k, value in reported(best).items() if k not in _OF_TRAINING})


def fail(
    folder: Path, error: TrialFailed, *, state: TrialEnd = FAILED, config: Mapping[str, Any] | None = None
) -> TrialRecord:
    """Put a failure on record; `state` may also be `infeasible`. Its checkpoint goes: a failure would repeat itself.

    `config` is what it was to train, for a folder without a configuration: a trial may fail before it begins.
    """
    if config is not None and not (folder / layout.CONFIG).exists():
        open_folder(folder, TrialConfig.from_dict(config), [])
    forget(folder)
    return _end(folder, state, _nothing(folder), {}, kind=error.kind, reason=error.reason)


def _nothing(folder: Path) -> TrainingProgress:
    """Gather what is known of a trial without a result."""
    config = folder / layout.CONFIG
    if not config.exists():
        return TrainingProgress("", time.time())
    digest = files.restored(TrialConfig, read_config(folder), config).digest()
    return TrainingProgress(digest, config.stat().st_mtime, curve=read_curve(folder))


def _write_best(folder: Path, progress: TrainingProgress) -> None:
    save_weights(progress.best_weights, folder / layout.WEIGHTS)
    rows = {name: np.array(values) for name, values in progress.validation.items()}
    Predictions(logits=progress.best_logits.numpy(), **rows).save(folder / layout.PREDICTIONS)


def _end(
    folder: Path,
    state: TrialEnd,
    progress: TrainingProgress,
    metrics: Mapping[str, float],
    *,
    kind: str = "",
    reason: str = "",
) -> TrialRecord:
    record = {
        "state": state,
        "digest": progress.digest,
        "metrics": dict(metrics),
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "seconds": sum(row["seconds"] for row in progress.curve[inherited(folder) :]),
        "parameters": progress.parameters,
        "kind": kind,
        "reason": reason,
        "started": progress.started,
    }
    write_record(folder, record)
    Checkpoint(folder).delete()
    written = read_record(folder)
    assert written is not None
    return written
