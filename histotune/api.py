"""What a user asks for in Python: search a space, train one configuration, audit, evaluate, open, load, reproduce."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from histotune.core.progress import Progress, silent
from histotune.core.runtime import Places
from histotune.data.audits import Subject
from histotune.errors import ConfigError, suggest
from histotune.evaluation.external import evaluate_on
from histotune.evaluation.sealed import Evaluation
from histotune.evaluation.sealed import evaluate as evaluate_sealed
from histotune.exports.model import load
from histotune.ingest.datasets import DATASETS
from histotune.space import Space, awaits_cohort, load_space, read_space, space_names
from histotune.storage import layout
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import StudyFolder
from histotune.studies import train_and_search
from histotune.studies.audit import AuditReport, of_study, run
from histotune.studies.create import StudyRequest, divide, prepare_cohort, study_cohort
from histotune.study import Study

IMAGE_SIZE = 32  # px, of a dataset that no space prepares


def search(space: str | Path, **how: Any) -> Study:
    """Search a space for its best configuration; the same call again continues the study where it stood.

    Takes what `studies.train_and_search.search` takes.
    """
    return Study(*train_and_search.search(space, **how))


def evaluate(
    exported: str | os.PathLike[str],
    *,
    on: str | None = None,
    data: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    command: str = "histotune.evaluate",
) -> Evaluation:
    """Evaluate an export on the sealed test set of its study, which is recorded; or on an external dataset `on`.

    Args:
        command: the command to record with the opening.
    """
    model = load(exported)
    place = Places.of(runs, cache)
    if on is not None:
        return evaluate_on(model, on, data, place, command=command)
    store = StudyFolder(place.runs / model.study) if runs is not None else StudyFolder(Path(model.study_folder))
    cohorts = {size: study_cohort(store, place, size, data) for size in model.image_sizes}
    return evaluate_sealed(model, cohorts, store, command=command)


def train(space: str | Path | None = None, assignments: Sequence[str] = (), **how: Any) -> TrialRecord:
    """Train one configuration on the study's own split; takes what `studies.train_and_search.train` takes."""
    return train_and_search.train(space, assignments, **how)


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
    store, afresh = StudyFolder(places.runs / what), (protocol, folds, repeats, seed, image_size, options or None)
    if store.exists() and all(asked is None for asked in afresh):
        sizes = [int(size) for size in store.settings.digests]
        cohort = study_cohort(store, places, min(sizes), data)
        report = of_study(store, cohort, fresh=True, progress=progress, command=command)
    else:
        space = _space(what, options or {}, places)
        wanted = StudyRequest(space, data, None, protocol, seed, folds=folds, repeats=repeats)
        size = image_size or min(wanted.space.image_sizes())
        how: dict[str, Any] = {"resize": wanted.space.resize, "progress": progress}
        cohort = prepare_cohort(wanted.space.dataset, wanted.space.options, data, size, places, **how)
        parts, labels = divide(wanted, cohort)
        report = run(Subject.of(cohort, parts, labels), progress=progress, command=command)
    if strict:
        report.refuse()
    return report


def _space(what: str | Path, options: Mapping[str, Any], places: Places) -> Space:
    """Return a search space by name or file, or what stands for one of a dataset's name."""
    if str(what) in space_names() or str(what).endswith((".yaml", ".yml")):
        open_space = awaits_cohort(what)  # which networks it tries on each modality does not matter here
        if open_space is None:
            return load_space(what, options=options)
        return replace(open_space, options={**open_space.options, **options})
    if what in DATASETS.names():
        return read_space({"dataset": what, "options": dict(options), "image_size": IMAGE_SIZE}, str(what))
    studies = [folder.name for folder in layout.studies(places.runs)]
    known = [*studies, *space_names(), *DATASETS.names()]
    raise ConfigError(f"there is no study, search space or dataset {str(what)!r}. {suggest(str(what), known)}")
