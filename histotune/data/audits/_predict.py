"""How well something that is not the disease tells the label: cross-validated by patient, with its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from histotune.data.audits._base import OK, Finding, Subject
from histotune.data.grouping import by_group
from histotune.metrics.bootstrap import patient_bootstrap
from histotune.metrics.intervals import ConfidenceInterval

FOLDS = 5
CASES = 20_000  # that are drawn at random where there are more
REPLICATES = 500
MARGIN = 0.05  # of AUROC above chance, below which nothing could be gained by it
LEAST = 10  # patients


class Association(NamedTuple):
    """How well labels are predicted out of folds: macro one-vs-rest AUROC, and by how many patients."""

    auroc: ConfidenceInterval
    patients: int

    @property
    def above_chance(self) -> bool:
        """Whether it is significantly above chance, and by a margin."""
        return self.auroc.low > 0.5 and self.auroc.value >= 0.5 + MARGIN


def sample(rows: np.ndarray) -> np.ndarray:
    """Draw rows where there are more than are needed; sorted, always the same."""
    if len(rows) <= CASES:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, CASES, replace=False))


def tell(model: Any, features: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> Association:
    """Predict labels [n] from features [n, F] by a classifier of scikit-learn, patients out of folds.

    The interval is over patients, who are drawn again (`statistics.patient_bootstrap`); its bounds are NaN, and so not
    above chance, where there are too few patients or classes.
    """
    names, classes = np.unique(patients), np.unique(labels)
    if len(names) < LEAST or len(classes) < 2:
        return Association(ConfidenceInterval(float("nan"), float("nan"), float("nan")), len(names))
    codes = np.searchsorted(classes, labels)
    folds = by_group(patients, codes, [1 / FOLDS] * FOLDS, [0])
    probabilities = np.full((len(labels), len(classes)), 1 / len(classes))
    for fold in range(FOLDS):
        held = folds == fold
        if len(np.unique(codes[~held])) > 1:
            model.fit(features[~held], codes[~held])
            probabilities[held] = 0.0
            probabilities[np.ix_(held, model.classes_)] = model.predict_proba(features[held])
    return Association(patient_bootstrap("auroc", probabilities, codes, patients, replicates=REPLICATES), len(names))


def tree() -> Any:
    """Return a small decision tree, for what takes few values."""
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=10, random_state=0)


def smooth() -> Any:
    """Return a logistic regression on numbers, their squares and products, for what varies smoothly."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    return make_pipeline(
        StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler(), LogisticRegression(max_iter=500)
    )


def judge(
    name: str,
    subject: Subject,
    rows: np.ndarray,
    text: Association,
    what: str,
    severity: str,
    advice: str,
    of: str = "label",
) -> Finding:
    """Describe how well `what` predicts the label, or what else it is `of`, of `rows`; `severity` if significant."""
    if np.isnan(text.auroc.low):
        return subject.skipped(
            name, f"{text.patients} patients are too few to measure how well {what} predicts the {of}"
        )
    can = "tells" if text.above_chance else "does not tell"
    sentence = f"{what} alone {can} the {of}: AUROC {text.auroc}, {text.patients} patients out of folds"
    if not text.above_chance:
        return Finding(name, OK, 0, len(rows), sentence)
    return Finding(name, severity, len(rows), len(rows), sentence, (), advice)


def with_examples(result: Finding, examples: Sequence[str]) -> Finding:
    """Return the finding with examples."""
    return replace(result, examples=examples)
