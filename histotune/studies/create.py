"""How a study begins and how it is found again: data prepared, patients split, test labels sealed, baselines fitted."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histotune._version import __version__
from histotune.core.config import TrialConfig
from histotune.core.progress import Progress, silent
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort, read_labels
from histotune.data.fold_assignment import check_folds, check_patience, deal_folds
from histotune.data.imbalance import NATURAL, check_imbalance
from histotune.data.splits import Split, check_protocol, default_protocol, describe_change, split
from histotune.errors import ConfigError, StudyError
from histotune.ingest.datasets import DATASETS, locate
from histotune.ingest.prepare import prepare
from histotune.metrics.scores import check_metrics
from histotune.models.network import check_modalities
from histotune.space import Space, as_begun, load_space
from histotune.storage.study_folder import StudyFolder, StudySettings
from histotune.studies import audit as _audit
from histotune.studies.controls import fit_controls
from histotune.studies.options import SearchOptions


@dataclass(frozen=True)
class StudyRequest:
    """What a user asked a study to be about.

    Args:
        space: the search space.
        data: data folder; None looks in `$HISTOTUNE_DATA/<dataset>` and `data/<dataset>`.
        metric: the validation metric, or several, the ranking one first; None takes what the study began with, else
            the space's.
        protocol, seed: None takes what the study began with, else the space's or dataset's, 0.
        strict: whether a file that cannot be read, or a leak that the audit finds, is an error.
        imbalance: what becomes of the training part; None takes what the study began with, else the space's, natural.
        training_cases: how many cases of it stay at most; 0 is all, None takes what the study began with, else all.
        folds: into how many the development part is dealt; 0 is none, None takes what the study began with, else the
            space's, none.
        repeats: how often; None takes what the study began with, else the space's, once.
    """

    space: Space
    data: str | os.PathLike[str] | None = None
    metric: str | Sequence[str] | None = None
    protocol: str | None = None
    seed: int | None = None
    strict: bool = False
    imbalance: str | None = None
    training_cases: int | None = None
    folds: int | None = None
    repeats: int | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names before anything is prepared."""
        check_metrics(self.metrics or [self.space.metric])
        if protocol := self.protocol or self.space.protocol:
            check_protocol(protocol)
        imbalance = check_imbalance(self.imbalance or self.space.imbalance or NATURAL)
        check_folds(*self.dealt, self.protocol or self.space.protocol)
        if self.dealt[0] and (imbalance != NATURAL or self.training_cases):
            raise ConfigError(
                "folds deal training and validation part anew, and `imbalance` and `training_cases` thin the training "
                "part of one split: leave one of them out"
            )
        if self.dealt[0]:
            check_patience(self.space.patience())

    @property
    def dealt(self) -> tuple[int, int]:
        """Folds and repeats of a study that begins."""
        asked = (self.space.folds if self.folds is None else self.folds) or 0
        return asked, (self.space.repeats if self.repeats is None and asked else self.repeats) or 1

    @property
    def metrics(self) -> list[str]:
        """The metrics asked for; none where the study or the space shall say."""
        return [self.metric] if isinstance(self.metric, str) else list(self.metric or [])


