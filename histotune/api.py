"""What a user asks for in Python: search a space, train one configuration, audit, evaluate, open, load, reproduce."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from histotune.core.progress import Message, Progress, silent
from histotune.core.runtime import Places
from histotune.data.audits import Subject
from histotune.errors import ConfigError, suggest
from histotune.evaluation import nested
from histotune.evaluation.external import evaluate_on
from histotune.evaluation.nested import Nested
from histotune.evaluation.sealed import Evaluation
from histotune.evaluation.sealed import evaluate as evaluate_sealed
from histotune.exports.model import load
from histotune.ingest.datasets import DATASETS
from histotune.space import Space, load_space, read_space, space_names
from histotune.storage import layout
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import StudyFolder
from histotune.studies import train_and_search
from histotune.studies.audit import AuditReport, of_study, run
from histotune.studies.create import StudyRequest, divide, prepare_cohort, study_cohort
from histotune.studies.options import SearchOptions, StudyProtocol
from histotune.study import Study
from histotune.tuning.budget import Budget, Ledger
from histotune.tuning.events import Listener
from histotune.tuning.options import Callbacks
from histotune.tuning.retention import KEEP

IMAGE_SIZE = 32  # px, of a dataset that no space prepares


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
) -> Study:
    """Search a space for its best configuration; the same call again continues the study where it stood.

    Args:
        space: a shipped search space's name or a YAML file.
        data: data folder; None looks in `$HISTOTUNE_DATA/<dataset>`, then `data/<dataset>`.
        trials: how many trials the study shall have in all; 20 when no budget is given. Of several
            budgets the one that is spent first ends the search.
        time: seconds, or text such as "90s", "30m", "2h".
        epochs_total: how many epochs the study shall train in all, those of stopped and failed trials included.
        patience: end when none of the last `patience` ended trials was better than the best before them.
        start_with: files with configurations to train right after the default configuration: `config.yaml` of a trial,
            or what differs from the default.
        warm_start: another study, by name or folder, of the same dataset, metric and image size. The sampler learns
            from its complete trials; when its data or split are others, its three best are trained here instead.
        study: the study's name; None takes the space's.
        metric: validation metric that ranks trials; None takes the space's. Of several the first ranks, prunes and
            chooses the epoch, and the proposals look for the Pareto front of all: ["balanced_accuracy", "latency_ms"].
        sampler: `tpe`, `gp`, `cmaes`, `random` or `grid`.
        scheduler: `asha`, `hyperband`, `median`, `pbt` or `none`.
        protocol: split protocol; None takes the space's, then the dataset's.
        imbalance: `long_tail`, or a ratio such as `90:10`, thins the training part, and nothing else; None takes the
            space's, then `natural`.
        training_cases: cases of the training part at most, drawn class by class; None takes the study's, then all.
        folds: train every trial once for each of so many folds of training and validation part together, dealt by
            patient, and rank by the mean; 0 is none, None takes the study's, then the space's, then none.
        repeats: deal the folds so many times; None takes the study's, then the space's, then once.
        seed: seed of the split and of the search; None takes the study's, 0 for a new one.
        cpus_per_trial: CPUs, and threads, of one trial.
        gpus_per_trial: GPUs of one trial; a fraction shares a GPU, 0 trains on the CPU, None takes one where there are.
        max_concurrent: trials at once; None runs as many as fit.
        trial_timeout: seconds without an epoch after which a trial is killed and started again, twice at most; None
            is ten times the longest epoch so far, at least ten minutes; 0 is never.
        join: when another process searches in this study, look on (`listeners` are called with its trials), and take
            the search over where it leaves something undone; `time` counts from this call. Else that is an error.
        keep_models: how many of the best trials keep their weights; 0 keeps all. Results and predictions always stay.
        fix, ranges, choices: "PATH=VALUE", "PATH=low:high[:log|:step=S]" and "PATH=a,b" over the space.
        options: of the dataset, over those of the space.
        strict: whether a file that cannot be read, or a leak that the audit finds, is an error.
        runs, cache: folder of all studies, and of prepared data; None takes `$HISTOTUNE_RUNS` and `$HISTOTUNE_CACHE`,
            then `runs` and `~/.cache/histotune`.
        tracking_uri: of MLflow; None takes the database beside the studies.
        ray_address: of a Ray cluster to join, "auto" or "HOST:PORT"; None starts a private Ray on this machine.
        storage: where all nodes of the cluster see the study: a path takes the place of `runs`, through a URI that
            fsspec knows (`s3://...`) results travel to the study's folder here.
        progress: is called with how far preparations are.
        opened: is called when the trials begin, and again after a take-over, with the study's folder, the budget, and
            what is spent of it, which the search keeps up to date.
        said: is called with a line with what the trials will need and what there is.
        listeners: are called with every event of a trial.

    Raises:
        HistotuneError: anything a person can mend, found before the first trial starts where it can be.
    """
    keywords = dict(locals())
    return Study(*train_and_search.search(space, SearchOptions.of(keywords), _callbacks(keywords)))


def nested_search(
    space: str | Path,
    *,
    outer: int,
    say: Message | None = None,
    command: str = "histotune.nested_search",
    **keywords: Any,
) -> Nested:
    """Search a space once for each outer fold, and evaluate each winner on its own; the same call goes on.

    Args:
        space: as `search` takes it; the study holds one for each outer fold.
        outer: how many outer folds, at least 2.
        say: is called with a line for each outer fold.
        command: the command to record with each opening.
        keywords: of `search`; budgets are of each search.

    Raises:
        TypeError: `search` has no keyword of that name.
        ConfigError: an option that makes no sense here.
        DataError: fewer patients than folds, or a class in too few of them.
        HistotuneError: as `search`.
    """
    given = inspect.signature(search).bind(space, **keywords)
    given.apply_defaults()
    options, callbacks = SearchOptions.of(given.arguments), _callbacks(given.arguments)
    return nested.nested_search(space, options, callbacks, outer=outer, message=say or silent, command=command)


def _callbacks(keywords: Mapping[str, Any]) -> Callbacks:
    progress, said, opened = (keywords[name] or silent for name in ("progress", "said", "opened"))
    return Callbacks(progress, said, opened, keywords["listeners"])


def evaluate(
    exported: str | os.PathLike[str],
    *,
    on: str | None = None,
    data: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    class_map: Mapping[str, str] | None = None,
    command: str = "histotune.evaluate",
) -> Evaluation:
    """Evaluate an export on the sealed test set of its study, which is recorded; or on an external dataset `on`.

    Args:
        class_map: {class of the external dataset: class of the model}, where names differ by more than case and blanks.
        command: the command to record with the opening.
    """
    model = load(exported)
    place = Places.of(runs, cache)
    if on is not None:
        return evaluate_on(model, on, data, place, command=command, class_map=class_map)
    store = StudyFolder.named(model.study, place.runs) if runs is not None else StudyFolder(Path(model.study_folder))
    cohorts = {size: study_cohort(store, place, size, data) for size in model.image_sizes}
    return evaluate_sealed(model, cohorts, store, command=command)


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
        data, study, protocol, imbalance, folds, repeats, seed, strict, runs, cache, progress: as `search` takes them.
        report: is called with each epoch and its metrics.

    Returns:
        The record of the training; the same configuration is not trained twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = train("demo", ["epochs=1", "loss.name=focal"], runs=folder, cache=folder)
    >>> record.state.value, record.epochs
    ('complete', 1)
    """
    return train_and_search.train(
        space,
        assignments,
        preset=preset,
        data=data,
        study=study,
        protocol=StudyProtocol(None, protocol, seed, strict, imbalance, None, folds, repeats),
        places=Places.of(runs, cache),
        progress=progress or silent,
        report=report,
    )


