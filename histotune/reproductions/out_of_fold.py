"""A comparison out of folds as it was called, and its trainings."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from histotune.core.config import TrialConfig
from histotune.core.progress import Message, Progress
from histotune.core.runtime import Places
from histotune.data.splits import KFOLD, TrainingData
from histotune.errors import StudyError
from histotune.reproductions.out_of_fold_measure import OutOfFoldPredictions
from histotune.reproductions.papers import Contender, FoldedSetting, OutOfFold, Scale
from histotune.space import Space
from histotune.storage.records import TrialRecord, read_record
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.studies.controls import STRENGTHS, fit_linear
from histotune.studies.create import StudyRequest, begin
from histotune.tracking.tracker import MlflowTracker
from histotune.training.loop import run_trial


@dataclass(frozen=True)
class OutOfFoldRequest:
    """A comparison out of folds as it was called.

    Attributes:
        name, on: of the reproduction and its setting.
        spent: what the budget is called.
        place: of studies and prepared cohorts.
        data: where the data are, or None.
        say: hears a line per training; `progress` how far preparations are.
        tracking_uri: an MLflow that mirrors trainings and controls, or None.
    """

    name: str
    on: str
    reproduction: OutOfFold
    setting: FoldedSetting
    scale: Scale
    spent: str
    space: Space
    place: Places
    data: str | os.PathLike[str] | None
    say: Message
    progress: Progress | None = None
    tracking_uri: str | None = None

    def store(self, seed: int) -> StudyFolder:
        """Return the study of a seed."""
        return StudyFolder(self.place.runs / f"{self.name}-{self.on}-{KFOLD}-{self.spent}-seed{seed}")

    @property
    def seeds(self) -> range:
        """Seeds of folds and initialisations."""
        return range(1, self.scale.seeds + 1)


def train_out_of_fold(asked: OutOfFoldRequest) -> OutOfFoldPredictions:
    """Train and fit what is missing, and gather what every patient was given out of folds.

    Raises:
        StudyError: a training failed, or a study began otherwise.
    """
    setting, epochs = asked.setting, asked.scale.epochs
    configs = {row: one.config(asked.space, epochs=epochs, seed=0) for row, one in setting.contenders.items()}
    lines = _Lines(asked, len(configs) * asked.scale.seeds)
    result: dict[str, dict[int, TrialRecord]] = {}
    for seed in asked.seeds:
        wanted = StudyRequest(asked.space, asked.data, protocol=KFOLD, seed=seed)
        store, cohorts = begin(wanted, asked.store(seed).folder.name, asked.place, asked.progress)
        data = store.training_data(next(iter(cohorts.values())))
        with store.lock("histotune reproduce"):
            for row, config in configs.items():
                one = replace(config, seed=seed)
                result.setdefault(row, {})[seed] = lines.trained(row, seed, store, one, data, setting.contenders[row])
            for row, record in _controls(setting, store, data):
                result.setdefault(row, {})[seed] = record
        if asked.tracking_uri is not None:
            MlflowTracker(store, asked.place.runs, uri=asked.tracking_uri).mirror()
    return OutOfFoldPredictions.of(
        result, {seed: asked.store(seed) for seed in asked.seeds}, data, sorted(setting.contenders)
    )


def _controls(setting: FoldedSetting, store: StudyFolder, data: TrainingData) -> Iterator[tuple[str, TrialRecord]]:
    for row, modalities in setting.linear.items():
        yield row, fit_linear(data, store.controls / _slug(row), modalities)
    for row, modalities in setting.tuned.items():
        yield row, fit_linear(data, store.controls / _slug(row), modalities, STRENGTHS)


def _slug(row: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "_", row).strip("_")


def kept(data: TrainingData, config: TrialConfig) -> TrainingData:
    """Return the data without patients who lack a modality of the configuration: they neither train nor are scored."""
    assert data.folds is not None
    read = {branch.modality for branch in config.model.branches.values()}
    complete = np.all([data.present[name] for name in sorted(read)], axis=0)
    return replace(data, folds=np.where(complete, data.folds, 0))


class _Lines:
    """Trains, and says a line when a training ends, and how long the rest will take."""

    def __init__(self, asked: OutOfFoldRequest, size: int) -> None:
        self._asked, self._size = asked, size
        self._done, self._fresh, self._began = 0, 0, time.monotonic()

    def trained(
        self, row: str, seed: int, store: StudyFolder, config: TrialConfig, data: TrainingData, contender: Contender
    ) -> TrialRecord:
        """Return the record of a training; one that has ended is not repeated."""
        folder = (store.folder / "complete" if contender.complete else store.singles) / config.digest()
        self._done += 1
        record = _ended(folder)
        if record is not None:
            return record
        own = kept(data, config) if contender.complete else data
        record = run_trial(config, own, folder, metric=store.settings.metric, probed=False)
        if record.state != COMPLETE:
            raise StudyError(f"the training of {row!r} with seed {seed} failed: {record.reason} (see {folder})")
        self._fresh += 1
        left = (self._size - self._done) * (time.monotonic() - self._began) / self._fresh / 60
        self._asked.say(
            f"[{self._done}/{self._size}] seed {seed}, {row}: out of folds AUROC {record.out_of_fold['auroc']:.3f}, "
            f"{record.seconds:.0f} s; about {math.ceil(left)} min left"
        )
        return record


def _ended(folder: Path) -> TrialRecord | None:
    record = read_record(folder)
    return record if record is not None and record.state == COMPLETE else None
