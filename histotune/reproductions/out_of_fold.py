"""The contract of a comparison out of folds: who competes on which modalities, and over which patients it is measured.

A parallel to `Reproduction`, whose contenders are searched on a validation part and measured on a sealed one: here is
no sealed part, nothing is chosen, and a seed is another deal of the folds as well as another initialisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.core import files
from histotune.core.config import Spec, TrialConfig, parse
from histotune.core.progress import Message
from histotune.errors import ConfigError, suggest
from histotune.reproductions.contract import Published, Scale, named
from histotune.space import Space

if TYPE_CHECKING:
    from histotune.reproductions.out_of_fold_measure import Compared, OutOfFoldPredictions
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from histotune.core.progress import Progress
from histotune.core.runtime import Places
from histotune.data.splits import KFOLD, TrainingData
from histotune.errors import StudyError
from histotune.reproductions.out_of_fold_measure import OutOfFoldPredictions
from histotune.storage.records import TrialRecord, read_record
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.studies.controls import STRENGTHS, fit_linear
from histotune.studies.create import StudyRequest, begin
from histotune.tracking.tracker import MlflowTracker
from histotune.training.loop import run_trial


@dataclass(frozen=True)
class Contender:
    """A network of some branches of the setting's space.

    Args:
        branches: their names there.
        fusion: what joins them.
        modality_dropout: as a configuration has it.
        complete: train on those patients alone who have every modality of the branches, and drop the others.
    """

    branches: Sequence[str]
    fusion: Spec = field(default_factory=lambda: Spec("none"))
    modality_dropout: float = 0.0
    complete: bool = False

    def config(self, space: Space, *, epochs: int, seed: int) -> TrialConfig:
        """Return the configuration: the space's default in all but what is said here.

        Raises:
            ConfigError: the space has no such branch.
        """
        default = space.default()
        known = default["model"]["branches"]
        for name in self.branches:
            if name not in known:
                raise ConfigError(f"space {space.name!r} has no branch {name!r}. {suggest(name, known)}")
        model = default["model"] | {
            "branches": {name: known[name] for name in self.branches},
            "fusion": {"name": self.fusion.name, **self.fusion.params},
            "modality_dropout": self.modality_dropout,
        }
        return TrialConfig.from_dict(default | {"model": model, "epochs": epochs, "seed": seed})


@dataclass(frozen=True)
class FoldedSetting:
    """Data on which contenders are compared.

    Args:
        space: shipped search space with folds and the split `patient_kfold`; its default is what is trained.
        budgets: {name of a budget: what it spends}; a trial per contender and seed.
        contenders: {row: network}.
        singles: those of one modality among which the best is the reference; none that reads its own label.
        patients: modalities that the patients have over whom all are compared.
        means: {row: contenders whose probabilities are averaged}.
        linear: {row: modalities of a linear control}.
        tuned: the same, with the strength of its penalty chosen inside the training part of every fold.
        controls: rows of `linear` and `tuned` with which all rows are compared, too.
        marked: {row: why it is not compared with the others}.
        pairs: {what is changed: [row with it, row without]}, compared over the same patients.
        paper: {what: how the paper had it} of what differs here.
        published: {row: what the paper prints of the same metric}.
        printed: {method: what the paper prints of it in other metrics}, in words.
        notes: what else a reader of the tables must know.
    """

    space: str
    budgets: Mapping[str, Scale]
    contenders: Mapping[str, Contender]
    singles: Sequence[str]
    patients: Sequence[str]
    means: Mapping[str, Sequence[str]] = field(default_factory=dict)
    linear: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tuned: Mapping[str, Sequence[str]] = field(default_factory=dict)
    controls: Sequence[str] = ()
    marked: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    paper: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)
    printed: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse rows that name a row that is not there."""
        averaged = [name for names in self.means.values() for name in names]
        paired = [name for pair in self.pairs.values() for name in pair]
        for names, known in (
            ((*self.singles, *averaged), list(self.contenders)),
            (self.controls, [*self.linear, *self.tuned]),
            ((*self.marked, *paired), self.rows()),
        ):
            for name in names:
                if name not in known:
                    raise ConfigError(f"there is no row {name!r} to refer to. {suggest(name, known)}")

    def scale(self, budget: str) -> Scale:
        """Return what a budget spends.

        Raises:
            ConfigError: there is none of that name; the nearest is offered.
        """
        return named(budget, self.budgets, "unknown budget")

    def rows(self) -> list[str]:
        """Return every row that is trained, fitted or averaged, in the order of the tables."""
        return [*self.contenders, *self.means, *self.linear, *self.tuned]


@dataclass(frozen=True)
class OutOfFold:
    """A paper's comparison, out of folds.

    Args:
        title: the paper in a line.
        settings: {what `--on` takes: setting}.
        compare: makes tables, sections and pictures of what every patient was given out of folds.
    """

    title: str
    settings: Mapping[str, FoldedSetting]
    compare: Callable[[OutOfFoldPredictions, FoldedSetting], Compared]

    def setting(self, on: str) -> FoldedSetting:
        """Return the setting called `on`.

        Raises:
            ConfigError: there is none; the nearest is offered.
        """
        return named(on, self.settings, "nothing to reproduce on")


def read_folded_settings(path: Path) -> dict[str, FoldedSetting]:
    """Read the settings of a comparison out of folds from a YAML file; what begins with `_` is there to be merged.

    Raises:
        ConfigError: a key that is no field, or a row that is not there.
    """
    written = files.read_yaml(path)
    return {on: parse(FoldedSetting, v, f"{path.name}: {on}") for on, v in written.items() if not on.startswith("_")}


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
