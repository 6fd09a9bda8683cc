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
from histotune.core.progress import Message
from histotune.core.runtime import Places
from histotune.errors import ConfigError, StudyError
from histotune.metrics.scores import direction
from histotune.reproductions.papers import Reproduction, Scale, Setting
from histotune.space import Fixed, Space, load_space
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import COMPLETE, StudyFolder

Trainings = Mapping[str, Sequence[TrialConfig]]
"""{contender: its configurations}."""


@dataclass(frozen=True)
class ReproductionRequest:
    """A reproduction as it was called.

    Attributes:
        name, on: of the reproduction and its setting.
        spent: what the budget is called.
        place: of studies and prepared cohorts.
        data: where the data of the trainings are, or None.
        say: hears a line per training.
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
    say: Message

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""
        return TrialConfig.from_dict(self.space.default()).image_size

    def stores(self) -> dict[str, StudyFolder]:
        """Return the study of every imbalance of the training part."""
        name = f"{self.name}-{self.setting.trained_as or self.on}-{self.protocol}-{self.spent}"
        several = len(self.setting.imbalances) > 1
        return {
            arm: StudyFolder(self.place.runs / (f"{name}-{arm.replace(':', '-')}" if several else name))
            for arm in self.setting.arms(self.scale)
        }


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
        fix = (f"epochs={scale.epochs}",)
        searched = {
            label: candidates(setting.space, [*fix, *narrowing], scale.trials, label)
            for label, narrowing in reproduction.contenders.items()
            if label in (setting.contenders or reproduction.contenders)
        }
        whole = load_space(setting.space, fix=fix)
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


def train(line_up: LineUp, store: StudyFolder, said: Message, **how: Any) -> dict[str, list[TrialRecord]]:
    """Train what is missing, and return the trainings of each contender's best configuration, one per seed.

    Args:
        store: of the study, which may not exist yet.
        said: hears a line per training.
        how: what else `jobs.search` takes.

    Raises:
        StudyError: all trainings of a contender failed, or the search stopped for failures.
        KeyboardInterrupt: it was interrupted; the same call goes on.
    """
    lines, searched = Lines(line_up, said), [line_up.searched] if line_up.searches else []
    if searched:
        _run(line_up, store, searched, lines, **how)
    best = choose(line_up, store)
    for label, config in best.items() if searched else ():
        said(f"{label}: {describe(config)} is the best of {len(line_up.searched[label])}")
    seeded = line_up.seeded(best)
    _run(line_up, store, [*searched, seeded], lines, keep_models=0, **how)
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
    """Says a line when a training ends, and how long the rest will take."""

    def __init__(self, line_up: LineUp, said: Message) -> None:
        self._said, self._size, self._metric = said, line_up.size(), line_up.metric
        self._labels = {config.digest(): label for label, configs in line_up.searched.items() for config in configs}
        self._began, self._fresh, self._done = 0.0, 0, 0

    def take_up(self, done: int) -> None:
        """Hear how many trainings had ended before."""
        self._done = done

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear that a training runs."""
        self._began = self._began or time.monotonic()

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Hear of an epoch."""

    def ended(self, record: TrialRecord) -> None:
        """Say what a training reached."""
        self._fresh, self._done = self._fresh + 1, self._done + 1
        config = TrialConfig.from_dict(record.config())
        label = self._labels.get(replace(config, seed=0).digest(), "the space's default")
        what = f"seed {config.seed}" if config.seed else "search"
        reached = f"{self._metric} {record.metrics[self._metric]:.3f}" if record.state == COMPLETE else record.reason
        left = (self._size - self._done) * (time.monotonic() - self._began) / self._fresh / 60
        self._said(
            f"[{self._done}/{self._size}] {what}, {label}: {describe(config)}: {reached}, "
            f"{record.seconds:.0f} s; about {math.ceil(left)} min left"
        )


def _run(line_up: LineUp, store: StudyFolder, parts: Sequence[Trainings], lines: Lines, **how: Any) -> None:
    """Train what is missing of the configurations, contender by contender in turn."""
    rows = (row for part in parts for row in itertools.zip_longest(*part.values()))
    configs = {config.digest(): config for row in rows for config in row if config is not None}
    done = _ended(store).keys() & configs.keys()
    lines.take_up(len(done))
    if len(done) == len(configs):
        return
    with tempfile.TemporaryDirectory() as folder:
        starts = [Path(folder) / f"{place:05d}.yaml" for place in range(len(configs))]
        for path, config in zip(starts, configs.values(), strict=True):
            files.write_text(path, yaml.safe_dump(config.to_dict()))
        study = search(
            line_up.space,
            fix=line_up.fix,
            study=store.folder.name,
            trials=len(configs.keys() | {line_up.default.digest()}),
            start_with=starts,
            sampler="random",
            scheduler="none",
            listeners=[lines],
            **how,
        )
    if study.summary is not None and study.summary.reason == "interrupted":
        raise KeyboardInterrupt
    missing = configs.keys() - _ended(store).keys()
    if missing:
        raise StudyError(f"{len(missing)} trainings are missing: {study.summary.message if study.summary else ''}")


def _ended(store: StudyFolder) -> dict[str, TrialRecord]:
    return {record.digest: record for record in store.trials()} if store.exists() else {}
