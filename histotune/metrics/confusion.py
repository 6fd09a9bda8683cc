"""Metrics of predicted classes, as functions of confusion matrices [..., C, C] (rows true, columns predicted).

`scores` has the public functions and states the conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Average what is not NaN over the last axis, [...]; NaN where nothing is left."""
    known = ~np.isnan(values)
    return _divide(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1), np.nan)


def _accuracy(confusion: np.ndarray, positive: int) -> np.ndarray:
    right: np.ndarray = _right(confusion).sum(axis=-1) / confusion.sum(axis=(-2, -1))
    return right


def _macro_recall(confusion: np.ndarray, positive: int) -> np.ndarray:
    return mean_of_known(_recalls(confusion))


def _macro_precision(confusion: np.ndarray, positive: int) -> np.ndarray:
    return mean_of_known(_seen(confusion, _precisions(confusion)))


def _macro_f1(confusion: np.ndarray, positive: int) -> np.ndarray:
    return mean_of_known(_seen(confusion, _f1s(confusion)))


def _positive_f1(confusion: np.ndarray, positive: int) -> np.ndarray:
    return _f1s(confusion)[..., positive]


def _precision(confusion: np.ndarray, positive: int) -> np.ndarray:
    if confusion.shape[-1] == 2:
        return _precisions(confusion)[..., positive]
    return _macro_precision(confusion, positive)


def _sensitivity(confusion: np.ndarray, positive: int) -> np.ndarray:
    return _recalls(confusion)[..., positive] if confusion.shape[-1] == 2 else _macro_recall(confusion, positive)


def _specificity(confusion: np.ndarray, positive: int) -> np.ndarray:
    if confusion.shape[-1] == 2:
        return _recalls(confusion)[..., 1 - positive]
    others = confusion.sum(axis=(-2, -1))[..., None] - confusion.sum(axis=-1)  # [..., C] cases of any other class
    called = confusion.sum(axis=-2) - _right(confusion)  # [..., C] of those, called this class
    return mean_of_known(_divide(others - called, others, np.nan))


def _mcc(confusion: np.ndarray, positive: int) -> np.ndarray:
    counts = confusion.astype(np.float64)  # products of counts overflow int64 on large cohorts
    true, predicted, n = counts.sum(axis=-1), counts.sum(axis=-2), counts.sum(axis=(-2, -1))
    spread_true, spread_predicted = n * n - (true * true).sum(axis=-1), n * n - (predicted * predicted).sum(axis=-1)
    together = _right(counts).sum(axis=-1) * n - (true * predicted).sum(axis=-1)
    result = _divide(together, np.sqrt(spread_true * spread_predicted), 0.0)
    return np.where(spread_true == 0, np.nan, result)


def _divide(top: np.ndarray, bottom: np.ndarray, empty: float) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(bottom), empty), where=np.asarray(bottom) != 0)


def _right(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _recalls(confusion: np.ndarray) -> np.ndarray:
    return _divide(_right(confusion), confusion.sum(axis=-1), np.nan)


def _seen(confusion: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Make the values of classes that neither occur nor are predicted unknown."""
    return np.where(confusion.sum(axis=-2) + confusion.sum(axis=-1) > 0, values, np.nan)


def _precisions(confusion: np.ndarray) -> np.ndarray:
    return _divide(_right(confusion), confusion.sum(axis=-2), 0.0)


def _f1s(confusion: np.ndarray) -> np.ndarray:
    return _divide(2.0 * _right(confusion), confusion.sum(axis=-2) + confusion.sum(axis=-1), 0.0)


OF_CLASSES: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
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
