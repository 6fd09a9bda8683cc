"""Search a space for its best configuration, or train one: studies begun or continued."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from histotune.core.config import TrialConfig
from histotune.core.progress import Message, Progress, silent
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.errors import StudyInUse
from histotune.exports.mlflow_registry import log_models
from histotune.space import Space, check_config, set_values
from histotune.space.presets import starting_point
from histotune.storage.records import TrialRecord, read_record
from histotune.storage.study_folder import StudyFolder
from histotune.studies.audit import line as audit_line
from histotune.studies.create import StudyRequest, begin, check_request, kinds_of, open_space, study_cohort
from histotune.studies.disk import preflight
from histotune.studies.options import SearchOptions, StudyProtocol
from histotune.tracking.tracker import MlflowTracker
from histotune.training.loop import run_trial
from histotune.training.memory import total_memory
from histotune.training.session import shapes
from histotune.tuning.events import Resources, SearchSummary
from histotune.tuning.failures import HangDetector
from histotune.tuning.follower import follow
from histotune.tuning.options import Callbacks
from histotune.tuning.pbt import check_scheduler
from histotune.tuning.ray_cluster import head_of
from histotune.tuning.run import run as run_search
from histotune.tuning.samplers import check_sampler
from histotune.tuning.schedulers import PopulationBasedTraining
from histotune.tuning.warm_start import begin_with, read_starts


def search(
    space: str | Path, options: SearchOptions, callbacks: Callbacks = Callbacks()
) -> tuple[StudyFolder, SearchSummary]:
    """Search a space for its best configuration; the same call again continues the study where it stood.

    Args:
        space: a shipped search space's name or a YAML file.

    Returns:
        The study, and how the search ended.

    Raises:
        HistotuneError: anything a person can mend, found before the first trial starts where it can be.
    """
    budget, sampling, cluster, places = options.budget, options.sampling, options.cluster, options.places
    if cluster.address is None:
        options.resources.check()
    HangDetector(sampling.trial_timeout)
    loaded = open_space(space, options, callbacks.progress)
    request = StudyRequest(loaded, options.data, **vars(options.protocol))
    check_sampler(sampling.sampler, loaded, len(request.metrics))  # here and below: refused before data are prepared
    check_scheduler(sampling.scheduler, loaded, request.dealt[0])
    first = read_starts(options.start_with, loaded)
    other = None if options.warm_start is None else StudyFolder.find(options.warm_start, places.runs)
    if cluster.address is not None:
        head_of(cluster.address)
    present = StudyFolder.named(loaded.name if options.study is None else options.study, places.runs)
    while True:
        if options.join and present.exists() and (holder := present.holder()):
            callbacks.message(f"looking on, and taking over what is left: {holder}")
            budget = budget.after(follow(present, budget, callbacks.listeners, callbacks.started))
            callbacks = replace(callbacks, progress=silent)  # they are past that
        try:
            new = not present.exists()
            store, prepared = begin(request, options.study, places, callbacks.progress)
            for line in [*(_about(store.settings.facts) if new else []), audit_line(store)]:
                callbacks.message(line)
            start = begin_with(store, loaded, first, other)
            tracker = MlflowTracker(store, places.runs, uri=options.tracking_uri)
            tracker.mirror()
            summary = run_search(
                store,
                loaded,
                {size: cohort.folder for size, cohort in prepared.items()},
                budget,
                options.resources,
                sampling=sampling,
                cluster=cluster,
                callbacks=replace(callbacks, listeners=[tracker, *callbacks.listeners]),
                room=functools.partial(_check_room, store, loaded, options, callbacks.message, prepared),
                start=start,
            )
            break
        except StudyInUse:  # somebody was faster: look on to them
            if not options.join:
                raise
    tracker.finish()
    if summary.reason != "interrupted":  # who presses Ctrl-C does not wait for models to be copied
        log_models(tracker)
    return store, summary


def _about(facts: Mapping[str, Any]) -> list[str]:
    """Return what to say of data when a study of them begins: what their reader reports, and what it left out."""
    counts = [f"{count} {kind}" for kind, count in (facts.get("left_out") or {}).items() if count]
    return [*facts.get("report", []), *([f"files left out: {', '.join(counts)}"] if counts else [])]


def _check_room(
    store: StudyFolder,
    space: Space,
    options: SearchOptions,
    message: Message,
    prepared: Mapping[int, Cohort],
    resources: Resources,
    at_once: int,
) -> None:
    """Refuse a search for which disk or memory do not suffice; else say what it will need, and what there is."""
    total, sampling = options.budget.trials, options.sampling
    left = None if total is None else total - len(store.trials())
    if left is not None and left <= 0:
        return
    cpus, gpus = at_once * resources.cpus_per_trial, at_once * resources.gpus
    config = TrialConfig.from_dict(space.default())
    memory = None if options.cluster.address is not None else total_memory()
    turns = check_scheduler(sampling.scheduler, space, store.settings.folds).turns
    line = preflight(
        store,
        config,
        trials=left,
        at_once=at_once,
        checkpoints=at_once + len(turns) * PopulationBasedTraining.KEPT,
        keep=sampling.keep_models,
        cpus=cpus,
        gpus=gpus,
        memory=memory,
        given=shapes(config, store.training_data(prepared[config.image_size])),
    )
    message(f"{'trials' if left is None else f'{left} trials'}, {line}")


def train(
    space: str | Path | None,
    assignments: Sequence[str],
    *,
    preset: str | Path | None = None,
    data: str | os.PathLike[str] | None = None,
    study: str | None = None,
    protocol: StudyProtocol = StudyProtocol(),
    places: Places,
    progress: Progress = silent,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrialRecord:
    """Train one configuration on the study's own split, without a search and without Ray.

    Args:
        space: a shipped search space's name or a YAML file, whose study this joins; None takes the preset's.
        assignments: "PATH=VALUE" over the preset, or over the default configuration.
        preset: a shipped preset's name or a YAML file.
        report: is called with each epoch and its metrics.

    Returns:
        The record of the training; the same configuration is not trained twice.
    """
    kinds = functools.partial(kinds_of, data=data, places=places, study=study, progress=progress)
    loaded, start = starting_point(space, preset, kinds)
    config = TrialConfig.from_dict(set_values(start.config, assignments))
    check_config(config)
    store = StudyFolder.named(loaded.name if study is None else study, places.runs)
    split, imbalance = protocol.protocol or start.protocol, protocol.imbalance or start.imbalance
    request = StudyRequest(loaded, data, **vars(replace(protocol, protocol=split, imbalance=imbalance)))
    if store.exists():
        check_request(store, request)
    else:
        begin(request, study, places, progress)
    cohort = study_cohort(store, places, config.image_size, data)
    folder = store.singles / config.digest()
    result = read_record(folder)
    if result is not None and result.state == "complete":
        return result
    return run_trial(config, store.training_data(cohort), folder, report, metric=store.settings.metric)
