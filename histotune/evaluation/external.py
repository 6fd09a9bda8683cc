"""Evaluate an export on an external cohort, and measure how far that cohort lies from the data of its study."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from histotune.core.runtime import Places
from histotune.data.cohort import Cohort, read_labels
from histotune.errors import DataError, HistotuneError, suggest
from histotune.evaluation.sealed import Cohorts, Evaluation, contenders_of, keep, measured, sized_cohorts
from histotune.evaluation.shift import measure_shift
from histotune.exports.model import Export
from histotune.ingest.datasets import DATASETS
from histotune.ingest.spellings import spelling
from histotune.storage.seal import EXTERNAL
from histotune.storage.study_folder import StudyFolder
from histotune.studies.create import prepare_cohort, study_cohort


def evaluate_on(
    model: Export,
    dataset: str,
    data: str | os.PathLike[str] | None,
    places: Places,
    *,
    command: str,
    class_map: Mapping[str, str] | None = None,
) -> Evaluation:
    """Prepare an external dataset, measure an export on it, and say how far it lies from the study's own data.

    Where the export's study is at hand, the result is appended to its `evaluation.json`.

    Raises:
        DataError: the data are not there, or are no external cohort for this export.
    """
    how = str(model.info["resize"])
    cohorts = {size: prepare_cohort(dataset, {}, data, size, places, resize=how) for size in model.image_sizes}
    labels = read_labels(cohorts[min(cohorts)])
    evaluation = evaluate_external(model, cohorts, labels, class_map=class_map)
    store = StudyFolder(model.study_folder)
    if not store.exists():
        note = f"The shift is not known: study {model.study!r} is not at {store.folder}."
        return keep(model, None, replace(evaluation, note=f"{evaluation.note} {note}".strip()), command)
    try:
        size = model.members[0].image_size
        own = {size: study_cohort(store, places, size, None)}
        evaluation = replace(evaluation, shift=measure_shift(model, store, own, cohorts))
    except HistotuneError as error:  # of the study's own data, which may be gone; the scores stay valid
        note = f"The shift is not known: {error}"
        evaluation = replace(evaluation, note=f"{evaluation.note} {note}".strip())
    return keep(model, store, evaluation, command)


def evaluate_external(
    model: Export,
    cohorts: Cohorts,
    labels: np.ndarray,
    *,
    class_map: Mapping[str, str] | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Measure an export on a cohort that it has nothing to do with; nothing is fitted to it, not even the threshold.

    Args:
        model: the export.
        cohorts: the external data as prepared.
        labels: int64 [N], in the numbering of the cohort's classes.
        class_map: {class of the cohort: class of the model}, where names differ by more than case and blanks.
        replicates: draws of patients for every interval.
        seed: of the draws.

    Raises:
        DataError: the classes do not correspond, or the cohort shares images with the study's.
    """
    sized = sized_cohorts(model, cohorts)
    cohort = sized[min(sized)]
    _refuse_known_images(model, cohort)
    translation, note = correspondence(
        model.classes, model.positive, model.name, cohort, dataset=model.info["dataset"]["name"], given=class_map
    )
    contenders = contenders_of(model, sized, np.arange(len(cohort)))
    patients = cohort.table["patient"].to_numpy(str)
    result = measured(model, contenders, translation[labels], patients, replicates=replicates, seed=seed)
    return Evaluation(
        **result,
        part=EXTERNAL,
        dataset=cohort.name,
        protocol="none: all cases",
        leaky=False,
        synthetic=bool(cohort.facts.get("synthetic", False)),
        note=note,
    )


def _refuse_known_images(model: Export, cohort: Cohort) -> None:
    """Refuse cases that the export may have been trained on: an evaluation around the seal would be worth nothing."""
    advice = "without --on, it is evaluated on its sealed test set"
    if cohort.digest in model.info["dataset"]["digests"].values():
        raise DataError(f"{cohort.name!r} is the data that {model.name} was trained on; {advice}")
    store = StudyFolder(model.study_folder)
    if not store.exists():
        return  # an export that travelled alone knows the digest of its data only
    table = store.split
    shared = set(table["content"][table["part"] != ""]) & set(cohort.table["content"])
    if shared:
        raise DataError(
            f"{len(shared)} of {len(cohort)} images of {cohort.name!r} stand in a part of study {model.study!r} too, "
            f"so it is no external cohort for {model.name}; {advice}"
        )


def correspondence(
    classes: Sequence[str],
    positive: int,
    name: str,
    cohort: Cohort,
    *,
    dataset: str = "",
    given: Mapping[str, str] | None = None,
) -> tuple[np.ndarray, str]:
    """Return the number of a model's class for each of an external cohort's, and a note where names were matched.

    Classes correspond by name, whatever its case and blanks; others only as the user says, or where the positive class
    of both is known, because both datasets are published ones. Their order tells nothing.

    Args:
        classes: of the model; `positive` is the index of the positive one.
        name: of the model, for errors.
        dataset: that the model was trained on.
        given: {class of the cohort: class of the model}.

    Returns:
        int64 [C], and "" or a sentence.

    Raises:
        DataError: the classes do not correspond.
    """
    ours, theirs, given = list(classes), list(cohort.classes), dict(given or {})
    for one, other in given.items():
        if one not in theirs or other not in ours:
            known, wrong = (theirs, one) if one not in theirs else (ours, other)
            whose = "the cohort" if known is theirs else "the model"
            raise DataError(f"--class-map {one}={other}: {whose} has no class {wrong!r}. {suggest(wrong, known)}")
    by_spelling = {spelling(one): number for number, one in enumerate(ours)}
    matched = [ours.index(given[one]) if one in given else by_spelling.get(spelling(one)) for one in theirs]
    published = all(one in DATASETS.names() and DATASETS.build(one).info.disease for one in (dataset, cohort.name))
    if matched == [None, None] and len(ours) == 2 and published:
        matched = [positive if number == cohort.positive else 1 - positive for number in range(2)]
    if None in matched:
        lost = [one for one, number in zip(theirs, matched, strict=True) if number is None]
        example = " ".join(f"--class-map {one}={ours[0]}" for one in map(_quoted, lost[:1]))
        raise DataError(
            f"the classes of {cohort.name!r} ({', '.join(theirs)}) are not those of {name} ({', '.join(ours)}): "
            f"{', '.join(map(repr, lost))} is none of them. Say which it is, such as {example}"
        )
    numbers = np.array([number for number in matched if number is not None])
    if len(set(numbers.tolist())) < 2:
        raise DataError(f"all classes of {cohort.name!r} ({', '.join(theirs)}) are the same one of {name}")
    renamed = [
        f"{one!r} is {ours[number]!r}" for one, number in zip(theirs, numbers, strict=True) if one != ours[number]
    ]
    return numbers, f"The class names differ: {', '.join(renamed)}." if renamed else ""


def _quoted(name: str) -> str:
    return shlex.quote(name)
