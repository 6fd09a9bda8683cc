"""What every patient was given out of folds, and what of it is measured over which patients."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from histotune.data.splits import TrainingData
from histotune.ensembles.crossfit import temperature_of
from histotune.ensembles.strategies import ENSEMBLES, Ensemble
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import holm, paired_bootstrap_of_seeds
from histotune.metrics.calibration import apply_temperatures
from histotune.metrics.intervals import Difference
from histotune.metrics.scores import in_words
from histotune.reproductions.papers import ComparisonTable, Published
from histotune.reproductions.report import Arm, TableSection, lines, shown_p
from histotune.reproductions.rows import MeasuredCases, MeasuredContender, Probabilities, measure_rows
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import StudyFolder

REPLICATES = 2000
TESTED = "auroc"
Seeds = Mapping[int, np.ndarray]
"""{seed: probabilities [n, C]}."""


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """Everything that was scored out of folds.

    Attributes:
        labels, patients: [n], of all cases with a label.
        present: {modality: bool [n]}.
        folds: {seed: int64 [n]}, the fold of each case from 1.
        logits: {row: {seed: float64 [n, C]}}, NaN where a row does not score a case.
        has_input: {row: {seed: bool [n]}}, whether the row has any input of a case.
        networks: rows that are networks; the others are linear baselines.
        records: {row: {seed: its record}}.
        stores: {seed: study}.
        positive: index of the positive class.
    """

    labels: np.ndarray
    patients: np.ndarray
    present: Mapping[str, np.ndarray]
    folds: Mapping[int, np.ndarray]
    logits: Mapping[str, Mapping[int, np.ndarray]]
    has_input: Mapping[str, Mapping[int, np.ndarray]]
    networks: Sequence[str]
    records: Mapping[str, Mapping[int, TrialRecord]]
    stores: Mapping[int, StudyFolder]
    classes: tuple[str, ...]
    positive: int

    @classmethod
    def of(
        cls,
        records: Mapping[str, Mapping[int, TrialRecord]],
        stores: Mapping[int, StudyFolder],
        data: TrainingData,
        networks: Sequence[str],
    ) -> OutOfFoldPredictions:
        """Read the saved predictions of all rows.

        Args:
            data: of any of the studies, which share all but their folds.
        """
        place = {name: at for at, name in enumerate(data.ids)}
        logits: dict[str, dict[int, np.ndarray]] = {}
        observed: dict[str, dict[int, np.ndarray]] = {}
        for row, seeds in records.items():
            for seed, record in seeds.items():
                saved = record.predictions()
                at = np.array([place[name] for name in saved.ids])
                whole, there = np.full((len(data.ids), len(data.classes)), np.nan), np.zeros(len(data.ids), bool)
                whole[at], there[at] = saved.logits, saved.has_input
                logits.setdefault(row, {})[seed], observed.setdefault(row, {})[seed] = whole, there
        dealt = {seed: store.split["fold"].to_numpy(np.int64) for seed, store in stores.items()}
        return cls(
            data.labels,
            data.patients,
            data.present,
            dealt,
            logits,
            observed,
            networks,
            records,
            stores,
            data.classes,
            data.positive,
        )

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
        """Return the logits [M, n, C] of some rows, and which row has an input of which case, bool [M, n]."""
        return np.stack([self.logits[row][seed] for row in rows]), np.stack([self.has_input[row][seed] for row in rows])

    def mean(self, rows: Sequence[str]) -> dict[int, np.ndarray]:
        """Return the mean {seed: [n, C]} of the probabilities of those rows that have any input of a case."""
        average = ENSEMBLES.build("average")
        return {seed: average.predict(*self.stacked(rows, seed)) for seed in self.seeds}

    def over(
        self,
        name: str,
        tables: Sequence[ComparisonTable],
        result: Probabilities,
        rows: np.ndarray,
        reference: str,
        published: Mapping[str, Published],
    ) -> Arm:
        """Measure rows of tables over some patients, each against a reference.

        Args:
            name: of the patients, for a person.
            rows: of the cases.
        """
        chosen = {row: {s: p[rows] for s, p in seeds.items()} for row, seeds in result.items()}
        known = {row: seeds for row, seeds in chosen.items() if all(np.isfinite(p).all() for p in seeds.values())}
        cases = MeasuredCases(self.labels[rows], self.patients[rows], self.positive, replicates=REPLICATES)
        counted = {"test": len(np.unique(self.patients[rows]))}
        measured = MeasuredContender(
            subject=_subject(known),
            rows=measure_rows(reference, tables, known, cases),
            cases={"test": len(rows)},
            patients=counted,
            classes=list(self.classes),
        )
        written = [(table, lines(table, measured, published)) for table in tables]
        trained = {row: list(self.records[row].values()) for row in self.networks}
        return Arm(name, self.stores[self.seeds[0]], trained, measured, written, reference)


@dataclass(frozen=True)
class ComparisonFigure:
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
class Comparison:
    """What a comparison gave: tables by arm, further sections, pictures, and sentences for the head of the report."""

    arms: Sequence[Arm]
    sections: Sequence[TableSection] = ()
    pictures: Sequence[ComparisonFigure] = ()
    head: Sequence[str] = ()


def _subject(result: Probabilities) -> str:
    digest = hashlib.sha256()
    for row, seeds in sorted(result.items()):
        digest.update(row.encode())
        for _, probabilities in sorted(seeds.items()):
            digest.update(np.ascontiguousarray(probabilities).tobytes())
    return digest.hexdigest()[:12]


class Strategy(NamedTuple):
    """A registered ensemble and its parameters."""

    name: str
    params: Mapping[str, Any]


def crossfit(
    strategy: Strategy,
    logits: np.ndarray,
    present: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    folds: np.ndarray,
    asked: Sequence[np.ndarray] = (),
) -> list[np.ndarray]:
    """Score every fold by a stage 2 that was fitted, as the members' temperatures are, to the other folds alone.

    Args:
        logits: [M, n, C], out of folds: a member's logits of a case come from a network that never saw its patient.
        present: bool [M, n], whose modality is there.
        labels, patients, folds: [n].
        asked: masks like `present` under which the folds are scored; none is `present` alone. A member that is there
            and withheld counts for nothing, not even where no other member is left.

    Returns:
        probabilities [n, C], one for each mask.
    """
    masks = list(asked) or [present]
    result = [np.full(logits.shape[1:], np.nan) for _ in masks]
    for fold in np.unique(folds):
        scored, others = folds == fold, np.flatnonzero((folds != fold) & present.any(axis=0))
        known = (logits[:, others], present[:, others], labels[others], patients[others])
        ensemble, temperatures, _ = fit(strategy, *known)
        tempered = apply_temperatures(logits[:, scored], temperatures)
        for probabilities, mask in zip(result, masks, strict=True):
            withheld = (present & ~mask)[:, scored, None]
            probabilities[scored] = ensemble.predict(np.where(withheld, 0.0, tempered), mask[:, scored])
    return result


def fit(
    strategy: Strategy, logits: np.ndarray, present: np.ndarray, labels: np.ndarray, patients: np.ndarray
) -> tuple[Ensemble, list[float], float]:
    """Fit each member's temperature, on the cases of which it has an input, and the strategy; with the seconds.

    The temperature is 1 where it does not help patients that it was not fitted on; see `temperature_of`.
    """
    began = time.perf_counter()
    members = zip(logits, present, strict=True)
    temperatures = [_temperature(one[there], labels[there], patients[there]) for one, there in members]
    ensemble = ENSEMBLES.build(strategy.name, **strategy.params)
    ensemble.fit(apply_temperatures(logits, temperatures), labels, present)
    return ensemble, temperatures, time.perf_counter() - began


def _temperature(logits: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
    """Return `temperature_of`: every way to join and every combination of members asks for the same ones."""
    return _fitted(logits.tobytes(), logits.dtype.str, tuple(labels.tolist()), tuple(patients.tolist()))


@functools.lru_cache(maxsize=4096)
def _fitted(logits: bytes, kind: str, labels: tuple[int, ...], patients: tuple[str, ...]) -> float:
    rows = np.frombuffer(logits, np.dtype(kind)).reshape(len(labels), -1)
    return temperature_of(rows, np.array(labels), np.array(patients))


class Pair(NamedTuple):
    """What is changed, and the (row, its probabilities) with and without it."""

    what: str
    one: tuple[str, Seeds]
    other: tuple[str, Seeds]


def difference(one: Seeds, other: Seeds, scored: OutOfFoldPredictions, rows: np.ndarray) -> Difference:
    """Return AUROC of one minus the other over some patients, with its interval over other patients and seeds."""
    both = sorted(one.keys() & other.keys())
    first, second = ([p[seed][rows] for seed in both] for p in (one, other))
    on = (scored.labels[rows], scored.patients[rows])
    return paired_bootstrap_of_seeds(TESTED, first, second, *on, positive=scored.positive, replicates=REPLICATES)


def pairs_section(title: str, pairs: Sequence[Pair], scored: OutOfFoldPredictions, rows: np.ndarray) -> TableSection:
    """Compare the two rows of every pair."""
    result = [difference(pair.one[1], pair.other[1], scored, rows) for pair in pairs]
    corrected = holm([one.p for one in result])
    cells, numbers = [], []
    for pair, d, p in zip(pairs, result, corrected, strict=True):
        names = f"{pair.one[0]}, minus {pair.other[0]}"
        cells.append([pair.what, names, shown_difference(d), shown_p(d.p), shown_p(p)])
        about = {"difference": d.value, "low": d.low, "high": d.high, "p": d.p, "p_corrected": p}
        numbers.append({"row": names, "metric": TESTED, **about})
    head = ["", "rows", f"{in_words(TESTED)}, difference [95 %]", "p", "p corrected"]
    return TableSection(title, "", head, cells, numbers)


def shown_difference(d: Difference) -> str:
    """Write a difference with its interval."""
    return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
