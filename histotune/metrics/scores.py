"""Metrics as pure functions of probabilities [n, C] and labels [n]; one definition of each, for all of histotune.

Conventions, the same everywhere:

- The predicted class is the one of highest probability, the lowest index among equals; with two classes a `threshold`
  may decide instead.
- "Positive" is a class of a two-class problem (malignant). With more classes, sensitivity and recall are the macro
  recall, precision the macro precision, specificity the mean of one-vs-rest specificities, and there is no
  `positive_f1`.
- What cannot be known is NaN: the recall of a class without cases, the AUROC of one class alone. A mean over classes
  leaves such a class out and is NaN only when nothing is left.
- Precision and F1 are 0 when they are 0 / 0, and MCC is 0 when only one class is predicted: scikit-learn's
  `zero_division=0`, so that a model that never predicts "positive" can be ranked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from histotune.errors import ConfigError, DataError, suggest
from histotune.metrics.confusion import OF_CLASSES, mean_of_known
from histotune.metrics.ranking import AREAS, rankings

ECE_BINS = 15
BINARY_ONLY = frozenset({"positive_f1"})
_RANGES = {"mcc": (-1.0, 1.0), "nll": (0.0, math.inf), "brier": (0.0, 2.0)}  # of the others 0 to 1
_WORDS = {"f1": "F1", "auroc": "AUROC", "nll": "NLL", "ece": "ECE", "mcc": "MCC", "brier": "Brier"}


class Metric(NamedTuple):
    """What a metric means, which direction is better, and whether it is a cost: measured, not computed from scores."""

    description: str
    higher_is_better: bool
    cost: bool = False


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("share of cases whose predicted class is right", True),
    "balanced_accuracy": Metric("mean recall over the classes that occur", True),
    "macro_f1": Metric("mean F1 over the classes that occur or are predicted", True),
    "positive_f1": Metric("F1 of the positive class (two classes only)", True),
    "macro_precision": Metric("mean precision over the classes that occur or are predicted", True),
    "macro_recall": Metric("mean recall over the classes that occur", True),
    "precision": Metric("positive predictive value (more than two classes: macro precision)", True),
    "recall": Metric("recall of the positive class (more than two classes: macro recall)", True),
    "sensitivity": Metric("recall of the positive class (more than two classes: macro recall)", True),
    "specificity": Metric("recall of the negative class (more than two classes: mean one-vs-rest)", True),
    "auroc": Metric("area under the ROC curve of the probabilities (more than two classes: macro one-vs-rest)", True),
    "average_precision": Metric("area under the precision-recall curve as a sum of steps (macro one-vs-rest)", True),
    "mcc": Metric("Matthews correlation coefficient", True),
    "ece": Metric(f"expected calibration error, {ECE_BINS} equal-width bins of the top probability", False),
    "nll": Metric("negative log-likelihood, nats per case", False),
    "brier": Metric("mean squared error of the probabilities (more than two classes: summed over classes)", False),
    "latency_ms": Metric("median milliseconds to score one image on the trial's device", False, cost=True),
    "parameters": Metric("number of trained weights", False, cost=True),
}
COSTS = frozenset(name for name, metric in METRICS.items() if metric.cost)
INFORMATION = "information"  # in an epoch's row of the curve: what its branches hold and share, see `probe.measure`
SPREAD = "spread"  # in an epoch's row of the curve: {metric: sample standard deviation over folds}


def check_metric(name: str, classes: int | None = None) -> str:
    """Return `name` if it is a metric, and one for this number of classes.

    Raises:
        ConfigError: it is not; the nearest known name is offered.

    >>> check_metric("auroc")
    'auroc'
    """
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}. {suggest(name, METRICS)}")
    if name in BINARY_ONLY and classes is not None and classes != 2:
        raise ConfigError(f"metric {name!r} is for two classes, and these data have {classes}: use 'macro_f1'")
    return name


def check_metrics(names: Sequence[str], classes: int | None = None) -> list[str]:
    """Return `names` if they are metrics to search by: the first ranks and prunes, so that it cannot be a cost.

    Raises:
        ConfigError: there is none, one that is no metric, one twice, or a cost in front.

    >>> check_metrics(["auroc", "latency_ms"])
    ['auroc', 'latency_ms']
    """
    for name in names:
        check_metric(name, classes)
        if list(names).count(name) > 1:
            raise ConfigError(f"metric {name!r} is listed twice: name each metric once")
    if not names or names[0] in COSTS:
        raise ConfigError(
            f"the first metric ranks trials, stops weak ones and chooses the best epoch, which "
            f"{names[0] if names else 'nothing'!r} cannot: name one such as 'balanced_accuracy' before it"
        )
    return list(names)


def direction(name: str) -> float:
    """Return 1.0 where more is better, -1.0 where less is."""
    return 1.0 if METRICS[check_metric(name)].higher_is_better else -1.0


def range_of(name: str) -> tuple[float, float]:
    """Return between which values a metric lies that is computed from probabilities."""
    return _RANGES.get(check_metric(name), (0.0, 1.0))


def in_words(name: str) -> str:
    """Write a metric's name as a sentence, a caption or a table has it.

    >>> in_words("auroc"), in_words("balanced_accuracy"), in_words("macro_f1")
    ('AUROC', 'balanced accuracy', 'macro F1')
    """
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def fits(name: str, classes: int) -> bool:
    """Whether a metric can be computed from probabilities of that many classes."""
    return name not in COSTS and (name not in BINARY_ONLY or classes == 2)


def reported(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in an epoch's row of a curve; a null is NaN.

    >>> reported({"epoch": 2, "seconds": 9.5, "auroc": None, "train_loss": 0.5, "information": {"hsic": {"a-b": 0.1}}})
    {'auroc': nan, 'train_loss': 0.5}
    """
    skipped = ("epoch", "seconds", INFORMATION, SPREAD)
    return {name: float("nan") if value is None else value for name, value in row.items() if name not in skipped}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits [..., C] into probabilities [..., C], float64, without overflow.

    >>> softmax(np.array([[1000.0, 1000.0]]))
    array([[0.5, 0.5]])
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    raised = np.exp(shifted)
    total: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return total


