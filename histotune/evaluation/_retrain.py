"""Train contenders again, what is missing of it: seed by seed, so that an early end leaves whole seeds."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core.config import TrialConfig
from histotune.core.progress import Message
from histotune.core.registry import PLUGINS
from histotune.data.cohort import load
from histotune.errors import StudyError, TrialFailed
from histotune.evaluation._contenders import Candidate
from histotune.evaluation._outer_folds import Outer
from histotune.storage import layout
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.training.trial_folder import ended, fail
from histotune.tuning.events import Resources

TrainingsByCandidate = Mapping[str, Sequence[TrialRecord]]
"""{contender: its record for every seed}; where a training failed, that record alone."""
RetrainJob = Mapping[str, Any]
"""What `Outer.train` takes: `config`, its seed among it, and `folder`."""


@dataclass(frozen=True)
class Crew:
    """How trainings are run.

    Args:
        run: trains jobs and yields (job, record) as they end; it takes the next job when a worker is free.
        at_once: how many jobs run together.
    """

    run: Callable[[Iterable[RetrainJob]], Iterator[tuple[RetrainJob, TrialRecord]]]
    at_once: int = 1


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Args:
        outers: by image size.
        seeds: fresh ones.
        folder: of these outer folds.
    """

    chosen: Sequence[Candidate]
    outers: Mapping[int, Outer]
    seeds: Sequence[int]
    folder: Path

    def job(self, one: Candidate, seed: int) -> RetrainJob:
        """Return the training of a contender with a seed."""
        return {
            "config": replace(one.config, seed=seed),
            "folder": self.folder / one.config.digest() / f"seed-{seed}",
        }

    def jobs(self) -> list[tuple[Candidate, int, RetrainJob]]:
        """Return every training, seed by seed."""
        return [(one, seed, self.job(one, seed)) for seed in self.seeds for one in self.chosen]

    def missing(self) -> list[Candidate]:
        """Return the contender of every training that is left, those that failed in an earlier call among them."""
        return [one for one, _, job in self.jobs() if _complete(job) is None]


@contextlib.contextmanager
def crew(plan: Plan, owner: Path, resources: Resources | None, address: str | None) -> Iterator[Crew]:
    """Yield how to train: idle where nothing is missing, in this process without `resources`, else in workers of Ray.

    Args:
        owner: folder that the caller holds the lock of.

    Raises:
        ConfigError: more resources than there are.
        StudyError: Ray does not start, or no cluster answers.
    """

    def here(jobs: Iterable[RetrainJob]) -> Iterator[tuple[RetrainJob, TrialRecord]]:
        for job in jobs:
            yield job, plan.outers[job["config"].image_size].train(**job)

    if resources is None or not plan.missing():
        yield Crew(here)
        return
    from histotune.tuning.ray_pool import Died, workers

    some = next(iter(plan.outers.values()))
    places = {size: outer.cohort.folder.absolute() for size, outer in plan.outers.items()}
    work = functools.partial(train_there, some.store.folder.absolute(), places, some.folds)
    with workers(owner, resources, address=address, plugins=PLUGINS) as pool:

        def there(jobs: Iterable[RetrainJob]) -> Iterator[tuple[RetrainJob, TrialRecord]]:
            for job, result in pool.run(work, jobs):
                if isinstance(result, Died):
                    failure = TrialFailed("killed", result.reason)
                    result = fail(job["folder"], failure, config=job["config"].to_dict())
                yield job, result

        yield Crew(there, pool.at_once)


def train_there(
    study: Path, cohorts: Mapping[int, Path], folds: int, config: TrialConfig, folder: Path, share: float
) -> TrialRecord:
    """Train in a worker, which knows no more than where study and cohorts lie."""
    return _outer(study, cohorts[config.image_size], folds).train(config, folder, share=share)


