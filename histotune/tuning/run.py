"""The search: Optuna proposes, Ray Tune runs, the scheduler stops, the study folder remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from histotune.errors import ConfigError
from histotune.metrics.scores import METRICS, check_metrics
from histotune.space import Space
from histotune.storage.study_folder import StudyStore
from histotune.tuning.budget import Budget, Ledger
from histotune.tuning.events import Listener, Resources, Summary
from histotune.tuning.warm_start import Start

__all__ = ["Budget", "Ledger", "Listener", "Resources", "Summary", "run"]


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
    opened: Callable[[Ledger], None] | None = None,
    room: Callable[[Resources, int], None] | None = None,
    start: Start | None = None,
    trial_timeout: float | None = None,
    keep_models: int = 0,
) -> Summary:
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
        opened: hears, before the first trial runs, of the ledger that the search will keep.
        room: hears, before that, what a trial takes and how many run at once; what it raises ends the search.
        start: what it begins with beyond the space's default.
        trial_timeout: seconds without an epoch after which a trial's worker is killed; None goes by the longest epoch
            so far, 0 waits for ever.
        keep_models: complete trials whose weights are kept, the best ones; 0 keeps all, those of stopped trials, too.

    Raises:
        ConfigError: more resources than there are, unknown names, or a size without a cohort; before any trial.
        StudyError: another process searches in this study, no cluster answers, or the storage cannot be used.
    """
    # Optuna and Ray are imported by those who search, not by those who read a study
    from histotune.tuning.controller import Conductor
    from histotune.tuning.journal import Journal
    from histotune.tuning.pbt import Nursery, check_scheduler
    from histotune.tuning.proposer import Proposer, explored
    from histotune.tuning.resume import take_up
    from histotune.tuning.samplers import check_sampler
    from histotune.tuning.schedulers import Population
    from histotune.tuning.site import found, run_at

    resources = resources or Resources()
    if address is None:
        resources.check()
    metric, *others = check_metrics(store.settings().metrics)
    check_sampler(sampler, space, 1 + len(others))
    stopper = check_scheduler(scheduler, space, store.settings().folds)
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
            space, sampler, seed=seed, maximize=better, others=more, history=past, start=start,
            explored=explored(stopper, site.at_once),
        )  # fmt: skip
        nursery = None
        if isinstance(stopper, Population):
            nursery = Nursery(store, site.depot, stopper, space, seed=seed, history=past)
        conductor = Conductor(
            store, journal, proposer, stopper, history, budget=budget, at_once=site.at_once, metric=(metric, sign),
            others=others, nursery=nursery, listeners=listeners,
            notes=[start.note] if start is not None and start.note else [],
            trial_timeout=trial_timeout, keep_models=keep_models,
        )  # fmt: skip
        if opened is not None:
            opened(history.ledger)
        if not conductor.over():
            run_at(site, conductor, store=store, cohorts=cohorts, plugins=plugins, keep=stopper.turns)
        conductor.deliver()
        summary = conductor.summary()
        if nursery is not None and not summary.unfinished:
            nursery.close()
        return summary
