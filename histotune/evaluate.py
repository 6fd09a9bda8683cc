"""Measure an export where nothing was chosen: on its study's sealed test part, on the record, or on other data."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from histotune import files, metrics
from histotune.cohort import Cohort, select
from histotune.controls import control_names, predict_control
from histotune.ensembles import ENSEMBLES
from histotune.errors import DataError, StudyError
from histotune.predict import CHUNK, Export
from histotune.statistics import Difference, Interval, intervals, paired_bootstrap
from histotune.store import StudySettings, StudyStore

SEALED, EXTERNAL = "sealed test part", "external cohort"
BEST_MEMBER, UNIFORM_MEAN = "best member", "uniform mean"
Cohorts = Mapping[int, Cohort]
"""The same cases prepared at every image size of the export, pixels."""


@dataclass(frozen=True)
class Evaluation:
    """What an export reaches on cases that had no part in its making; intervals are over resampled patients.

    Attributes:
        export, digest: name of the model, and the digest of its weights and settings.
        part: `sealed test part` or `external cohort`.
        metric: the study's metric, in which `gains` are measured.
        confusion: cases by true class (rows) and class of highest probability (columns).
        threshold: operating threshold chosen on validation; None for more than two classes.
        metrics: at the class of highest probability (for two classes: at .5).
        at_threshold: the same at `threshold`; empty for more than two classes.
        beside: {"control NAME" | "best member" | "uniform mean": metrics} on the same cases.
        gains: {the same names: this export minus it in `metric`}, paired by patient.
        openings_before: how often the seal had been opened already; 0 for an external cohort.
        note: what else a reader must know.
    """

    export: str
    digest: str
    study: str
    dataset: str
    part: str
    protocol: str
    leaky: bool
    synthetic: bool
    metric: str
    cases: int
    patients: int
    classes: tuple[str, ...]
    confusion: list[list[int]]
    threshold: float | None
    metrics: Mapping[str, Interval]
    at_threshold: Mapping[str, Interval]
    beside: Mapping[str, Mapping[str, Interval]]
    gains: Mapping[str, Difference]
    openings_before: int = 0
    note: str = ""
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values."""
        return asdict(self)


def evaluate(
    model: Export, cohorts: Cohorts, store: StudyStore, *, command: str, replicates: int = 2000, seed: int = 0
) -> Evaluation:
    """Open the sealed test part, on the record, and measure an export on it beside the controls.

    Everything that can fail is done before the seal is opened. The result is appended to the study's
    `evaluation.json`; a second opening is warned of.

    Args:
        model: the export.
        cohorts: the study's data as prepared.
        store: the study that the export was made in.
        command: what the record of the opening shall say was called.
        replicates: draws of patients for every interval.
        seed: of the draws.

    Raises:
        StudyError: the export belongs to another study, or the data are not those of the study.
    """
    sized = _sized(model, cohorts)
    _refuse_strangers(model, store, sized)
    data = store.training_data(sized[min(sized)])
    table = store.split_table()
    rows = np.flatnonzero(table["part"].to_numpy() == "test")
    if not len(rows):
        raise StudyError(
            f"study {model.study!r} has no sealed test part: its numbers are out of folds, see its leaderboard"
        )
    contenders = _contenders(model, sized, rows)
    for name in control_names(data):
        contenders[f"control {name}"] = metrics.softmax(predict_control(name, data, rows))
    sealed, before = store.open_seal(command, model.digest)
    labels = sealed.set_index("id")["label"].loc[table["id"].iloc[rows]].to_numpy(np.int64)
    patients = table["patient"].to_numpy(str)[rows]
    found = _measure(model, contenders, labels, patients, replicates=replicates, seed=seed)
    settings = store.settings()
    evaluation = Evaluation(
        **found,
        part=SEALED,
        dataset=settings.dataset,
        protocol=settings.protocol,
        leaky=_leaky(settings),
        synthetic=bool(settings.facts.get("synthetic", False)),
        openings_before=before,
        note=_note(store, model, before) or _patients_note(settings),
    )
    _record(store, evaluation, command)
    if before:
        warnings.warn(evaluation.note, stacklevel=2)
    return evaluation