def prepare_cohort(
    dataset: str,
    options: Mapping[str, Any],
    data: str | os.PathLike[str] | None,
    image_size: int,
    places: Places,
    *,
    resize: str = "area",
    strict: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """Find a dataset's files and decode them once into a memory-mapped cohort; a second call only maps it.

    Raises:
        DataError: the data are not there (the message says where to get them) or cannot be used.
    """
    reader, root = DATASETS.build(dataset, **options), locate(dataset, data)
    how: dict[str, Any] = {"resize": resize, "strict": strict, "progress": progress}
    return prepare(reader, root, image_size=image_size, cache=places.cache, **how)


def open_space(space: str | Path, options: SearchOptions, progress: Progress = silent) -> Space:
    """Read and compile the search space of a search, once, by the data's modalities where it says what to try on each.

    Raises:
        ConfigError: the space or an edit of it does not make sense.
        DataError: it needs the data, and they are not there.
    """
    edits = options.edits
    about: dict[str, Any] = {"data": options.data, "places": options.places, "study": options.study}
    kinds = functools.partial(kinds_of, **about, options=edits.options, progress=progress)
    loaded = load_space(space, **vars(edits), kinds=kinds)
    store = StudyFolder.named(loaded.name if options.study is None else options.study, options.places.runs)
    return as_begun(loaded, store.settings.space) if store.exists() else loaded


def kinds_of(
    space: Space,
    *,
    data: str | os.PathLike[str] | None,
    places: Places,
    study: str | None,
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Mapping[str, str]:
    """Return {modality: kind} of the data of a space that says what to try on each."""
    store = StudyFolder.named(space.name if study is None else study, places.runs)
    if data is None and store.exists():
        data = store.settings.data or None
    options, size = {**space.options, **(options or {})}, space.image_sizes()[0]
    cohort = prepare_cohort(space.dataset, options, data, size, places, resize=space.resize, progress=progress)
    return {name: column.kind for name, column in cohort.columns.items()}


def begin(
    request: StudyRequest, name: str | None, places: Places, progress: Progress | None = None
) -> tuple[StudyFolder, dict[int, Cohort]]:
    """Open the study of that name, or create it: returns its store and its cohort at every image size of the space.

    Raises:
        StudyError: the study began with other data, another space, split, seed or metric; the message says which.
        DataError, ConfigError: the data or the split are impossible.
    """
    space, progress = request.space, progress or silent
    store = StudyFolder.named(space.name if name is None else name, places.runs)
    data = request.data
    if data is None and store.exists():
        data = store.settings.data or None
    how: dict[str, Any] = {"resize": space.resize, "strict": request.strict, "progress": progress}
    cohorts = {
        size: prepare_cohort(space.dataset, space.options, data, size, places, **how) for size in space.image_sizes()
    }
    first = cohorts[min(cohorts)]
    for config in space.samples():
        check_modalities(TrialConfig.from_dict(config), {name: column.kind for name, column in first.columns.items()})
    with store.lock("opening the study"):
        if store.exists():
            check_request(store, request, space=True)
            _check_data(store, cohorts)
        else:
            _create(store, request, data, cohorts)
        report = _audit.of_study(store, cohorts[min(cohorts)], progress=progress)
        if request.strict:
            report.refuse()
        progress("fitting baselines", 0, 1)
        test = np.flatnonzero(store.split["part"] == "test")
        fit_controls(store.training_data(cohorts[min(cohorts)]), store.controls, test=test)  # one that ended is read
        progress("fitting baselines", 1, 1)
    return store, cohorts


def study_cohort(store: StudyFolder, places: Places, image_size: int, data: str | os.PathLike[str] | None) -> Cohort:
    """Find the cohort of an existing study again, preparing it anew where the cache lost it.

    Args:
        data: where the data are now; None looks where they were when the study began.

    Raises:
        StudyError: the data changed since the study began.
    """
    settings = store.settings
    where, how = data or settings.data or None, str(settings.facts.get("resize", "area"))
    cohort = prepare_cohort(settings.dataset, settings.options, where, image_size, places, resize=how)
    _check_data(store, {image_size: cohort})
    return cohort


def divide(request: StudyRequest, cohort: Cohort) -> tuple[Split, np.ndarray]:
    """Divide a cohort as a study of it that begins would; returns the split and all labels, int64 [N].

    Raises:
        DataError, ConfigError: patients and classes do not allow the split.
    """
    space, labels, seed = request.space, read_labels(cohort), request.seed or 0
    usual = DATASETS.build(space.dataset, **space.options).info.protocol
    protocol = request.protocol or space.protocol or default_protocol(cohort, usual)
    imbalance, cases = request.imbalance or space.imbalance or NATURAL, request.training_cases or 0
    parts = split(cohort, labels, protocol, seed=seed, imbalance=imbalance, training_cases=cases)
    return deal_folds(cohort, labels, parts, *request.dealt, seed=seed), labels


def _create(store: StudyFolder, request: StudyRequest, data: Any, cohorts: Mapping[int, Cohort]) -> None:
    space, first = request.space, cohorts[min(cohorts)]
    parts, labels = divide(request, first)
    folds, repeats = request.dealt
    metrics = check_metrics(request.metrics or [space.metric], len(first.classes))
    located = locate(space.dataset, data)
    settings = StudySettings(
        name=store.folder.name,
        dataset=space.dataset,
        data=str(Path(located).absolute()) if located else "",
        options=space.options,
        digests={str(size): cohort.digest for size, cohort in cohorts.items()},
        classes=list(first.classes),
        positive=first.positive,
        protocol=parts.protocol,
        leaky=parts.leaky,
        seed=request.seed or 0,
        metric=metrics[0],
        others=metrics[1:],
        space=space.to_dict(),
        facts=first.facts,
        imbalance=request.imbalance or space.imbalance or NATURAL,
        training=parts.training,
        training_cases=request.training_cases or 0,
        folds=folds,
        repeats=repeats,
        version=__version__,
    )
    store.create(settings, first, parts, labels)


def check_request(store: StudyFolder, request: StudyRequest, *, space: bool = False) -> None:
    """Check that what a user asks of an existing study is what it began with.

    Args:
        space: whether the search space must be the same, too.

    Raises:
        StudyError: it is not; the message says what was and what is asked.
    """
    settings = store.settings
    terms = {
        "dataset": (settings.dataset, request.space.dataset),
        "metric": (", ".join(settings.metrics), ", ".join(request.metrics or settings.metrics)),
        "split": (settings.protocol, request.protocol or settings.protocol),
        "seed": (settings.seed, settings.seed if request.seed is None else request.seed),
        "imbalance": (settings.imbalance, request.imbalance or settings.imbalance),
        "number of training cases": (
            settings.training_cases,
            settings.training_cases if request.training_cases is None else request.training_cases,
        ),
        "number of folds": (settings.folds, settings.folds if request.folds is None else request.folds),
        "number of repeats": (settings.repeats, settings.repeats if request.repeats is None else request.repeats),
    }
    if space:
        terms["search space"] = (settings.space, json.loads(json.dumps(request.space.to_dict())))
    for what, (before, now) in terms.items():
        if before != now:
            raise StudyError(
                f"study {settings.name!r} began with another {what}: {_difference(before, now)}. "
                "Give the same again to continue it, or --study NAME to begin a new one"
            )


def _check_data(store: StudyFolder, cohorts: Mapping[int, Cohort]) -> None:
    settings = store.settings
    for size, cohort in cohorts.items():
        change = describe_change(store.split, cohort, settings.digests.get(str(size)))
        if change:
            raise StudyError(
                f"the data of study {settings.name!r} changed since it began: {change}. "
                "Restore them, or begin a new study with --study NAME"
            )


def _difference(before: Any, now: Any, path: str = "") -> str:
    """Say in a few words where two nested settings differ first."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(k for k in now if k not in before)]:
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    return f"{path + ': ' if path else ''}{before!r} then, {now!r} now"