def decide(probabilities: np.ndarray, *, positive: int = 1, threshold: float | None = None) -> np.ndarray:
    """Return the predicted class of each case, int64 [n].

    Args:
        threshold: with two classes, the least probability of `positive` that is called positive; None takes the
            class of highest probability, the lowest index among equals.
    """
    if threshold is None:
        return probabilities.argmax(axis=1).astype(np.int64)
    if probabilities.shape[1] != 2:
        raise ConfigError(f"a threshold needs two classes, got {probabilities.shape[1]}: leave it out")
    return np.where(probabilities[:, positive] >= threshold, positive, 1 - positive).astype(np.int64)


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count cases, int64 [C, C]: rows are the true class, columns the predicted one.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def evaluate(
    probabilities: np.ndarray, labels: np.ndarray, *, positive: int = 1, threshold: float | None = None
) -> dict[str, float]:
    """Return every metric that the number of classes allows, by name.

    Args:
        probabilities: float [n, C], rows sum to 1.
        labels: int [n], 0..C-1.
        positive: the positive class of a two-class problem.
        threshold: see `decide`; it moves the metrics of predicted classes, never those of probabilities.

    Raises:
        DataError: shapes do not fit, a probability is not finite, or a label is not a class.
    """
    _check(probabilities, labels)
    confusion = _confusion(probabilities, labels, positive, threshold)
    names = [name for name in METRICS if fits(name, probabilities.shape[1])]
    return {
        name: float(OF_CLASSES[name](confusion, positive))
        if name in OF_CLASSES
        else _OF_PROBABILITIES[name](probabilities, labels, positive)
        for name in names
    }