@functools.cache
def _outer(study: Path, cohort: Path, folds: int) -> Outer:
    for place, what in ((study / layout.STUDY, f"the study {study}"), (cohort, f"the prepared cohort {cohort}")):
        if not place.exists():
            raise StudyError(f"a node cannot read {what}: put --runs and --cache where all nodes can read them")
    return Outer(StudyFolder(study), load(cohort), folds)


def train_again(plan: Plan, crew: Crew, say: Message) -> dict[str, list[TrialRecord]]:
    """Train what is missing, and say how far it is: a line before the first training and after each."""
    lines = _Lines(plan, crew.at_once, say)
    result: dict[tuple[str, int], TrialRecord] = {}
    failed: dict[str, TrialRecord] = {}
    of = {job["folder"]: (one.name, seed) for one, seed, job in plan.jobs()}

    def jobs() -> Iterator[RetrainJob]:
        for one, seed, job in plan.jobs():
            if one.name in failed:
                lines.left -= 1
            elif (record := _complete(job)) is not None:
                result[one.name, seed] = record
                lines.left -= 1
            else:
                yield job

    for job, record in crew.run(jobs()):
        name, seed = of[job["folder"]]
        if record.state == COMPLETE:
            result[name, seed] = record
        else:
            failed.setdefault(name, record)
        lines.ended(name, plan.seeds.index(seed) + 1, record)
    return {
        one.name: [failed[one.name]] if one.name in failed else [result[one.name, seed] for seed in plan.seeds]
        for one in plan.chosen
    }


def _complete(job: RetrainJob) -> TrialRecord | None:
    """Return the record of a training that ended complete; the record of one that failed goes, to be tried again."""
    record = ended(job["folder"], job["config"])
    return record if record is not None and record.state == COMPLETE else None


class _Lines:
    """Reports progress.

    Attributes:
        left: trainings that have neither ended nor turned out to be done.
    """

    def __init__(self, plan: Plan, at_once: int, say: Message) -> None:
        some, missing = next(iter(plan.outers.values())), plan.missing()
        self.size = self.left = len(plan.chosen) * len(plan.seeds)
        self._metric, self._say = some.settings.metric, say
        self._began, self._fresh = time.monotonic(), 0
        done = f", {(self.size - len(missing)) * some.folds} of them done" if len(missing) < self.size else ""
        together = f", {at_once} at once" if at_once > 1 else ""
        say(
            f"confirming {len(plan.chosen)} configuration{'s' * (len(plan.chosen) > 1)} with {len(plan.seeds)} seeds x "
            f"{some.folds} outer folds: {self.size * some.folds} trainings{done}{together}, each on "
            f"{some.trained_on:.0%} of the development cases{_estimate(missing, some, at_once)}"
        )

    def ended(self, name: str, number: int, record: TrialRecord) -> None:
        """Say how a training ended."""
        self._fresh += 1
        self.left -= 1
        minutes = math.ceil(self.left * (time.monotonic() - self._began) / self._fresh / 60)
        complete = record.state == COMPLETE
        result = f"{self._metric} {record.metrics[self._metric]:.4f}" if complete else f"failed: {record.reason}"
        left = f"; about {minutes} min left" if self.left else ""
        self._say(
            f"[{self.size - self.left}/{self.size}] seed {number}, {name}: {result}, {record.seconds:.0f} s{left}"
        )


def _estimate(missing: Sequence[Candidate], outer: Outer, at_once: int) -> str:
    """Say how long what is missing takes, going by what the trials of the search took."""
    settings = outer.settings
    networks_of_trial = max(settings.folds, 1) * settings.repeats
    seen = 1 - 1 / settings.folds if settings.folds else 1 - outer.share
    each = [
        one.record.seconds / one.record.epochs * one.config.epochs / networks_of_trial
        for one in missing
        if one.record is not None and one.record.epochs
    ]
    minutes = np.mean(each or 0) * len(missing) * outer.folds * outer.trained_on / seen / 60 / at_once
    return f"; at the speed of the trials about {math.ceil(minutes)} min" if each else ""
