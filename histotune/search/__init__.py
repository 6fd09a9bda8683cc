"""The search: Optuna proposes, Ray Tune runs, the scheduler stops, the study folder remembers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.errors import ConfigError
from histotune.metrics import METRICS, check_metric
from histotune.search._events import Budget, Listener, Resources, Summary
from histotune.space import Space
from histotune.store import StudyStore

if TYPE_CHECKING:
    from histotune.search.conductor import Conductor
    from histotune.search.depot import Depot

__all__ = ["Budget", "Listener", "Resources", "Summary", "run"]


def run(
    store: StudyStore,
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
) -> Summary:
    """Search, from where the study stands, until the budget is spent or SIGINT or SIGTERM comes.

    Every proposal is new: a configuration that the study has is drawn again instead of trained again, and when
    hundreds of draws bring nothing new the search ends. A failed trial is a result and is not repeated, but a trial
    whose worker process died starts again from its checkpoint, three times at most.

    Args:
        store: the study, which exists.
        cohorts: {image size: folder of the prepared cohort}.
        sampler: `tpe` or `random`.
        scheduler: `asha` or `none`.
        seed: of the sampler.
        plugins: folders whose components the workers shall know, too.
        address: of a Ray cluster to join, `auto` or `HOST:PORT`; None starts a private Ray.
        storage: URI that all nodes reach (any that fsspec knows), where they do not see the study's folder.

    Raises:
        ConfigError: more resources than there are, unknown names, or a size without a cohort; before Ray starts.
        StudyError: another process searches in this study.
    """
    # Optuna and Ray are imported by those who search, not by those who read a study
    from histotune.search.conductor import Conductor
    from histotune.search.journal import Journal
    from histotune.search.resume import take_up
    from histotune.search.sampler import Proposer, build_sampler
    from histotune.search.schedule import build_scheduler

    resources = resources or Resources()
    if address is None:
        resources.check()
    metric = store.settings().metric
    check_metric(metric)
    build_sampler(sampler, seed)
    stopper = build_scheduler(scheduler, space.epochs())
    missing = [size for size in space.image_sizes() if size not in cohorts]
    if missing:
        raise ConfigError(f"the space asks for image sizes {missing}, but the cohort was prepared at {sorted(cohorts)}")
    better = METRICS[metric].higher_is_better
    sign = 1 if better else -1
    with store.lock("histotune search"), contextlib.ExitStack() as stack:
        scratch = None
        if address is not None:
            from histotune.search.cluster import capacity, joined_ray

            scratch = stack.enter_context(joined_ray(address, store))
            resources = resources.on(capacity())
        at_once = resources.check(None if scratch is None else capacity())
        depot = None if storage is None else _supplied(storage, store, cohorts)
        journal = Journal(store.journal, store.folder.name, maximize=better)
        history = take_up(store, journal, stopper, metric=metric, sign=sign)
        proposer = Proposer(space, sampler, seed=seed, maximize=better, history=journal.trials())
        conductor = Conductor(
            store,
            journal,
            proposer,
            stopper,
            history,
            budget=budget,
            at_once=at_once,
            metric=(metric, sign),
            listeners=listeners,
        )
        if not conductor.over():
            _drive(conductor, store, cohorts, resources, at_once, plugins, scratch, depot)
        conductor.deliver()
        return conductor.summary()


def _supplied(storage: str, store: StudyStore, cohorts: Mapping[int, Path]) -> Depot:
    from histotune.search.depot import Depot

    depot = Depot.of(storage, store)
    depot.pull_all(store)
    for folder in cohorts.values():
        depot.offer_cohort(folder)
    return depot


def _drive(
    conductor: Conductor,
    store: StudyStore,
    cohorts: Mapping[int, Path],
    resources: Resources,
    at_once: int,
    plugins: Sequence[Path],
    joined: Path | None,
    depot: Depot | None,
) -> None:
    from histotune.search._signals import Signals
    from histotune.search.cluster import private_ray

    signals = Signals()
    cpus, gpus = at_once * resources.cpus_per_trial, math.ceil(at_once * resources.gpus - 1e-9)
    private = private_ray(store, cpus=cpus, gpus=gpus, at_once=at_once)
    with signals.caught(), private if joined is None else contextlib.nullcontext(joined) as scratch:
        from histotune.search.driver import drive

        signals.install()  # Ray's own SIGTERM handler exits at once
        drive(
            conductor,
            signals,
            study=store.folder,
            cohorts=cohorts,
            metric=store.settings().metric,
            resources=resources,
            scratch=scratch,
            plugins=plugins,
            depot=depot,
        )
