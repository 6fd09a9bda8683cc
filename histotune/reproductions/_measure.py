"""Measure trained contenders and their ensembles on the sealed test part, opened once for all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histotune import files, metrics
from histotune.calibration import apply_temperatures, fit_temperature
from histotune.cohort import Cohort
from histotune.config import parse, unparse
from histotune.ensembles import ENSEMBLES
from histotune.model import load_model
from histotune.reproductions._base import Reproduction
from histotune.statistics import Difference, paired_bootstrap_of_seeds
from histotune.store import StudyStore, TrialRecord

CHUNK = 256  # images in memory at once
Scores = Mapping[str, Mapping[int, np.ndarray]]
"""{row: {seed: calibrated logits [n, C]}}."""


@dataclass(frozen=True)
class Row:
    """What a contender or an ensemble reaches on the test part.

    Attributes:
        seeds: of its trainings.
        values: {metric: one value per seed}.
        differences: {metric: this minus the reference, averaged over the seeds that both have, paired by patient}.
        confusions: per seed, cases by true class (rows) and predicted class (columns).
    """

    seeds: list[int]
    values: Mapping[str, list[float]]
    differences: Mapping[str, Difference]
    confusions: list[list[list[int]]]

    def mean(self, metric: str) -> float:
        """Return the mean over seeds."""
        return float(np.mean(self.values[metric]))

    def spread(self, metric: str) -> float:
        """Return the standard deviation over seeds, with n - 1; NaN for one seed."""
        return float(np.std(self.values[metric], ddof=1)) if len(self.seeds) > 1 else float("nan")


@dataclass(frozen=True)
class Measured:
    """Everything that was read off the test part.

    Attributes:
        subject: digest of the models and of what was measured; another one is measured anew.
        rows: by contender or ensemble.
        cases, patients: of each part of the split.
        classes: their names.
        openings_before: how often the seal of the study had been opened already.
    """

    subject: str
    rows: Mapping[str, Row]
    cases: Mapping[str, int]
    patients: Mapping[str, int]
    classes: list[str] = field(default_factory=list)
    openings_before: int = 0


def measure(
    reproduction: Reproduction,
    trained: Mapping[str, Sequence[TrialRecord]],
    store: StudyStore,
    cohort: Cohort,
    *,
    command: str,
    said: Callable[[str], None],
    replicates: int = 2000,
) -> Measured:
    """Score the test part with every training, open the seal once, on the record, and measure all rows.

    What was measured before, of the very same trainings, is read from the study's `reproduction.json` instead.

    Args:
        trained: the trainings of each contender's best configuration, one per seed.
        command: what the record of the opening shall say was called.
        said: hears what is being done.
        replicates: draws of patients.
    """
    path = store.folder / "reproduction.json"
    subject = _subject(reproduction, trained, replicates)
    if path.exists():
        known = parse(Measured, json.loads(path.read_text(encoding="utf-8")), path.name)
        if known.subject == subject:
            return known
    table = store.split_table()
    rows = np.flatnonzero(table["part"].to_numpy() == "test")
    count = sum(map(len, trained.values()))
    said(f"scoring {len(rows)} test cases with {count} trainings, and {len(reproduction.ensembles)} ensembles per seed")
    scores = _joined(reproduction, _scores(trained, cohort, rows))
    sealed, before = store.open_seal(command, subject)
    labels = sealed.set_index("id")["label"].loc[table["id"].iloc[rows]].to_numpy(np.int64)
    patients = table["patient"].to_numpy(str)
    about = {"positive": store.settings().positive, "replicates": replicates}
    parts = {part: table["part"].to_numpy() == part for part in ("train", "val", "test")}
    measured = Measured(
        subject=subject,
        rows=_rows(reproduction, scores, labels, patients[rows], about),
        cases={part: int(where.sum()) for part, where in parts.items()},
        patients={part: len(np.unique(patients[where])) for part, where in parts.items()},
        classes=store.settings().classes,
        openings_before=before,
    )
    files.write_json(path, unparse(measured))
    return measured


def _scores(trained: Mapping[str, Sequence[TrialRecord]], cohort: Cohort, rows: np.ndarray) -> Scores:
    """Score test cases with every training; the temperature of each is fitted on its own validation predictions."""
    images = cohort.arrays["image"]
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    scores: dict[str, dict[int, np.ndarray]] = {}
    for label, records in trained.items():
        for record in records:
            predictor, validation = load_model(record.folder), record.predictions()
            logits = np.concatenate([predictor.logits(images[chunk]) for chunk in chunks])
            temperature = fit_temperature(validation.logits, validation.labels)
            scores.setdefault(label, {})[predictor.config.seed] = apply_temperatures(logits[None], [temperature])[0]
    return scores


def _joined(reproduction: Reproduction, scores: Scores) -> dict[str, dict[int, np.ndarray]]:
    """Return the probabilities [n, C] of every contender, and of the ensembles of each seed that all members have."""
    found = {label: {s: metrics.softmax(logits) for s, logits in seeds.items()} for label, seeds in scores.items()}
    members = [scores[label] for label in reproduction.members]
    common = sorted(set.intersection(*(set(member) for member in members)))
    for label, strategy in reproduction.ensembles.items():
        ensemble = ENSEMBLES.build(strategy)
        found[label] = {seed: ensemble.predict(np.stack([member[seed] for member in members])) for seed in common}
    return found


def _rows(
    reproduction: Reproduction,
    found: Mapping[str, Mapping[int, np.ndarray]],
    labels: np.ndarray,
    patients: np.ndarray,
    about: Mapping[str, Any],
) -> dict[str, Row]:
    tested = {
        (row, table.tested) for table in reproduction.tables for row in table.rows if row != reproduction.reference
    }
    against = found[reproduction.reference]
    rows = {}
    for label, seeds in found.items():
        if not seeds:
            continue
        values = [metrics.evaluate(seeds[seed], labels, positive=about["positive"]) for seed in sorted(seeds)]
        both = sorted(seeds.keys() & against.keys())
        pairs = [seeds[seed] for seed in both], [against[seed] for seed in both]
        asked = sorted(metric for row, metric in tested if row == label and both)
        rows[label] = Row(
            seeds=sorted(seeds),
            values={name: [value[name] for value in values] for name in values[0]},
            differences={name: paired_bootstrap_of_seeds(name, *pairs, labels, patients, **about) for name in asked},
            confusions=[
                metrics.confusion_matrix(metrics.decide(seeds[seed]), labels, seeds[seed].shape[1]).tolist()
                for seed in sorted(seeds)
            ],
        )
    return rows


def _subject(reproduction: Reproduction, trained: Mapping[str, Sequence[TrialRecord]], replicates: int) -> str:
    """Return 12 hexadecimal digits over everything that decides what is measured."""
    tables = [[*table.rows, table.tested] for table in reproduction.tables]
    models = {label: [_weights(record.folder) for record in records] for label, records in trained.items()}
    decisive = [reproduction.reference, list(reproduction.members), dict(reproduction.ensembles), tables, replicates]
    return hashlib.sha256(json.dumps([models, decisive], sort_keys=True).encode()).hexdigest()[:12]


def _weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
