"""The search: Optuna proposes, Ray Tune runs, the scheduler stops, the study folder remembers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.core.progress import silent
from histotune.errors import ConfigError
from histotune.metrics.scores import METRICS, check_metrics
from histotune.space import Space
from histotune.storage.study_folder import StudyFolder
from histotune.tuning.budget import Budget
from histotune.tuning.events import Resources, SearchSummary
from histotune.tuning.options import Callbacks, Cluster, RunEnvironment, Sampling
from histotune.tuning.warm_start import WarmStart

if TYPE_CHECKING:
    from histotune.tuning.controller import SearchController
    from histotune.tuning.remote_storage import RemoteStorage


def run(
    store: StudyFolder,
    space: Space,
    cohorts: Mapping[int, Path],
    budget: Budget,
    resources: Resources = Resources(),
    *,
    sampling: Sampling = Sampling(),
    cluster: Cluster = Cluster(),
    callbacks: Callbacks = Callbacks(),
    room: Callable[[Resources, int], None] = silent,
    start: WarmStart | None = None,
) -> SearchSummary:
    """Search, from where the study stands, until the budget is spent or SIGINT or SIGTERM comes.

    Every proposal is new: a configuration that the study has is drawn again instead of trained again, and when
    hundreds of draws bring nothing new the search ends. A failed trial is a result and is not repeated, but a trial
    whose worker process died starts again from its checkpoint, three times at most.

    Args:
        store: the study, which exists.
        cohorts: {image size: folder of the prepared cohort}.
        room: is called, before the first trial runs, with what a trial takes and how many run at once; what it raises
            ends the search.
        start: what it begins with beyond the default configuration.

    Raises:
        ConfigError: more resources than there are, unknown names, or a size without a cohort; before any trial.
        StudyError: another process searches in this study, no cluster answers, or the storage cannot be used.
    """
    # Optuna and Ray are imported by those who search, not by those who read a study
    from histotune.tuning.controller import Limits, SearchController
    from histotune.tuning.journal import Journal
    from histotune.tuning.pbt import PbtQueue, check_scheduler
    from histotune.tuning.proposer import Proposer, explored
    from histotune.tuning.resume import take_up
    from histotune.tuning.samplers import check_sampler
    from histotune.tuning.schedulers import PopulationBasedTraining

    if cluster.address is None:
        resources.check()
    metric, *others = check_metrics(store.settings.metrics)
    check_sampler(sampling.sampler, space, 1 + len(others))
    stopper = check_scheduler(sampling.scheduler, space, store.settings.folds)
    missing = [size for size in space.image_sizes() if size not in cohorts]
    if missing:
        raise ConfigError(f"the space asks for image sizes {missing}, but the cohort was prepared at {sorted(cohorts)}")
    better = METRICS[metric].higher_is_better
    sign, more = 1 if better else -1, [METRICS[name].higher_is_better for name in others]
    seed, environment = store.settings.seed, found(cluster, resources, store=store, cohorts=cohorts)
    with store.lock("histotune search"), environment as site:
        room(site.resources, site.at_once)
        journal = Journal(store.journal, store.folder.name, maximize=better, others=more)
        history = take_up(store, journal, stopper, metric=metric, sign=sign, others=others)
        past = journal.trials()
        proposer = Proposer(
            space,
            sampling.sampler,
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
            metrics=[metric, *others],
            limits=Limits(budget, site.at_once, sampling.trial_timeout, sampling.keep_models),
            queue=queue,
            listeners=callbacks.listeners,
        )
        if start is not None and start.note:
            controller.remark(start.note)
        callbacks.started(store, budget, history.ledger)
        if not controller.over():
            run_at(site, controller, store=store, cohorts=cohorts, plugins=cluster.plugins, keep=stopper.turns)
        controller.deliver()
        summary = controller.summary()
        if queue is not None and not summary.unfinished:
            queue.close()
        return summary


@contextlib.contextmanager
def found(
    cluster: Cluster,
    resources: Resources,
    *,
    store: StudyFolder,
    cohorts: Mapping[int, Path],
) -> Iterator[RunEnvironment]:
    """Join the cluster, if one is given, and bring study and cohorts to the storage, if one is given.

    Raises:
        ConfigError: more resources are asked than there are, or fsspec does not know the storage.
        StudyError: no cluster answers, or the storage cannot be used.
    """
    if cluster.address is None:
        yield RunEnvironment(resources, resources.check(), remote=_supplied(cluster.storage, store, cohorts))
        return
    from histotune.tuning.ray_cluster import capacity, joined_ray

    with joined_ray(cluster.address, store.folder) as scratch:
        fitted, remote = resources.on(capacity()), _supplied(cluster.storage, store, cohorts)
        yield RunEnvironment(fitted, fitted.check(capacity()), scratch, remote)


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
            site=site,
            scratch=scratch,
            plugins=plugins,
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
