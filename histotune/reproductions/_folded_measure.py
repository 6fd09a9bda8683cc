"""What every patient was given out of folds, and what of it is measured over which patients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histotune.data.splits import TrainingData
from histotune.ensembles.strategies import ENSEMBLES
from histotune.metrics import scores as metrics
from histotune.reproductions._tables import Arm, lines
from histotune.reproductions.contract import Published, Table
from histotune.reproductions.report import Section
from histotune.reproductions.rows import Cases, Measured, Probabilities, measure_rows
from histotune.storage.study_folder import StudyStore, TrialRecord

REPLICATES = 2000


@dataclass(frozen=True)
class Scored:
    """Everything that was scored out of folds.

    Attributes:
        labels, patients: [n], of all cases with a label.
        present: {modality: bool [n]}.
        folds: {seed: int64 [n]}, the fold of each case from 1.
        logits: {row: {seed: float64 [n, C]}}, NaN where a row does not score a case.
        heard: {row: {seed: bool [n]}}, whether the row hears anything of a case.
        networks: rows that are networks; the others are linear controls.
        records: {row: {seed: its record}}.
        stores: {seed: study}.
        positive: index of the positive class.
    """

    labels: np.ndarray
    patients: np.ndarray
    present: Mapping[str, np.ndarray]
    folds: Mapping[int, np.ndarray]
    logits: Mapping[str, Mapping[int, np.ndarray]]
    heard: Mapping[str, Mapping[int, np.ndarray]]
    networks: Sequence[str]
    records: Mapping[str, Mapping[int, TrialRecord]]
    stores: Mapping[int, StudyStore]
    classes: tuple[str, ...]
    positive: int

    @classmethod
    def of(
        cls,
        records: Mapping[str, Mapping[int, TrialRecord]],
        stores: Mapping[int, StudyStore],
        data: TrainingData,
        networks: Sequence[str],
    ) -> Scored:
        """Read the saved predictions of all rows.

        Args:
            data: of any of the studies, which share all but their folds.
        """
        place = {name: at for at, name in enumerate(data.ids)}
        logits: dict[str, dict[int, np.ndarray]] = {}
        heard: dict[str, dict[int, np.ndarray]] = {}
        for row, seeds in records.items():
            for seed, record in seeds.items():
                saved = record.predictions()
                at = np.array([place[name] for name in saved.ids])
                whole, there = np.full((len(data.ids), len(data.classes)), np.nan), np.zeros(len(data.ids), bool)
                whole[at], there[at] = saved.logits, saved.heard
                logits.setdefault(row, {})[seed], heard.setdefault(row, {})[seed] = whole, there
        dealt = {seed: store.split_table()["fold"].to_numpy(np.int64) for seed, store in stores.items()}
        return cls(
            data.labels, data.patients, data.present, dealt, logits, heard, networks, records, stores, data.classes,
            data.positive,
        )  # fmt: skip

    @property
    def seeds(self) -> list[int]:
        """Seeds of folds and initialisations."""
        return sorted(self.folds)

    def having(self, modalities: Sequence[str]) -> np.ndarray:
        """Return the rows of the patients who have all of these modalities."""
        return np.flatnonzero(np.all([self.present[name] for name in modalities], axis=0))

    def probabilities(self) -> dict[str, dict[int, np.ndarray]]:
        """Return {row: {seed: [n, C]}}; the logits are taken as they are, for no case is left to fit a temperature."""
        return {row: {s: metrics.softmax(one) for s, one in seeds.items()} for row, seeds in self.logits.items()}

    def stacked(self, rows: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits [M, n, C] of some rows, and who hears whom, bool [M, n]."""
        return np.stack([self.logits[row][seed] for row in rows]), np.stack([self.heard[row][seed] for row in rows])

    def mean(self, rows: Sequence[str]) -> dict[int, np.ndarray]:
        """Return the mean {seed: [n, C]} of the probabilities of those rows that hear anything of a case."""
        average = ENSEMBLES.build("average")
        return {seed: average.predict(*self.stacked(rows, seed)) for seed in self.seeds}

    def over(
        self,
        name: str,
        tables: Sequence[Table],
        found: Probabilities,
        rows: np.ndarray,
        reference: str,
        published: Mapping[str, Published],
    ) -> Arm:
        """Measure rows of tables over some patients, each against a reference.

        Args:
            name: of the patients, for a person.
            rows: of the cases.
        """
        chosen = {row: {s: p[rows] for s, p in seeds.items()} for row, seeds in found.items()}
        known = {row: seeds for row, seeds in chosen.items() if all(np.isfinite(p).all() for p in seeds.values())}
        cases = Cases(self.labels[rows], self.patients[rows], self.positive, replicates=REPLICATES)
        counted = {"test": len(np.unique(self.patients[rows]))}
        measured = Measured(
            subject=_subject(known), rows=measure_rows(reference, tables, known, cases), cases={"test": len(rows)},
            patients=counted, classes=list(self.classes),
        )  # fmt: skip
        written = [(table, lines(table, measured, published)) for table in tables]
        trained = {row: list(self.records[row].values()) for row in self.networks}
        return Arm(name, self.stores[self.seeds[0]], trained, measured, written, reference)


@dataclass(frozen=True)
class Picture:
    """A picture of a comparison.

    Attributes:
        kind: `bars` or `heat`.
        stem: of its file.
        title, caption: in words.
        rows: names.
        values: for bars {panel: per row (value, low, high)}, for a heat table {column: values per row}.
        marked: rows that are set apart.
    """

    kind: str
    stem: str
    title: str
    caption: str
    rows: Sequence[str]
    values: Mapping[str, Sequence[tuple[float, ...]]]
    marked: Sequence[str] = ()


@dataclass(frozen=True)
class Compared:
    """What a comparison gave: tables by arm, further sections, pictures, and sentences for the head of the report."""

    arms: Sequence[Arm]
    sections: Sequence[Section]
    pictures: Sequence[Picture]
    head: Sequence[str] = ()


def _subject(found: Probabilities) -> str:
    digest = hashlib.sha256()
    for row, seeds in sorted(found.items()):
        digest.update(row.encode())
        for _, probabilities in sorted(seeds.items()):
            digest.update(np.ascontiguousarray(probabilities).tobytes())
    return digest.hexdigest()[:12]
