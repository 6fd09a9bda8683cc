"""What contenders and their ensembles reach on labelled cases: values per seed, intervals, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from histotune.ensembles.crossfit import temperature_of
from histotune.ensembles.strategies import ENSEMBLES
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import bootstrap_of_seeds, paired_bootstrap_of_seeds
from histotune.metrics.calibration import apply_temperatures, choose_threshold
from histotune.metrics.intervals import ConfidenceInterval, Difference
from histotune.reproductions.papers import ComparisonTable, Reproduction
from histotune.storage.records import TrialRecord
from histotune.training.efficiency import Efficiency

Scores = Mapping[str, Mapping[int, np.ndarray]]
"""{contender: {seed: calibrated logits [n, C]}}."""
Probabilities = Mapping[str, Mapping[int, np.ndarray]]
"""{row: {seed: [n, C]}}."""
TrainingsByContender = Mapping[str, Sequence[TrialRecord]]
"""{contender: the trainings of its best configuration, one per seed}."""


@dataclass(frozen=True)
class MeasuredCases:
    """The cases that are measured.

    Attributes:
        labels: int64 [n].
        patients: [n].
        positive: index of the positive class.
        strata: [n], where every metric is the mean over them; None for none.
        replicates: draws of patients.
    """

    labels: np.ndarray
    patients: np.ndarray
    positive: int
    strata: np.ndarray | None = None
    replicates: int = 2000


@dataclass(frozen=True)
class ResultRow:
    """What a contender or an ensemble reaches.

    Attributes:
        seeds: of its trainings.
        values: {metric: one value per seed}.
        differences: {metric: this minus the reference, averaged over the seeds that both have, paired by patient}.
        confusions: per seed, cases by true class (rows) and predicted class (columns).
        intervals: {metric: the mean over seeds, with its interval over other patients and seeds}.
    """

    seeds: list[int]
    values: Mapping[str, list[float]]
    differences: Mapping[str, Difference]
    confusions: list[list[list[int]]]
    intervals: Mapping[str, ConfidenceInterval] = field(default_factory=dict)

    def mean(self, metric: str) -> float:
        """Return the mean over seeds."""
        return float(np.mean(self.values[metric]))

    def spread(self, metric: str) -> float:
        """Return the standard deviation over seeds, with n - 1; NaN for one seed."""
        return float(np.std(self.values[metric], ddof=1)) if len(self.seeds) > 1 else float("nan")


@dataclass(frozen=True)
class MeasuredContender:
    """Everything that was read off one set of cases.

    Attributes:
        subject: digest of the models and of what was measured; another one is measured anew.
        rows: by contender or ensemble.
        cases, patients: of each part of the split; `test` is what was measured.
        classes: their names.
        openings_before: how often the seal of the study had been opened already.
        at_threshold: as `rows`, with decisions at thresholds chosen on the validation part; empty where no table asks.
        efficiencies: what each contender's network costs to use; empty where no table asks.
    """

    subject: str
    rows: Mapping[str, ResultRow]
    cases: Mapping[str, int]
    patients: Mapping[str, int]
    classes: list[str] = field(default_factory=list)
    openings_before: int = 0
    at_threshold: Mapping[str, ResultRow] = field(default_factory=dict)
    efficiencies: Mapping[str, Efficiency] = field(default_factory=dict)

    def of(self, table: ComparisonTable) -> Mapping[str, ResultRow]:
        """Return the rows that a table shows."""
        return self.at_threshold if table.at_threshold else self.rows


def joined(reproduction: Reproduction, scores: Scores) -> dict[str, dict[int, np.ndarray]]:
    """Return the probabilities [n, C] of every contender, and of the ensembles of each seed that all members have."""
    result = {label: {s: metrics.softmax(logits) for s, logits in seeds.items()} for label, seeds in scores.items()}
    members = [scores[label] for label in reproduction.members]
    common = sorted(set.intersection(*(set(member) for member in members))) if members else []
    for label, strategy in reproduction.ensembles.items():
        ensemble = ENSEMBLES.build(strategy)
        result[label] = {seed: ensemble.predict(np.stack([member[seed] for member in members])) for seed in common}
    return result


def measure_rows(
    compared_with: str, tables: Sequence[ComparisonTable], result: Probabilities, cases: MeasuredCases
) -> dict[str, ResultRow]:
    """Measure every row; intervals of the metrics that a table shows of it, differences of those that one tests.

    Args:
        compared_with: row of the reference.
    """
    reference = result[compared_with]
    about: dict[str, Any] = {"positive": cases.positive, "strata": cases.strata, "replicates": cases.replicates}
    on = (cases.labels, cases.patients)
    rows = {}
    for label, seeds in ((label, seeds) for label, seeds in result.items() if seeds):
        shown = sorted({metric for table in tables if label in table.rows for metric in table.metrics})
        values = [_evaluate(seeds[seed], cases) for seed in sorted(seeds)]
        both = sorted(seeds.keys() & reference.keys()) if label != compared_with else []
        pairs = [seeds[seed] for seed in both], [reference[seed] for seed in both]
        asked = sorted({table.tested for table in tables if label in table.rows and both})
        every = [seeds[seed] for seed in sorted(seeds)]
        rows[label] = ResultRow(
            seeds=sorted(seeds),
            values={name: [value[name] for value in values] for name in values[0]},
            differences={name: paired_bootstrap_of_seeds(name, *pairs, *on, **about) for name in asked},
            confusions=[metrics.confusion_matrix(metrics.decide(p), cases.labels, p.shape[1]).tolist() for p in every],
            intervals={name: bootstrap_of_seeds(name, every, *on, **about) for name in shown},
        )
    return rows


def thresholds(reproduction: Reproduction, trained: TrainingsByContender, positive: int) -> dict[str, dict[int, float]]:
    """Choose {row: {seed: threshold}} on the validation part, by balanced accuracy, for every seed apart."""
    validation: dict[str, dict[int, np.ndarray]] = {}
    for label, records in trained.items():
        for record in records:
            saved = record.predictions()
            temperature = temperature_of(saved.logits, saved.labels, saved.patients)
            logits = apply_temperatures(saved.logits[None], [temperature])[0]
            validation.setdefault(label, {})[record.config()["seed"]] = logits
            labels = saved.labels  # of one validation part
    return {
        label: {seed: choose_threshold(p, labels, positive=positive) for seed, p in seeds.items()}
        for label, seeds in joined(reproduction, validation).items()
    }


def move(probabilities: np.ndarray, threshold: float, positive: int) -> np.ndarray:
    """Move two-class probabilities [n, 2] so that `threshold` of the positive class comes to lie at .5.

    p' = p (1 - t) / (p (1 - t) + (1 - p) t): a decision at .5 is then one at t, and the ranking stays.

    >>> move(np.array([[0.8, 0.2], [1.0, 0.0]]), 0.2, 1).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    p = probabilities[:, positive]
    up, down = p * (1 - threshold), (1 - p) * threshold
    moved = np.empty_like(probabilities)
    moved[:, positive] = up / (up + down)
    moved[:, 1 - positive] = 1 - moved[:, positive]
    return moved


def _evaluate(probabilities: np.ndarray, cases: MeasuredCases) -> dict[str, float]:
    """Return every metric, its mean over strata where there are."""
    if cases.strata is None:
        return metrics.evaluate(probabilities, cases.labels, positive=cases.positive)
    parts = [cases.strata == name for name in np.unique(cases.strata)]
    result = [metrics.evaluate(probabilities[p], cases.labels[p], positive=cases.positive) for p in parts]
    return {name: float(np.mean([values[name] for values in result])) for name in result[0]}
