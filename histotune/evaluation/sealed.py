"""Evaluate an export on the sealed test set of its study; every opening is recorded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from histotune.core import files
from histotune.core.provenance import utc_time
from histotune.data.cohort import Cohort, select
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import HistotuneError, StudyError
from histotune.evaluation.shift import Shift
from histotune.exports.card import add_evaluation
from histotune.exports.model import CHUNK, Export
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import intervals, paired_bootstrap
from histotune.metrics.intervals import ConfidenceInterval, Difference
from histotune.storage import layout
from histotune.storage.seal import SEALED, seal_sentence
from histotune.storage.study_folder import StudyFolder, StudySettings
from histotune.studies.controls import control_names, kept_predictions

BEST_MEMBER, UNIFORM_MEAN = "best member", "uniform mean"
Cohorts = Mapping[int, Cohort]
"""The same cases prepared at every image size of the export, pixels."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of an export on cases that were not used to make it; intervals are over resampled patients.

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
        note: further remarks.
        shift: of an external cohort, how far it lies from the study's own data; empty where that is not known.
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
    metrics: Mapping[str, ConfidenceInterval]
    at_threshold: Mapping[str, ConfidenceInterval]
    beside: Mapping[str, Mapping[str, ConfidenceInterval]]
    gains: Mapping[str, Difference]
    openings_before: int = 0
    note: str = ""
    shift: Mapping[str, Shift] = field(default_factory=dict)
    time: str = field(default_factory=utc_time)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values."""
        return asdict(self)


def evaluate(
    model: Export, cohorts: Cohorts, store: StudyFolder, *, command: str, replicates: int = 2000, seed: int = 0
) -> Evaluation:
    """Open the sealed test set, record the opening, and evaluate an export on it beside the baselines.

    Everything that can fail is done before the seal is opened. The result is appended to the study's
    `evaluation.json`; a second opening is warned of.

    Args:
        model: the export.
        cohorts: the study's data as prepared.
        store: the study that the export was made in.
        command: the command to record with the opening.
        replicates: draws of patients for every interval.
        seed: of the draws.

    Raises:
        StudyError: the export belongs to another study, or the data are not those of the study.
    """
    sized = sized_cohorts(model, cohorts)
    _refuse_strangers(model, store, sized)
    data = store.training_data(sized[min(sized)])
    table = store.split
    rows = np.flatnonzero(table["part"].to_numpy() == "test")
    if not len(rows):
        raise StudyError(
            f"study {model.study!r} has no sealed test set: its scores are out-of-fold, see its leaderboard"
        )
    contenders = contenders_of(model, sized, rows)
    for name in control_names(data):
        contenders[f"control {name}"] = metrics.softmax(kept_predictions(name, data, rows, store.controls / name))
    sealed, before = store.open_seal(command, model.digest)
    labels = sealed.set_index("id")["label"].loc[table["id"].iloc[rows]].to_numpy(np.int64)
    patients = table["patient"].to_numpy(str)[rows]
    result = measured(model, contenders, labels, patients, replicates=replicates, seed=seed)
    settings = store.settings
    evaluation = Evaluation(
        **result,
        part=SEALED,
        dataset=settings.dataset,
        protocol=settings.protocol,
        leaky=_leaky(settings),
        synthetic=bool(settings.facts.get("synthetic", False)),
        openings_before=before,
        note=" ".join(filter(None, [_note(store, model, before), _patients_note(settings)])),
    )
    store.close_seal(before, {model.name: evaluation.to_dict()["metrics"]})
    keep(model, store, evaluation, command)
    if before:
        warnings.warn(evaluation.note, stacklevel=2)
    return evaluation


def sized_cohorts(model: Export, cohorts: Cohorts) -> Mapping[int, Cohort]:
    """Return one cohort per image size that the members read."""
    missing = [size for size in model.image_sizes if size not in cohorts]
    if missing:
        raise StudyError(
            f"{model.name} reads images of {', '.join(map(str, model.image_sizes))} px, but no cohort was prepared at "
            f"{missing[0]} px: prepare one for each size"
        )
    return {size: cohorts[size] for size in model.image_sizes}


def _refuse_strangers(model: Export, store: StudyFolder, sized: Mapping[int, Cohort]) -> None:
    settings = store.settings
    made_in = model.info["study"]
    if (made_in["name"], made_in["created"]) != (settings.name, settings.created):
        raise StudyError(
            f"{model.name} was made in study {made_in['name']!r} begun {made_in['created']}, not in {settings.name!r} "
            f"begun {settings.created}: its training patients may be among the test patients there. Give its own study"
        )
    for size, cohort in sized.items():
        if settings.digests.get(str(size), cohort.digest) != cohort.digest:
            raise StudyError(
                f"the data of study {settings.name!r} at {size} px have digest {cohort.digest}, the study began with "
                f"{settings.digests[str(size)]}: restore the data that it began with"
            )


def contenders_of(model: Export, sized: Cohorts, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return probabilities [n, C] of the export ("") and, for an ensemble, of its best member and the uniform mean."""
    parts = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        cases = {size: select(cohort.columns, chunk) for size, cohort in sized.items()}
        parts.append((model.member_logits(cases), model.has_input(cases)))
    logits, present = (np.concatenate(values, axis=1) for values in zip(*parts, strict=True))  # [M, n, C], [M, n]
    result = {"": model.ensemble.predict(logits, present)}
    if len(logits) > 1:
        result[BEST_MEMBER] = metrics.softmax(logits[0])
        result[UNIFORM_MEAN] = ENSEMBLES.build("average").predict(logits, present)
    return result


def measured(
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


def _note(store: StudyFolder, model: Export, before: int) -> str:
    if not before:
        return ""
    openings = store.openings()
    same = sum(opening["subject"] == model.digest for opening in openings[:before])
    without = sum(opening["figures"] is None and "shows" not in opening for opening in openings[:before])
    ended = f" {without} of them ended without a result." if without else ""
    return (
        f"The sealed test set of study {model.study!r} was opened {before} time{'s' if before > 1 else ''} before, "
        f"first on {openings[0]['time']}, {same} of them for this model.{ended} Choosing among models by these "
        f"scores makes them optimistic; the record is {store.folder / layout.SEALED / layout.OPENINGS}."
    )


def _leaky(settings: StudySettings) -> bool:
    """Whether patients of the test part may stand in the training part; a prescribed test part may be known not to."""
    apart = settings.protocol == "given" and settings.facts.get("test_of_other_patients", False)
    return settings.leaky and not apart


def _patients_note(settings: StudySettings) -> str:
    if settings.facts.get("patients_known", True):
        return ""
    return "Patients are unknown and every image counts as one: the intervals are narrower than they should be."


def keep(model: Export, store: StudyFolder | None, evaluation: Evaluation, command: str) -> Evaluation:
    """Append to the study's `evaluation.json` and to the export's model card, and return the evaluation.

    No evaluation is overwritten by a later one. A card that cannot be written is warned of.

    Args:
        store: None where the study is not at hand.
    """
    if store is not None:
        path = store.folder / layout.EVALUATION
        with files.lock(store.folder / layout.SEALED / layout.LOCK, "writing down an evaluation", wait=True):
            files.write_json(path, [*store.evaluations(), evaluation.to_dict() | {"command": command}])
    try:
        add_evaluation(model.folder, evaluation.to_dict(), "" if store is None else seal_sentence(store))
    except HistotuneError as error:
        warnings.warn(
            f"The model card of {model.name} could not be updated with this evaluation: {error}", stacklevel=3
        )
    return evaluation
