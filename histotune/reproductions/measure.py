"""Measure trained contenders and their ensembles: on the sealed test set, evaluated once for all, or on other data."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.core import files
from histotune.core.config import unparse
from histotune.core.progress import Message
from histotune.core.provenance import short_digest
from histotune.data.cohort import Cohort, select
from histotune.ensembles.crossfit import temperature_of
from histotune.errors import DataError
from histotune.evaluation.external import correspondence
from histotune.ingest.datasets import DATASETS
from histotune.metrics.calibration import apply_temperatures
from histotune.models.predictor import load_model
from histotune.reproductions.papers import Reproduction
from histotune.reproductions.rows import (
    MeasuredCases,
    MeasuredContender,
    Probabilities,
    TrainingsByContender,
    joined,
    measure_rows,
    move,
    thresholds,
)
from histotune.storage import layout
from histotune.storage.study_folder import StudyFolder
from histotune.training.efficiency import Efficiency, efficiency

CHUNK = 256  # images in memory at once
BY_IMAGE, BY_PATIENT, MEAN = "by image", "by patient", "mean"

_MEASURED = "restore it from a copy, or delete it to measure anew"


@dataclass(frozen=True)
class Meter:
    """What is measured, of which trainings.

    Attributes:
        trained: the trainings of each contender's best configuration, one per seed.
        said: is called with what is being done.
        replicates: draws of patients.
    """

    reproduction: Reproduction
    trained: TrainingsByContender
    store: StudyFolder
    said: Message
    replicates: int = 2000

    def sealed(self, cohort: Cohort, *, command: str) -> MeasuredContender:
        """Score the test part with every training, open the seal once, on the record, and measure all rows.

        What was measured before, of the very same trainings, is read from the study's `reproduction.json` instead.

        Args:
            cohort: the study's data.
            command: what the record of the opening shall say was called.
        """
        path, subject = self.store.folder / layout.reproduction(), self._subject(elsewhere=False)
        if (known := _known(path, subject)) is not None:
            return known[""]
        table, settings = self.store.split, self.store.settings
        rows = np.flatnonzero(table["part"].to_numpy() == "test")
        count, ensembles = sum(map(len, self.trained.values())), len(self.reproduction.ensembles)
        further = f", and {ensembles} ensembles per seed" if ensembles else ""
        self.said(f"scoring {len(rows)} test cases with {count} trainings{further}")
        result = self._probabilities(cohort, rows)
        costs = self._efficiencies()
        sealed, before = self.store.open_seal(command, subject)
        labels = sealed.set_index("id")["label"].loc[table["id"].iloc[rows]].to_numpy(np.int64)
        patients = table["patient"].to_numpy(str)
        parts = {part: table["part"].to_numpy() == part for part in ("train", "val", "test")}
        measured = MeasuredContender(
            subject=subject,
            **self._rows(result, MeasuredCases(labels, patients[rows], settings.positive, replicates=self.replicates)),
            cases={part: int(where.sum()) for part, where in parts.items()},
            patients={part: len(np.unique(patients[where])) for part, where in parts.items()},
            classes=settings.classes,
            openings_before=before,
            efficiencies=costs,
        )
        files.write_json(path, {"": unparse(measured)})
        means = {label: {name: row.mean(name) for name in row.values} for label, row in measured.rows.items()}
        self.store.close_seal(before, means)
        return measured

    def elsewhere(self, cohort: Cohort, labels: np.ndarray) -> dict[str, MeasuredContender]:
        """Measure all rows on other data, to which nothing is fitted, by image and by patient.

        A patient's probability is the mean over the images. Where the dataset names strata, such as magnifications,
        each stands apart, and then their mean: {"40x, by image": ..., "mean, by patient": ...}.

        Args:
            cohort: prepared at the image size of the trainings.
            labels: int64 [N], in the numbering of the cohort's classes.

        Raises:
            DataError: its classes are others, it shares images with the study, or a patient has two labels.
        """
        path = self.store.folder / layout.reproduction(cohort.name)
        subject = self._subject(cohort.digest, elsewhere=True)
        if (known := _known(path, subject)) is not None:
            return known
        settings = self.store.settings
        check_elsewhere(self.store, cohort, labels)
        translation, _ = correspondence(
            settings.classes, settings.positive, settings.name, cohort, dataset=settings.dataset
        )
        self.said(f"scoring {len(cohort)} cases of {cohort.name} with {sum(map(len, self.trained.values()))} trainings")
        scored = self._probabilities(cohort, np.arange(len(cohort)))
        patients, strata = cohort.table["patient"].to_numpy(str), _strata(cohort)
        result = {}
        for (name, chosen), level in itertools.product(_parts(strata), (BY_IMAGE, BY_PATIENT)):
            self.said(f"measuring {', '.join(filter(None, (name, level)))}: {len(chosen)} images")
            groups = _groups(patients[chosen], strata[chosen]) if level == BY_PATIENT else np.arange(len(chosen))
            first = chosen[np.unique(groups, return_index=True)[1]]
            within = strata[first] if name == MEAN else None
            cases = MeasuredCases(
                translation[labels[first]], patients[first], settings.positive, within, self.replicates
            )
            result[", ".join(filter(None, (name, level)))] = MeasuredContender(
                subject=subject,
                **self._rows(_grouped(scored, chosen, groups), cases, elsewhere=True),
                cases={"test": len(chosen)},
                patients={"test": len(np.unique(patients[chosen]))},
                classes=settings.classes,
            )
        files.write_json(path, {name: unparse(measured) for name, measured in result.items()})
        return result

    @cached_property
    def _thresholds(self) -> dict[str, dict[int, float]]:
        return thresholds(self.reproduction, self.trained, self.store.settings.positive)

    def _rows(self, result: Probabilities, cases: MeasuredCases, *, elsewhere: bool = False) -> dict[str, Any]:
        """Return the rows of `MeasuredContender`."""
        written = self.reproduction.written(elsewhere=elsewhere)
        plain = [table for table in written if not table.at_threshold]
        moved = [table for table in written if table.at_threshold]
        rows = {"rows": measure_rows(self.reproduction.reference, plain, result, cases)}
        if moved:
            at = {
                label: {seed: move(p, self._thresholds[label][seed], cases.positive) for seed, p in seeds.items()}
                for label, seeds in result.items()
            }
            rows["at_threshold"] = measure_rows(self.reproduction.reference, moved, at, cases)
        return rows

    def _probabilities(self, cohort: Cohort, rows: np.ndarray) -> Probabilities:
        """Score cases with all trainings, each at the temperature of its validation predictions, and all ensembles."""
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        scores: dict[str, dict[int, np.ndarray]] = {}
        for label, records in self.trained.items():
            for record in records:
                predictor, validation = load_model(record.folder), record.predictions()
                logits = np.concatenate([predictor.logits(select(cohort.columns, chunk)) for chunk in chunks])
                temperature = temperature_of(validation.logits, validation.labels, validation.patients)
                scores.setdefault(label, {})[predictor.config.seed] = apply_temperatures(logits[None], [temperature])[0]
        return joined(self.reproduction, scores)

    def _efficiencies(self) -> dict[str, Efficiency]:
        if not self.reproduction.costs:
            return {}
        self.said("measuring what the networks cost to use")
        return {label: efficiency(load_model(records[0].folder)) for label, records in self.trained.items()}

    def _subject(self, *further: str, elsewhere: bool) -> str:
        """Return 12 hexadecimal digits over everything that decides what is measured."""
        own = self.reproduction
        written = own.written(elsewhere=elsewhere)
        tables = [[*table.rows, table.tested, *(["moved"] if table.at_threshold else [])] for table in written]
        models = {label: [_weights(record.folder) for record in records] for label, records in self.trained.items()}
        decisive = [own.reference, list(own.members), dict(own.ensembles), tables, self.replicates]
        return short_digest([models, decisive, *further])


def check_elsewhere(store: StudyFolder | None, cohort: Cohort, labels: np.ndarray) -> None:
    """Refuse other data that are not apart from a study's, or whose patients have no label of their own.

    Args:
        store: None checks the patients only, before there is a study.

    Raises:
        DataError: a patient has two labels, or images stand in the study, too.
    """
    if store is not None:
        table = store.split
        shared = set(table["content"][table["part"] != ""]) & set(cohort.table["content"])
        if shared:
            raise DataError(
                f"{len(shared)} of {len(cohort)} images of {cohort.name!r} stand in study {store.folder.name!r}, too: "
                "nothing measured on them would be of other data; name a cohort of its own"
            )
    several = pd.Series(labels).groupby(cohort.table["patient"]).nunique() > 1
    if several.any():
        raise DataError(
            f"{cohort.name!r}: patient {several.idxmax()!r} has images of both classes, so that there is no label to "
            "measure by patient: correct the file names, or leave the patient out"
        )


def _known(path: Path, subject: str) -> dict[str, MeasuredContender] | None:
    """Return what was measured before of the same subject, by arm."""
    if not path.exists():
        return None
    saved = files.read_json(path, cure=_MEASURED)
    saved = {"": saved} if "subject" in saved else saved  # one arm alone, as earlier versions wrote it
    known = {name: files.restored(MeasuredContender, values, path, _MEASURED) for name, values in saved.items()}
    return known if {measured.subject for measured in known.values()} == {subject} else None


def _strata(cohort: Cohort) -> np.ndarray:
    dataset = DATASETS.build(cohort.name)
    return np.array([dataset.stratum(case) for case in cohort.table["id"]])


def _parts(strata: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return (stratum, its rows), 40x before 100x, and where there are several all rows for the mean over them."""
    names = sorted(np.unique(strata).tolist(), key=lambda name: (len(name), name))
    parts = [(name, np.flatnonzero(strata == name)) for name in names]
    return parts if len(parts) == 1 else [*parts, (MEAN, np.arange(len(strata)))]


def _groups(patients: np.ndarray, strata: np.ndarray) -> np.ndarray:
    return np.unique(np.char.add(np.char.add(patients, "|"), strata), return_inverse=True)[1]


def _grouped(scored: Probabilities, chosen: np.ndarray, groups: np.ndarray) -> Probabilities:
    """Score groups, numbered [len(chosen)], of the chosen rows by their mean."""
    return {label: {seed: _mean_of(p[chosen], groups) for seed, p in seeds.items()} for label, seeds in scored.items()}


def _mean_of(probabilities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Average probabilities [n, C] over groups numbered [n]; returns [G, C]."""
    sums = np.zeros((groups.max() + 1, probabilities.shape[1]))
    np.add.at(sums, groups, probabilities)
    return sums / np.bincount(groups)[:, None]


def _weights(folder: Path) -> str:
    return hashlib.sha256((folder / layout.WEIGHTS).read_bytes()).hexdigest()