def evaluate_external(
    model: Export, cohorts: Cohorts, labels: np.ndarray, *, replicates: int = 2000, seed: int = 0
) -> Evaluation:
    """Measure an export on a cohort that it has nothing to do with; nothing is fitted to it, not even the threshold.

    Args:
        model: the export.
        cohorts: the external data as prepared.
        labels: int64 [N], in the numbering of the cohort's classes.
        replicates: draws of patients for every interval.
        seed: of the draws.

    Raises:
        DataError: the classes do not correspond, or the cohort shares images with the study's.
    """
    sized = _sized(model, cohorts)
    cohort = sized[min(sized)]
    _refuse_known_images(model, cohort)
    translation, note = correspondence(model.classes, model.positive, model.name, cohort)
    contenders = _contenders(model, sized, np.arange(len(cohort)))
    patients = cohort.table["patient"].to_numpy(str)
    found = _measure(model, contenders, translation[labels], patients, replicates=replicates, seed=seed)
    return Evaluation(
        **found,
        part=EXTERNAL,
        dataset=cohort.name,
        protocol="none: all cases",
        leaky=False,
        synthetic=bool(cohort.facts.get("synthetic", False)),
        note=note,
    )


def _sized(model: Export, cohorts: Cohorts) -> Mapping[int, Cohort]:
    """Return one cohort per image size that the members read."""
    missing = [size for size in model.image_sizes if size not in cohorts]
    if missing:
        raise StudyError(
            f"{model.name} reads images of {', '.join(map(str, model.image_sizes))} px, but no cohort was prepared at "
            f"{missing[0]} px: prepare one for each size"
        )
    return {size: cohorts[size] for size in model.image_sizes}


def _refuse_strangers(model: Export, store: StudyStore, sized: Mapping[int, Cohort]) -> None:
    settings = store.settings()
    made_in = model.info["study"]
    if (made_in["name"], made_in["created"]) != (settings.name, settings.created):
        raise StudyError(
            f"{model.name} was made in study {made_in['name']!r} begun {made_in['created']}, not in {settings.name!r} "
            f"begun {settings.created}: its training patients may be among the test patients there. Name its own study"
        )
    for size, cohort in sized.items():
        if settings.digests.get(str(size), cohort.digest) != cohort.digest:
            raise StudyError(
                f"the data of study {settings.name!r} at {size} px have digest {cohort.digest}, the study began with "
                f"{settings.digests[str(size)]}: restore the data that it began with"
            )


def _refuse_known_images(model: Export, cohort: Cohort) -> None:
    """Refuse cases that the export may have been trained on: an evaluation around the seal would be worth nothing."""
    advice = "without --on, its sealed test part is measured"
    if cohort.digest in model.info["dataset"]["digests"].values():
        raise DataError(f"{cohort.name!r} is the very data that {model.name} was trained on; {advice}")
    store = StudyStore(model.study_folder)
    if not store.exists():
        return  # an export that travelled alone knows the digest of its data only
    table = store.split_table()
    shared = set(table["content"][table["part"] != ""]) & set(cohort.table["content"])
    if shared:
        raise DataError(
            f"{len(shared)} of {len(cohort)} images of {cohort.name!r} stand in a part of study {model.study!r} too, "
            f"so it is no external cohort for {model.name}; {advice}"
        )