def score(
    name: str, probabilities: np.ndarray, labels: np.ndarray, *, positive: int = 1, threshold: float | None = None
) -> float:
    """Return one metric; arguments and errors as in `evaluate`."""
    if check_metric(name, probabilities.shape[-1]) in COSTS:
        raise ConfigError(f"metric {name!r} is measured, not computed from probabilities")
    _check(probabilities, labels)
    if name in OF_CLASSES:
        return float(OF_CLASSES[name](_confusion(probabilities, labels, positive, threshold), positive))
    return _OF_PROBABILITIES[name](probabilities, labels, positive)


def auroc(probabilities: np.ndarray, labels: np.ndarray, positive: int = 1) -> float:
    """Return P(score of a positive > score of a negative) + P(equal) / 2; macro one-vs-rest for C > 2.

    It takes probabilities [n, C] only: an AUROC of predicted classes is balanced accuracy under a wrong name.
    """
    return _macro_area("auroc", probabilities, labels, positive)


def average_precision(probabilities: np.ndarray, labels: np.ndarray, positive: int = 1) -> float:
    """Return the sum over distinct thresholds of (rise in recall) * precision; macro one-vs-rest for C > 2."""
    return _macro_area("average_precision", probabilities, labels, positive)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return sum_b (n_b / n) |accuracy_b - mean confidence_b| over equal-width bins (b/B, (b+1)/B] (Guo et al., 2017).

    Confidence is the probability of the predicted class.
    """
    return float(np.abs(calibration_gaps(probabilities, labels, bins)).sum() / len(labels))


def calibration_gaps(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """Return n_b (accuracy_b - mean confidence_b) of each bin, [bins]; gaps of separate cases add up."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    member = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return np.bincount(member, weights=right - confidence, minlength=bins)


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log p(true class), where p counts as at least 2.2e-16 (float64's epsilon)."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(true, np.finfo(np.float64).eps, None)).mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of sum_c (p_c - [c is true])^2, halved for two classes so that it is (p - y)^2 as usual."""
    errors = probabilities.astype(np.float64)  # a copy, also of float64
    errors[np.arange(len(labels)), labels] -= 1.0
    total = np.square(errors).sum(axis=1).mean()
    return float(total / 2 if probabilities.shape[1] == 2 else total)


def _check(probabilities: np.ndarray, labels: np.ndarray) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or labels.shape != probabilities.shape[:1]:
        raise DataError(
            f"metrics need probabilities [n, C >= 2] and labels [n], got {probabilities.shape} and {labels.shape}"
        )
    if not len(labels):
        raise DataError("metrics need at least one case, got none: is the part empty?")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise DataError(
            f"labels must lie in 0..{probabilities.shape[1] - 1}, got {labels.min()}..{labels.max()} "
            "(-1 marks a sealed or unknown label: leave those cases out)"
        )
    if not np.isfinite(probabilities).all():
        raise DataError(
            f"{int((~np.isfinite(probabilities)).any(axis=1).sum())} cases have a NaN or infinite probability"
        )


def _confusion(probabilities: np.ndarray, labels: np.ndarray, positive: int, threshold: float | None) -> np.ndarray:
    predicted = decide(probabilities, positive=positive, threshold=threshold)
    return confusion_matrix(predicted, labels, probabilities.shape[1])


def _macro_area(name: str, probabilities: np.ndarray, labels: np.ndarray, positive: int) -> float:
    return float(mean_of_known(np.array([AREAS[name](r, None) for r in rankings(probabilities, labels, positive)])))


_OF_PROBABILITIES: Mapping[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "ece": lambda probabilities, labels, positive: expected_calibration_error(probabilities, labels),
    "nll": lambda probabilities, labels, positive: negative_log_likelihood(probabilities, labels),
    "brier": lambda probabilities, labels, positive: brier_score(probabilities, labels),
}
