"""A reproduction as it was called, and the studies that it has.

Train a line-up: the same number of configurations of every contender, then the best of each with every seed.

All of it is one study: one split, one seal, one journal, so that it goes on where it stood however it was left. Which
configurations are searched is known beforehand: a contender's published values, then others drawn at random from its
ranges. No trial is stopped early, and every contender gets the same number of trials and epochs.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from histotune.api import search
from histotune.core import files
from histotune.core.config import Spec, TrialConfig
from histotune.core.progress import Message, Progress
from histotune.core.runtime import Places
from histotune.errors import ConfigError, StudyError
from histotune.metrics.scores import direction
from histotune.reproductions.papers import Reproduction, Scale, Setting
from histotune.space import Fixed, Space, as_begun, load_space
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.tuning.retention import KEEP

Trainings = Mapping[str, Sequence[TrialConfig]]
"""{contender: its configurations}."""


@dataclass(frozen=True)
class ReproductionRequest:
    """A reproduction as it was called.

    Attributes:
        name, on: of the reproduction and its setting.
        spent: what the budget is called.
        place: of studies and prepared cohorts.
        data: where the data of the trainings are, or None; `external_data` those that a setting measures on.
        say: is called with a line per training; `progress` with how far preparations are.
        command: for the record of the opening of the seal.
        tracking_uri: of an MLflow server, or None.
    """

    name: str
    on: str
    reproduction: Reproduction
    setting: Setting
    scale: Scale
    spent: str
    line_up: LineUp
    space: Space
    protocol: str
    place: Places
    data: str | os.PathLike[str] | None
    external_data: str | os.PathLike[str] | None
    say: Message
    progress: Progress | None
    command: str
    tracking_uri: str | None

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""
        return TrialConfig.from_dict(self.space.default()).image_size

    def store(self, *further: str) -> StudyFolder:
        """Return the folder of a study; `further` tells the studies of one request apart.

        A study of 0.2 or earlier, whose contender `late` was `mean_embedding`, stays as it is: a new one is made.
        """
        name = f"{self.name}-{self.setting.trained_as or self.on}-{self.protocol}-{self.spent}"
        result = StudyFolder.named("-".join([name, *further]), self.place.runs)
        if result.exists() and as_begun(self.space, result.settings.space) is not self.space:
            return StudyFolder.named("-".join([name, *further, "late"]), self.place.runs)
        return result

    def facts(self) -> dict[str, Any]:
        """Return how it was called, for programs."""
        facts = {"reproduction": self.name, "on": self.on, "protocol": self.protocol, "budget": self.spent}
        return {**facts, "seeds": self.scale.seeds}


@dataclass(frozen=True)
class LineUp:
    """What is trained.

    Attributes:
        space: name of the search space, whose epochs `fix` sets.
        metric: by which the best configuration is chosen.
        searched: configurations of the search, all with seed 0, the published one first.
        seeds: of the trainings after the search; 0 is not among them, so that no seed had a part in the choice.

    With one configuration for each contender there is nothing to choose, and the search is left out. The space's
    default is always trained, too: a search begins with it.
    """

    space: str
    metric: str
    fix: tuple[str, ...]
    default: TrialConfig
    searched: Trainings
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, reproduction: Reproduction, setting: Setting, scale: Scale) -> LineUp:
        """Choose the configurations to search.

        Raises:
            ConfigError: a contender has fewer configurations than every one shall get.
        """
        fix = () if setting.networks else (f"epochs={scale.epochs}",)
        whole = load_space(setting.space, fix=fix)
        searched = {
            label: candidates(setting.space, [*fix, *narrowing], scale.trials, label)
            for label, narrowing in reproduction.contenders.items()
            if label in (setting.contenders or reproduction.contenders)
        }
        for row, network in setting.networks.items():
            searched[row] = [network.config(whole, epochs=scale.epochs, seed=0)]
        default = TrialConfig.from_dict(whole.default())
        return cls(setting.space, whole.metric, fix, default, searched, tuple(range(1, scale.seeds + 1)))

    @property
    def searches(self) -> bool:
        """Whether any contender has a choice."""
        return any(len(configs) > 1 for configs in self.searched.values())

    def seeded(self, best: Mapping[str, TrialConfig]) -> Trainings:
        """Return the configuration of each contender with every seed."""
        return {label: [replace(config, seed=seed) for seed in self.seeds] for label, config in best.items()}

    def size(self) -> int:
        """Return how many trainings there are in all, when every contender's first configuration is its best."""
        first = {label: configs[0] for label, configs in self.searched.items()}
        parts = [self.seeded(first), *([self.searched] if self.searches else [])]
        every = {config.digest() for part in parts for configs in part.values() for config in configs}
        return len(every | {self.default.digest()})


def candidates(space: str, narrowing: Sequence[str], count: int, label: str = "") -> list[TrialConfig]:
    """Return `count` configurations of the narrowed space with seed 0: its default, then others at random.

    The same ones on every machine; a larger count begins with those of a smaller one.

    Raises:
        ConfigError: there are not as many.
    """
    narrowed = load_space(space, fix=[*narrowing, "seed=0"])
    result: dict[str, TrialConfig] = {}
    combinations = list(narrowed.combinations())
    order = np.random.default_rng(0).permutation(len(combinations))
    for values in [narrowed.default_parameters(), *(combinations[place] for place in order)]:
        config = TrialConfig.from_dict(narrowed.suggest(Fixed(values)))
        result.setdefault(config.digest(), config)
        if len(result) == count:
            return list(result.values())
    raise ConfigError(
        f"{label or narrowing}: {count} trials asked of every contender, but it has {len(result)} configurations only: "
        "ask for fewer trials"
    )


