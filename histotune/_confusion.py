"""Metrics of predicted classes, as functions of a confusion matrix [C, C] (rows true, columns predicted).

`metrics` is the public door and states the conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def mean_of_known(values: np.ndarray) -> float:
    """Average what is not NaN; NaN when nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _accuracy(confusion: np.ndarray, positive: int) -> float:
    return float(np.trace(confusion) / confusion.sum())


def _macro_recall(confusion: np.ndarray, positive: int) -> float:
    return mean_of_known(_recalls(confusion))


def _macro_precision(confusion: np.ndarray, positive: int) -> float:
    return mean_of_known(_seen(confusion, _precisions(confusion)))


def _macro_f1(confusion: np.ndarray, positive: int) -> float:
    return mean_of_known(_seen(confusion, _f1s(confusion)))


def _positive_f1(confusion: np.ndarray, positive: int) -> float:
    return float(_f1s(confusion)[positive])


def _precision(confusion: np.ndarray, positive: int) -> float:
    return float(_precisions(confusion)[positive]) if len(confusion) == 2 else _macro_precision(confusion, positive)


def _sensitivity(confusion: np.ndarray, positive: int) -> float:
    return float(_recalls(confusion)[positive]) if len(confusion) == 2 else _macro_recall(confusion, positive)


def _specificity(confusion: np.ndarray, positive: int) -> float:
    if len(confusion) == 2:
        return float(_recalls(confusion)[1 - positive])
    others = confusion.sum() - confusion.sum(axis=1)  # [C] cases of any other class
    called = confusion.sum(axis=0) - np.diag(confusion)  # [C] of those, called this class
    return mean_of_known(_divide(others - called, others, np.nan))


def _mcc(confusion: np.ndarray, positive: int) -> float:
    counts = confusion.astype(np.float64)  # products of counts overflow int64 on large cohorts
    true, predicted, n = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    spread_true, spread_predicted = n * n - true @ true, n * n - predicted @ predicted
    if spread_true == 0:
        return float("nan")
    together = np.trace(counts) * n - true @ predicted
    return float(together / np.sqrt(spread_true * spread_predicted)) if spread_predicted else 0.0


def _divide(top: np.ndarray, bottom: np.ndarray, empty: float) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(bottom), empty), where=np.asarray(bottom) != 0)


def _recalls(confusion: np.ndarray) -> np.ndarray:
    return _divide(np.diag(confusion), confusion.sum(axis=1), np.nan)


def _seen(confusion: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Keep the values of classes that occur or are predicted."""
    seen: np.ndarray = values[(confusion.sum(axis=0) + confusion.sum(axis=1)) > 0]
    return seen


def _precisions(confusion: np.ndarray) -> np.ndarray:
    return _divide(np.diag(confusion), confusion.sum(axis=0), 0.0)


def _f1s(confusion: np.ndarray) -> np.ndarray:
    return _divide(2.0 * np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1), 0.0)


OF_CLASSES: Mapping[str, Callable[[np.ndarray, int], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _macro_recall,
    "macro_f1": _macro_f1,
    "positive_f1": _positive_f1,
    "macro_precision": _macro_precision,
    "macro_recall": _macro_recall,
    "precision": _precision,
    "recall": _sensitivity,
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "mcc": _mcc,
}
