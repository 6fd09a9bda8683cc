"""What a user asks for: search a space, train one configuration, evaluate an export.

The command line does nothing but parse, call what stands here and in `study`, and print.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from histotune.core.config import TrialConfig
from histotune.core.progress import Message, Progress
from histotune.core.registry import PLUGINS
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.errors import StudyInUse
from histotune.exports.mlflow_registry import log_models
from histotune.space import Space, check_config, load_space, set_values
from histotune.space.presets import starting_point
from histotune.storage.records import TrialRecord, read_record
from histotune.storage.study_folder import StudyFolder
from histotune.studies.audit import line as audit_line
from histotune.studies.create import StudyRequest, begin, check_asked, kinds_of, study_cohort
from histotune.studies.disk import preflight
from histotune.tracking.tracker import MlflowTracker
from histotune.training.loop import run_trial
from histotune.training.memory import total_memory
from histotune.training.session import shapes
from histotune.tuning.budget import Budget, Ledger
from histotune.tuning.events import Listener, Resources, SearchSummary
from histotune.tuning.failures import HangDetector
from histotune.tuning.follower import follow
from histotune.tuning.pbt import check_scheduler
from histotune.tuning.ray_cluster import head_of
from histotune.tuning.retention import KEEP
from histotune.tuning.run import run as run_search
from histotune.tuning.samplers import check_sampler
from histotune.tuning.schedulers import PopulationBasedTraining
from histotune.tuning.warm_start import begin_with, read_starts


def search(
    space: str | Path,
    *,
    data: str | os.PathLike[str] | None = None,
    trials: int | None = None,
    time: str | float | None = None,
    epochs_total: int | None = None,
    patience: int | None = None,
    start_with: Sequence[str | os.PathLike[str]] = (),
    warm_start: str | os.PathLike[str] | None = None,
    study: str | None = None,
    metric: str | Sequence[str] | None = None,
    sampler: str = "tpe",
    scheduler: str = "asha",
    protocol: str | None = None,
    imbalance: str | None = None,
    training_cases: int | None = None,
    folds: int | None = None,
    repeats: int | None = None,
    seed: int | None = None,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
    trial_timeout: float | None = None,
    join: bool = False,
    keep_models: int = KEEP,
    fix: Sequence[str] = (),
    ranges: Sequence[str] = (),
    choices: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    strict: bool = False,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
    ray_address: str | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
    opened: Callable[[StudyFolder, Budget, Ledger], None] | None = None,
    said: Message | None = None,
    listeners: Sequence[Listener] = (),
) -> tuple[StudyFolder, SearchSummary]:
    """Search a space for its best configuration; the same call again continues the study where it stood.

    Args:
        space: a shipped search space's name or a YAML file.
        data: data folder; None looks in `$HISTOTUNE_DATA/<dataset>`, then `data/<dataset>`.
        trials: how many trials the study shall have in all; 20 when no budget is given. Of several
            budgets the one that is spent first ends the search.
        time: seconds, or text such as "90s", "30m", "2h".
        epochs_total: how many epochs the study shall train in all, those of stopped and failed trials included.
        patience: end when none of the last `patience` ended trials was better than the best before them.
        start_with: files with configurations to train right after the default one: `config.yaml` of a trial, or what
            differs from the default.
        warm_start: another study, by name or folder, of the same dataset, metric and image size. Its complete trials
            are shown to the sampler; when its data or split are others, its three best are trained here instead.
        study: the study's name; None takes the space's.
        metric: validation metric that ranks trials; None takes the space's. Of several the first ranks, prunes and
            chooses the epoch, and the proposals look for the Pareto front of all: ["balanced_accuracy", "latency_ms"].
        protocol: split protocol; None takes the space's, then the dataset's.
        imbalance: `long_tail`, or a ratio such as `90:10`, thins the training part, and nothing else; None takes the
            space's, then `natural`.
        training_cases: cases of the training part at most, drawn class by class; None takes the study's, then all.
        folds: train every trial once for each of so many folds of training and validation part together, dealt by
            patient, and rank by the mean; 0 is none, None takes the study's, then the space's, then none.
        repeats: deal the folds so many times; None takes the study's, then the space's, then once.
        seed: seed of the split and of the search; None takes the study's, 0 for a new one.
        ray_address: of a Ray cluster to join, "auto" or "HOST:PORT"; None starts a private Ray on this machine.
        storage: where all nodes of the cluster see the study: a path takes the place of `runs`, through a URI that
            fsspec knows (`s3://...`) results travel to the study's folder here.
        progress: is called with how far preparations are; `opened` when the trials begin, and after a take-over, with
            (store, budget, what is spent of it, which the search keeps up to date), `said` a line with what they will
            need and what there is.
        trial_timeout: seconds without an epoch after which a trial is killed and started again, twice at most; None
            is ten times the longest epoch so far, at least ten minutes; 0 is never.
        join: when another process searches in this study, look on (`listeners` get its trials), and take the search
            over where it leaves something undone; `time` counts from this call. Else that is an error.
        keep_models: how many of the best trials keep their weights; 0 keeps all. Results and predictions always stay.
        options: of the dataset, over those of the space.
        fix, ranges, choices: "PATH=VALUE", "PATH=low:high[:log|:step=S]" and "PATH=a,b" over the space.

    Returns:
        The study, and how the search ended.

    Raises:
        HistotuneError: anything a person can mend, found before the first trial starts where it can be.
    """
    budget = Budget.of(trials=trials, time=time, epochs_total=epochs_total, patience=patience)
    resources = Resources(cpus_per_trial, gpus_per_trial, max_concurrent)
    if ray_address is None:
        resources.check()
    HangDetector(trial_timeout)
    runs, storage = (runs, storage) if "://" in (storage or "://") else (storage, None)
    place = Places.of(runs, cache)
    kinds = kinds_of(space, data, place, study, options=options or {}, progress=progress)
    loaded = load_space(space, fix=fix, ranges=ranges, choices=choices, options=options or {}, kinds=kinds)
    wanted = StudyRequest(loaded, data, metric, protocol, seed, strict, imbalance, training_cases, folds, repeats)
    check_sampler(sampler, loaded, len(wanted.metrics))  # here and below: refused before anything is prepared
    kept = len(check_scheduler(scheduler, loaded, wanted.dealt[0]).turns) * PopulationBasedTraining.KEPT
    first = read_starts([Path(path) for path in start_with], loaded)
    other = None if warm_start is None else StudyFolder.find(warm_start, place.runs)
    joined = ray_address is not None
    if ray_address is not None:
        head_of(ray_address)
    there = StudyFolder(place.runs / (study or loaded.name))
    while True:
        if join and there.exists() and (holder := there.holder()):
            if said is not None:
                said(f"looking on, and taking over what is left: {holder}")
            budget = budget.after(follow(there, budget, listeners, opened))
            progress = None  # they are past that
        try:
            new = not there.exists()
            store, prepared = begin(wanted, study, place, progress)
            if said is not None:
                for line in [*(store.settings.facts.get("report", []) if new else []), audit_line(store)]:
                    said(line)
            start = begin_with(store, loaded, first, other)
            tracker = MlflowTracker(store, place.runs, uri=tracking_uri)
            tracker.mirror()
            folders = {size: cohort.folder for size, cohort in prepared.items()}
            summary = run_search(
                store,
                loaded,
                folders,
                budget,
                resources,
                sampler=sampler,
                scheduler=scheduler,
                start=start,
                plugins=PLUGINS,
                listeners=[tracker, *listeners],
                trial_timeout=trial_timeout,
                keep_models=keep_models,
                opened=None if opened is None else functools.partial(opened, store, budget),
                seed=store.settings.seed,
                room=functools.partial(_check_room, store, loaded, budget, keep_models, kept, joined, said, prepared),
                address=ray_address,
                storage=storage,
            )
            break
        except StudyInUse:  # somebody was faster: look on to them
            if not join:
                raise
    tracker.finish()
    if summary.reason != "interrupted":  # who presses Ctrl-C does not wait for models to be copied
        log_models(tracker)
    return store, summary


def _check_room(
    store: StudyFolder,
    space: Space,
    budget: Budget,
    keep: int,
    kept: int,
    joined: bool,
    said: Message | None,
    prepared: Mapping[int, Cohort],
    resources: Resources,
    at_once: int,
) -> None:
    left = None if budget.trials is None else budget.trials - len(store.trials())
    if left is not None and left <= 0:
        return
    cpus, gpus = at_once * resources.cpus_per_trial, at_once * resources.gpus
    config = TrialConfig.from_dict(space.default())
    memory = None if joined else total_memory()
    line = preflight(
        store,
        config,
        trials=left,
        at_once=at_once,
        checkpoints=at_once + kept,
        keep=keep,
        cpus=cpus,
        gpus=gpus,
        memory=memory,
        given=shapes(config, store.training_data(prepared[config.image_size])),
    )
    if said is not None:
        said(f"{'trials' if left is None else f'{left} trials'}, {line}")


def train(
    space: str | Path | None = None,
    assignments: Sequence[str] = (),
    *,
    preset: str | Path | None = None,
    data: str | os.PathLike[str] | None = None,
    study: str | None = None,
    protocol: str | None = None,
    imbalance: str | None = None,
    folds: int | None = None,
    repeats: int | None = None,
    seed: int | None = None,
    strict: bool = False,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrialRecord:
    """Train one configuration on the study's own split, without a search and without Ray.

    Args:
        space: a shipped search space's name or a YAML file, whose study this joins; None takes the preset's.
        assignments: "PATH=VALUE" over the preset, or over the default configuration.
        preset: a shipped preset's name or a YAML file.
        report: is called with (epoch, metrics).

    Returns:
        The record of the training; the same configuration is not trained twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = train("demo", ["epochs=1", "loss.name=focal"], runs=folder, cache=folder)
    >>> record.state, record.epochs
    ('complete', 1)
    """
    place = Places.of(runs, cache)
    kinds = None if space is None else kinds_of(space, data, place, study, progress=progress)
    loaded, start = starting_point(space, preset, kinds)
    config = TrialConfig.from_dict(set_values(start.config, assignments))
    check_config(config)
    store = StudyFolder(place.runs / (study or loaded.name))
    protocol, imbalance = protocol or start.protocol, imbalance or start.imbalance
    wanted = StudyRequest(loaded, data, None, protocol, seed, strict, imbalance, folds=folds, repeats=repeats)
    if store.exists():
        check_asked(store, wanted)
    else:
        begin(wanted, study, place, progress)
    cohort = study_cohort(store, place, config.image_size, data)
    folder = store.singles / config.digest()
    result = read_record(folder)
    if result is not None and result.state == "complete":
        return result
    return run_trial(config, store.training_data(cohort), folder, report, metric=store.settings.metric)