def train(request: ReproductionRequest, store: StudyFolder, imbalance: str) -> dict[str, list[TrialRecord]]:
    """Train what is missing, and return the trainings of each contender's best configuration, one per seed.

    Args:
        store: of the study, which may not exist yet.

    Raises:
        StudyError: all trainings of a contender failed, or the search stopped for failures.
        KeyboardInterrupt: it was interrupted; the same call goes on.
    """
    line_up = request.line_up
    lines, searched = SearchLines(line_up, request.say), [line_up.searched] if line_up.searches else []
    if searched:
        _run(request, store, imbalance, searched, lines)
    best = choose(line_up, store)
    for label, config in best.items() if searched else ():
        request.say(f"{label}: {describe(config)} is the best of {len(line_up.searched[label])}")
    seeded = line_up.seeded(best)
    _run(request, store, imbalance, [*searched, seeded], lines, keep_models=0)
    ended = _ended(store)
    complete = {
        label: [ended[config.digest()] for config in configs if ended[config.digest()].state == COMPLETE]
        for label, configs in seeded.items()
    }
    for label, records in complete.items():
        if not records:
            raise StudyError(f"no training of {label} with its best configuration is complete: see {store.folder}")
    return complete


def choose(line_up: LineUp, store: StudyFolder) -> dict[str, TrialConfig]:
    """Return each contender's best configuration by the study's metric on the validation part; the earliest of equals.

    Raises:
        StudyError: none of a contender is complete.
    """
    if not line_up.searches:
        return {label: configs[0] for label, configs in line_up.searched.items()}
    ended, metric = _ended(store), store.settings.metric
    best = {}
    for label, configs in line_up.searched.items():
        values = [ended[config.digest()].metrics.get(metric, float("nan")) for config in configs]
        known = [(direction(metric) * value, -place) for place, value in enumerate(values) if value == value]
        if not known:
            raise StudyError(f"no trial of {label} is complete, so it has no best configuration: see {store.folder}")
        best[label] = configs[-max(known)[1]]
    return best


def describe(config: TrialConfig) -> str:
    """Name a loss with its parameters, as in "arcface (scale 30, margin 0.5, beta 0.999)", and what joins branches."""
    parts = [config.loss]
    if len(config.model.branches) > 1:
        parts = [config.model.fusion, *(s for s in [config.model.redundancy] if s.name != "none"), config.loss]
    return ", ".join(map(_described, parts))


def _described(spec: Spec) -> str:
    params = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in spec.params.items())
    return f"{spec.name} ({params})" if params else spec.name


class Lines:
    """Writes a line when a training ends, with how long the rest will take."""

    def __init__(self, size: int, say: Message) -> None:
        self.done = 0
        self._say, self._size, self._fresh, self._began = say, size, 0, 0.0

    def begin(self) -> None:
        """Start the clock, with the first training."""
        self._began = self._began or time.monotonic()

    def write(self, text: str) -> None:
        """Write what a training reached."""
        self._fresh, self.done = self._fresh + 1, self.done + 1
        left = (self._size - self.done) * (time.monotonic() - self._began) / self._fresh / 60
        self._say(f"[{self.done}/{self._size}] {text}; about {math.ceil(left)} min left")


class SearchLines(Lines):
    """The lines of a search: it listens to one."""

    def __init__(self, line_up: LineUp, say: Message) -> None:
        super().__init__(line_up.size(), say)
        self._metric = line_up.metric
        self._labels = {config.digest(): label for label, configs in line_up.searched.items() for config in configs}

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        """A training runs."""
        self.begin()

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch ended."""

    def ended(self, record: TrialRecord) -> None:
        """Write what a training reached."""
        config = TrialConfig.from_dict(record.config())
        label = self._labels.get(replace(config, seed=0).digest(), "default configuration")
        what = f"seed {config.seed}" if config.seed else "search"
        reached = f"{self._metric} {record.metrics[self._metric]:.3f}" if record.state == COMPLETE else record.reason
        self.write(f"{what}, {label}: {describe(config)}: {reached}, {record.seconds:.0f} s")


def _run(
    request: ReproductionRequest,
    store: StudyFolder,
    imbalance: str,
    parts: Sequence[Trainings],
    lines: SearchLines,
    keep_models: int = KEEP,
) -> None:
    """Train what is missing of the configurations, contender by contender in turn."""
    rows = (row for part in parts for row in itertools.zip_longest(*part.values()))
    configs = {config.digest(): config for row in rows for config in row if config is not None}
    done = _ended(store).keys() & configs.keys()
    lines.done = len(done)
    if len(done) == len(configs):
        return
    with tempfile.TemporaryDirectory() as folder:
        starts = [Path(folder) / f"{place:05d}.yaml" for place in range(len(configs))]
        for path, config in zip(starts, configs.values(), strict=True):
            files.write_text(path, yaml.safe_dump(config.to_dict()))
        study = search(
            request.line_up.space,
            fix=request.line_up.fix,
            study=store.folder.name,
            trials=len(configs.keys() | {request.line_up.default.digest()}),
            start_with=starts,
            sampler="random",
            scheduler="none",
            listeners=[lines],
            data=request.data,
            protocol=request.protocol,
            imbalance=imbalance,
            training_cases=request.scale.cases,
            runs=request.place.runs,
            cache=request.place.cache,
            tracking_uri=request.tracking_uri,
            progress=request.progress,
            keep_models=keep_models,
        )
    if study.summary is not None and study.summary.reason == "interrupted":
        raise KeyboardInterrupt
    missing = configs.keys() - _ended(store).keys()
    if missing:
        raise StudyError(f"{len(missing)} trainings are missing: {study.summary.message if study.summary else ''}")


def _ended(store: StudyFolder) -> dict[str, TrialRecord]:
    return {record.digest: record for record in store.trials()} if store.exists() else {}
