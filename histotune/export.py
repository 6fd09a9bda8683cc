"""A trial or an ensemble -> one portable folder, and the same as an MLflow model.

FOLDER/
    export.json     how it was made: members, temperatures, strategy, threshold, data, split, validation metrics, digest
    README.md       the same for people
    members/<k>/    config.yaml, model.json, preprocessing.json, model.safetensors
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from histotune import __version__, files, metrics
from histotune._model_card import card
from histotune.calibration import THRESHOLD_METRICS, apply_temperatures, choose_threshold, fit_temperature
from histotune.errors import ConfigError, StudyError, suggest
from histotune.merge import Merged
from histotune.model import CLASSES, CONFIG, PREPROCESSING, WEIGHTS
from histotune.predict import EXPORT, FORMAT, MEMBERS, content_digest
from histotune.store import COMPLETE, StudyStore, TrialRecord

TRIAL, ENSEMBLE = "trial", "ensemble"


def export_trial(store: StudyStore, number: int, folder: Path) -> Path:
    """Write trial `number` as a portable folder and return it.

    Its temperature and threshold are fitted on the validation part.

    Raises:
        StudyError: there is no such trial, or it is not complete.
        ConfigError: `folder` holds something else.
    """
    record = _complete(store, number)
    saved = record.predictions()
    temperature = fit_temperature(saved.logits, saved.labels)
    probabilities = metrics.softmax(apply_temperatures(saved.logits[None], [temperature])[0])
    positive = store.settings().positive
    how = {
        "kind": TRIAL,
        "name": f"{store.settings().name}-trial-{number}",
        "strategy": "average",
        "params": {},
        "state": {},
        "threshold": _threshold(store, probabilities, saved.labels),
        "validation": metrics.evaluate(probabilities, saved.labels, positive=positive),
    }
    return _write(store, folder, how, [record], [temperature])


def export_ensemble(store: StudyStore, merged: Merged, folder: Path) -> Path:
    """Write an ensemble as a portable folder and return it.

    Raises:
        StudyError: a member is gone or not complete.
        ConfigError: `folder` holds something else.
    """
    how = {
        "kind": ENSEMBLE,
        "name": f"{store.settings().name}-{merged.name}",
        "strategy": merged.strategy,
        "params": dict(merged.params),
        "state": dict(merged.state),
        "threshold": merged.threshold,
        "validation": dict(merged.metrics),
    }
    return _write(store, folder, how, [_complete(store, n) for n in merged.members], merged.temperatures)


def _complete(store: StudyStore, number: int) -> TrialRecord:
    trials = {trial.number: trial for trial in store.trials()}
    if number not in trials:
        known = [str(trial.number) for trial in trials.values() if trial.state == COMPLETE]
        raise StudyError(f"study {store.folder.name!r} has no ended trial {number}. {suggest(str(number), known)}")
    if trials[number].state != COMPLETE:
        raise StudyError(
            f"trial {number} is {trials[number].state}, and only complete trials are exported: "
            f"`histotune leaderboard {store.folder.name}` lists them"
        )
    return trials[number]


def _threshold(store: StudyStore, probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    settings = store.settings()
    if probabilities.shape[1] != 2:
        return None
    metric = settings.metric if settings.metric in THRESHOLD_METRICS else "balanced_accuracy"
    return choose_threshold(probabilities, labels, metric=metric, positive=settings.positive)


def _write(
    store: StudyStore,
    folder: Path,
    how: Mapping[str, Any],
    members: Sequence[TrialRecord],
    temperatures: Sequence[float],
) -> Path:
    """Write the folder beside its place and move it there, whole or not at all."""
    folder = folder.absolute()
    _refuse_strangers(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
            fresh = Path(unfinished) / folder.name
            for k, member in enumerate(members):
                _copy_member(member, fresh / MEMBERS / str(k))
            told = {**how, **_facts(store), "members": _members(members, temperatures)}
            info = json.loads(json.dumps(files.without_nan(told)))  # as it will be read: the digest must not differ
            info["digest"] = content_digest(fresh, info)
            files.write_json(fresh / EXPORT, info)
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
    folder.mkdir(parents=True)
    for name in (CONFIG, CLASSES, PREPROCESSING, WEIGHTS):
        if not (member.folder / name).exists():
            raise StudyError(f"{member.folder / name} is missing: trial {member.number} cannot be exported")
        shutil.copyfile(member.folder / name, folder / name)


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
        "split": {"protocol": settings.protocol, "leaky": settings.leaky, "seed": settings.seed},
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