def audit(
    what: str | Path,
    *,
    data: str | os.PathLike[str] | None = None,
    protocol: str | None = None,
    folds: int | None = None,
    repeats: int | None = None,
    seed: int | None = None,
    image_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    strict: bool = False,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    command: str = "histotune.audit",
) -> AuditReport:
    """Audit a study on its own split, or a search space or dataset on the split that a study of it would begin with.

    Args:
        what: an existing study's name, a search space's name or YAML file, or a dataset's name. A study comes first,
            unless a split, seed, image size, folds or options are asked for.
        data: data folder; None looks where the study's were, then in `$HISTOTUNE_DATA/<dataset>`, `data/<dataset>`.
        protocol, folds, repeats, seed: of the split; None takes the space's, then the dataset's, 0.
        image_size: pixels; None takes the smallest of the space, 32 px for a dataset.
        options: of the dataset, over those of the space.
        strict: whether a leak is an error.
        progress: is called with how far it is.
        command: the command to record in the report.

    Raises:
        DataError: the data or the split are impossible; `strict` and there is a leak.
        ConfigError: there is nothing of that name.
    """
    places, progress = Places.of(runs, cache), progress or silent
    store, afresh = _study(what, places), (protocol, folds, repeats, seed, image_size, options or None)
    if store is not None and all(asked is None for asked in afresh):
        sizes = [int(size) for size in store.settings.digests]
        cohort = study_cohort(store, places, min(sizes), data)
        report = of_study(store, cohort, fresh=True, progress=progress, command=command)
    else:
        space = _space(what, options or {}, places)
        request = StudyRequest(space, data, None, protocol, seed, folds=folds, repeats=repeats)
        size = image_size or min(request.space.image_sizes())
        how: dict[str, Any] = {"resize": request.space.resize, "progress": progress}
        cohort = prepare_cohort(request.space.dataset, request.space.options, data, size, places, **how)
        parts, labels = divide(request, cohort)
        report = run(Subject.of(cohort, parts, labels), progress=progress, command=command)
    if strict:
        report.refuse()
    return report


def _study(what: str | Path, places: Places) -> StudyFolder | None:
    """Return the study of that name; None if there is none, or it is a search space's file."""
    if str(what).endswith((".yaml", ".yml")):
        return None
    store = StudyFolder.named(str(what), places.runs)
    return store if store.exists() else None


def _space(what: str | Path, options: Mapping[str, Any], places: Places) -> Space:
    """Return a search space by name or file, or what stands for one of a dataset's name."""
    if str(what) in space_names() or str(what).endswith((".yaml", ".yml")):
        return load_space(what, options=options)  # which networks it tries on each modality does not matter here
    if what in DATASETS.names():
        return read_space({"dataset": what, "options": dict(options), "image_size": IMAGE_SIZE}, str(what))
    studies = [folder.name for folder in layout.studies(places.runs)]
    known = [*studies, *space_names(), *DATASETS.names()]
    raise ConfigError(f"there is no study, search space or dataset {str(what)!r}. {suggest(str(what), known)}")