def correspondence(classes: Sequence[str], positive: int, name: str, cohort: Cohort) -> tuple[np.ndarray, str]:
    """Return the number of a model's class for each of an external cohort's, and a note where names were matched.

    Args:
        classes: of the model; `positive` is the index of the positive one.
        name: of the model, for errors.

    Returns:
        int64 [C], and "" or a sentence.

    Raises:
        DataError: the classes do not correspond.
    """
    ours, theirs = list(classes), list(cohort.classes)
    if set(theirs) <= set(ours):
        return np.array([ours.index(name) for name in theirs]), ""
    if len(ours) == len(theirs) == 2:
        translation = np.full(2, 1 - positive)
        translation[cohort.positive] = positive
        pairs = ", ".join(f"{one!r} is {ours[number]!r}" for one, number in zip(theirs, translation, strict=True))
        return translation, f"The classes have other names there; by which one is positive, {pairs}."
    raise DataError(f"the classes of {cohort.name!r} ({', '.join(theirs)}) are not those of {name} ({', '.join(ours)})")


def _contenders(model: Export, sized: Cohorts, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return probabilities [n, C] of the export ("") and, for an ensemble, of what it must justify itself against."""
    parts = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        cases = {size: select(cohort.columns, chunk) for size, cohort in sized.items()}
        parts.append((model.member_logits(cases), model.hears(cases)))
    logits, present = (np.concatenate(values, axis=1) for values in zip(*parts, strict=True))  # [M, n, C], [M, n]
    found = {"": model.ensemble.predict(logits, present)}
    if len(logits) > 1:
        found[BEST_MEMBER] = metrics.softmax(logits[0])
        found[UNIFORM_MEAN] = ENSEMBLES.build("average").predict(logits, present)
    return found


def _measure(
    model: Export, contenders: Mapping[str, np.ndarray], labels: np.ndarray, patients: np.ndarray, **draws: int
) -> dict[str, Any]:
    """Fill the fields of an `Evaluation` that follow from probabilities, labels [n] and patients [n]."""
    own, metric = contenders[""], str(model.info["metric"])
    others = {name: probabilities for name, probabilities in contenders.items() if name}
    about = {"positive": model.positive, **draws}
    at = model.threshold
    return {
        "export": model.name,
        "digest": model.digest,
        "study": model.study,
        "metric": metric,
        "cases": len(labels),
        "patients": len(np.unique(patients)),
        "classes": model.classes,
        "confusion": metrics.confusion_matrix(metrics.decide(own), labels, len(model.classes)).tolist(),
        "threshold": at,
        "metrics": intervals(own, labels, patients, **about),
        "at_threshold": {} if at is None else intervals(own, labels, patients, threshold=at, **about),
        "beside": {name: intervals(p, labels, patients, **about) for name, p in others.items()},
        "gains": {name: paired_bootstrap(metric, own, p, labels, patients, **about) for name, p in others.items()},
    }


def _note(store: StudyStore, model: Export, before: int) -> str:
    if not before:
        return ""
    openings = store.openings()
    same = sum(opening["subject"] == model.digest for opening in openings[:-1])
    return (
        f"The sealed test part of study {model.study!r} was opened {before} time{'s' if before > 1 else ''} before, "
        f"first on {openings[0]['time']}, {same} of them for this very model. Choosing among models by these numbers "
        f"makes them optimistic; the record is {store.folder / 'sealed' / 'openings.jsonl'}"
    )


def _leaky(settings: StudySettings) -> bool:
    """Whether patients of the test part may stand in the training part; a prescribed test part may be known not to."""
    apart = settings.protocol == "given" and settings.facts.get("test_of_other_patients", False)
    return settings.leaky and not apart


def _patients_note(settings: StudySettings) -> str:
    if settings.facts.get("patients_known", True):
        return ""
    return "Patients are unknown and every image counts as one: the intervals are narrower than they should be."


def _record(store: StudyStore, evaluation: Evaluation, command: str) -> None:
    """Append to the study's `evaluation.json`: no evaluation is ever overwritten by a later, luckier one."""
    path: Path = store.folder / "evaluation.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    files.write_json(path, [*earlier, evaluation.to_dict() | {"command": command}])
