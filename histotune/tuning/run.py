"""The search: Optuna proposes, Ray Tune runs, the scheduler stops, the study folder remembers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.errors import ConfigError
from histotune.metrics.scores import METRICS, check_metrics
from histotune.space import Space
from histotune.storage.study_folder import StudyFolder
from histotune.tuning.budget import Budget, Ledger
from histotune.tuning.events import Listener, Resources, SearchSummary
from histotune.tuning.warm_start import WarmStart

if TYPE_CHECKING:
    from histotune.tuning.controller import SearchController
    from histotune.tuning.remote_storage import RemoteStorage


def run(
    store: StudyFolder,
    space: Space,
    cohorts: Mapping[int, Path],
    budget: Budget,
    resources: Resources | None = None,
    *,
    sampler: str = "tpe",
    scheduler: str = "asha",
    seed: int = 0,
    listeners: Sequence[Listener] = (),
    plugins: Sequence[Path] = (),
    address: str | None = None,
    storage: str | None = None,
    opened: Callable[[Ledger], None] | None = None,
    room: Callable[[Resources, int], None] | None = None,
    start: WarmStart | None = None,
    trial_timeout: float | None = None,
    keep_models: int = 0,
) -> SearchSummary:
    """Search, from where the study stands, until the budget is spent or SIGINT or SIGTERM comes.

    Every proposal is new: a configuration that the study has is drawn again instead of trained again, and when
    hundreds of draws bring nothing new the search ends. A failed trial is a result and is not repeated, but a trial
    whose worker process died starts again from its checkpoint, three times at most.

    Args:
        store: the study, which exists.
        cohorts: {image size: folder of the prepared cohort}.
        sampler: `tpe`, `gp`, `cmaes`, `random` or `grid`.
        scheduler: `asha`, `hyperband`, `median`, `pbt` or `none`.
        seed: of the sampler.
        plugins: folders whose components the workers shall know, too.
        address: of a Ray cluster to join, `auto` or `HOST:PORT`; None starts a private Ray.
        storage: URI that all nodes reach (any that fsspec knows), where they do not see the study's folder.
        opened: is called, before the first trial runs, with the ledger that the search will keep.
        room: is called, before that, with what a trial takes and how many run at once; what it raises ends the search.
        start: what it begins with beyond the default configuration.
        trial_timeout: seconds without an epoch after which a trial's worker is killed; None goes by the longest epoch
            so far, 0 waits for ever.
        keep_models: complete trials whose weights are kept, the best ones; 0 keeps all, those of stopped trials, too.

    Raises:
        ConfigError: more resources than there are, unknown names, or a size without a cohort; before any trial.
        StudyError: another process searches in this study, no cluster answers, or the storage cannot be used.
    """
    # Optuna and Ray are imported by those who search, not by those who read a study
    from histotune.tuning.controller import SearchController
    from histotune.tuning.journal import Journal
    from histotune.tuning.pbt import PbtQueue, check_scheduler
    from histotune.tuning.proposer import Proposer, explored
    from histotune.tuning.resume import take_up
    from histotune.tuning.samplers import check_sampler
    from histotune.tuning.schedulers import PopulationBasedTraining

    resources = resources or Resources()
    if address is None:
        resources.check()
    metric, *others = check_metrics(store.settings.metrics)
    check_sampler(sampler, space, 1 + len(others))
    stopper = check_scheduler(scheduler, space, store.settings.folds)
    missing = [size for size in space.image_sizes() if size not in cohorts]
    if missing:
        raise ConfigError(f"the space asks for image sizes {missing}, but the cohort was prepared at {sorted(cohorts)}")
    better = METRICS[metric].higher_is_better
    sign, more = 1 if better else -1, [METRICS[name].higher_is_better for name in others]
    place = found(address, storage, resources, store=store, cohorts=cohorts)
    with store.lock("histotune search"), place as site:
        if room is not None:
            room(site.resources, site.at_once)
        journal = Journal(store.journal, store.folder.name, maximize=better, others=more)
        history = take_up(store, journal, stopper, metric=metric, sign=sign, others=others)
        past = journal.trials()
        proposer = Proposer(
            space,
            sampler,
            seed=seed,
            maximize=better,
            others=more,
            history=past,
            start=start,
            explored=explored(stopper, site.at_once),
        )
        queue = None
        if isinstance(stopper, PopulationBasedTraining):
            queue = PbtQueue(store, site.remote, stopper, space, seed=seed, history=past)
        controller = SearchController(
            store,
            journal,
            proposer,
            stopper,
            history,
            budget=budget,
            at_once=site.at_once,
            metric=(metric, sign),
            others=others,
            queue=queue,
            listeners=listeners,
            notes=[start.note] if start is not None and start.note else [],
            trial_timeout=trial_timeout,
            keep_models=keep_models,
        )
        if opened is not None:
            opened(history.ledger)
        if not controller.over():
            run_at(site, controller, store=store, cohorts=cohorts, plugins=plugins, keep=stopper.turns)
        controller.deliver()
        summary = controller.summary()
        if queue is not None and not summary.unfinished:
            queue.close()
        return summary


@dataclass(frozen=True)
class RunEnvironment:
    """Where trials run.

    Args:
        resources: of a trial, as they are there.
        at_once: how many trials run together.
        joined: temporary folder of this machine, where Ray is up already; None where a private one is still to start.
        remote: the storage that results travel through, where one is needed.
    """

    resources: Resources
    at_once: int
    joined: Path | None = None
    remote: RemoteStorage | None = None


@contextlib.contextmanager
def found(
    address: str | None,
    storage: str | None,
    resources: Resources,
    *,
    store: StudyFolder,
    cohorts: Mapping[int, Path],
) -> Iterator[RunEnvironment]:
    """Join the cluster at `address`, if one is given, and bring study and cohorts to the storage, if one is given.

    Raises:
        ConfigError: more resources are asked than there are, or fsspec does not know the storage.
        StudyError: no cluster answers, or the storage cannot be used.
    """
    if address is None:
        yield RunEnvironment(resources, resources.check(), remote=_supplied(storage, store, cohorts))
        return
    from histotune.tuning.ray_cluster import capacity, joined_ray

    with joined_ray(address, store.folder) as scratch:
        there = resources.on(capacity())
        yield RunEnvironment(there, there.check(capacity()), scratch, _supplied(storage, store, cohorts))


def run_at(
    site: RunEnvironment,
    controller: SearchController,
    *,
    store: StudyFolder,
    cohorts: Mapping[int, Path],
    plugins: Sequence[Path],
    keep: Sequence[int] = (),
) -> None:
    """Run the trials that the controller assigns until the search is over or a signal comes."""
    from histotune.tuning.events import Signals
    from histotune.tuning.ray_cluster import private_ray

    signals, (resources, at_once) = Signals(), (site.resources, site.at_once)
    cpus, gpus = at_once * resources.cpus_per_trial, math.ceil(at_once * resources.gpus - 1e-9)
    private = private_ray(store.folder, cpus=cpus, gpus=gpus, at_once=at_once)
    with signals.caught(), private if site.joined is None else contextlib.nullcontext(site.joined) as scratch:
        from histotune.tuning.ray_tune import drive

        signals.install()  # Ray's own SIGTERM handler exits at once
        drive(
            controller,
            signals,
            study=store.folder,
            cohorts=cohorts,
            metric=store.settings.metric,
            resources=resources,
            at_once=at_once,
            scratch=scratch,
            plugins=plugins,
            remote=site.remote,
            keep=keep,
        )


def _supplied(storage: str | None, store: StudyFolder, cohorts: Mapping[int, Path]) -> RemoteStorage | None:
    if storage is None:
        return None
    from histotune.tuning.remote_storage import RemoteStorage

    remote = RemoteStorage.of(storage, store)
    remote.pull_all(store)
    for folder in cohorts.values():
        remote.offer_cohort(folder)
    return remote
