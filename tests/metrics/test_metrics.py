"""Metrics equal scikit-learn's, also where scores tie and classes are missing; what is undefined is NaN."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from histotune.errors import ConfigError, DataError
from histotune.metrics.scores import (
    BINARY_ONLY,
    COSTS,
    METRICS,
    auroc,
    average_precision,
    check_metric,
    confusion_matrix,
    decide,
    direction,
    evaluate,
    score,
    softmax,
)

Case = tuple[np.ndarray, np.ndarray]


def made_up(seed: int, classes: int, n: int = 60, *, ties: bool = False, missing: bool = False) -> Case:
    """Draw probabilities [n, C] that know something, and labels [n]; `missing` leaves the last class without cases."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - (1 if missing else 0), n)
    logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]
    return softmax(np.round(logits) if ties else logits), labels


def quietly(function: Callable[..., float], *args: object, **options: object) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about the very cases that are tested here
        return float(function(*args, **options))


def expected(probabilities: np.ndarray, labels: np.ndarray, positive: int) -> dict[str, float]:
    """Answer with scikit-learn."""
    classes = probabilities.shape[1]
    top, every = probabilities.argmax(axis=1), np.arange(classes)
    answer = {
        "accuracy": quietly(sk.accuracy_score, labels, top),
        "balanced_accuracy": quietly(sk.balanced_accuracy_score, labels, top),
        "macro_f1": quietly(sk.f1_score, labels, top, average="macro", zero_division=0),
        "macro_precision": quietly(sk.precision_score, labels, top, average="macro", zero_division=0),
        "macro_recall": quietly(sk.recall_score, labels, top, average="macro", zero_division=np.nan),
        "mcc": quietly(sk.matthews_corrcoef, labels, top),
        "nll": quietly(sk.log_loss, labels, probabilities, labels=every),
        "brier": quietly(sk.brier_score_loss, labels, probabilities, labels=every),
    }
    if classes == 2:
        hits, scores = labels == positive, probabilities[:, positive]
        answer |= {
            "positive_f1": quietly(sk.f1_score, labels, top, pos_label=positive, zero_division=0),
            "precision": quietly(sk.precision_score, labels, top, pos_label=positive, zero_division=0),
            "sensitivity": quietly(sk.recall_score, labels, top, pos_label=positive, zero_division=np.nan),
            "specificity": quietly(sk.recall_score, labels, top, pos_label=1 - positive, zero_division=np.nan),
            "auroc": quietly(sk.roc_auc_score, hits, scores),
            "average_precision": quietly(sk.average_precision_score, hits, scores) if hits.any() else math.nan,
        }
    else:
        present = [c for c in every if 0 < (labels == c).sum() < len(labels)]
        answer |= {
            "precision": answer["macro_precision"],
            "sensitivity": answer["macro_recall"],
            "specificity": float(np.nanmean([quietly(sk.recall_score, labels != c, top != c) for c in every])),
            "auroc": np.mean([sk.roc_auc_score(labels == c, probabilities[:, c]) for c in present]),
            "average_precision": np.mean(
                [sk.average_precision_score(labels == c, probabilities[:, c]) for c in present]
            ),
        }
    return answer | {"recall": answer["sensitivity"]}


@pytest.mark.parametrize("missing", [False, True], ids=["all_classes", "one_class_missing"])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("classes", [2, 3, 9])
@pytest.mark.parametrize("seed", range(4))
def test_every_metric_equals_scikit_learn(seed: int, classes: int, ties: bool, missing: bool) -> None:
    probabilities, labels = made_up(seed, classes, ties=ties, missing=missing and classes > 2)
    for positive in (0, 1):
        ours, theirs = evaluate(probabilities, labels, positive=positive), expected(probabilities, labels, positive)
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


@settings(max_examples=100, deadline=None)
@given(
    cases=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=40).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_auroc_and_average_precision_of_any_ties_equal_scikit_learn(cases: list[tuple[int, int]]) -> None:
    labels, scores = np.array(cases).T
    probabilities = np.stack([1 - scores / 8, scores / 8], axis=1)
    assert auroc(probabilities, labels) == pytest.approx(sk.roc_auc_score(labels, scores))
    assert average_precision(probabilities, labels) == pytest.approx(sk.average_precision_score(labels, scores))


@pytest.mark.parametrize("classes", [2, 5])
def test_the_order_of_cases_has_no_meaning(classes: int) -> None:
    probabilities, labels = made_up(3, classes, ties=True)
    order = np.random.default_rng(0).permutation(len(labels))
    assert evaluate(probabilities[order], labels[order]) == pytest.approx(evaluate(probabilities, labels))


@pytest.mark.parametrize("classes", [2, 4])
def test_score_is_the_entry_of_evaluate(classes: int) -> None:
    probabilities, labels = made_up(1, classes)
    values = evaluate(probabilities, labels)
    assert values == {name: score(name, probabilities, labels) for name in values}
    assert set(values) == METRICS.keys() - COSTS - (set() if classes == 2 else BINARY_ONLY)


@pytest.mark.parametrize("classes", [2, 3])
def test_perfect_predictions_reach_every_optimum(classes: int) -> None:
    labels = np.arange(30) % classes
    for name, value in evaluate(np.eye(classes)[labels], labels).items():
        assert value == pytest.approx(1.0 if direction(name) > 0 else 0.0, abs=1e-12), name


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.92, 0.08], [0.6, 0.4], [0.35, 0.65]])
    labels = np.array([0, 1, 0, 1])
    # Bins of width 1/15: .9 and .92 share (13/15, 14/15], where .6 = 9/15 closes (8/15, 9/15] and .65 is in the next.
    by_hand = (abs(1 - (0.9 + 0.92)) + (1 - 0.6) + (1 - 0.65)) / 4
    assert score("ece", probabilities, labels) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("label", "undefined"),
    [(0, {"sensitivity", "recall", "auroc", "average_precision", "mcc"}), (1, {"specificity", "auroc", "mcc"})],
)
def test_one_class_alone_leaves_unknown_what_cannot_be_known(label: int, undefined: set[str]) -> None:
    probabilities, _ = made_up(0, 2)
    values = evaluate(probabilities, np.full(len(probabilities), label))
    assert {name for name, value in values.items() if math.isnan(value)} == undefined


def test_a_model_that_never_says_positive_is_ranked_at_the_bottom_and_not_lost() -> None:
    values = evaluate(np.tile([0.8, 0.2], (10, 1)), np.arange(10) % 2)
    assert values["positive_f1"] == values["precision"] == values["sensitivity"] == values["mcc"] == 0.0
    assert values["auroc"] == values["balanced_accuracy"] == 0.5


def test_macro_f1_and_positive_f1_are_two_numbers() -> None:
    probabilities, labels = made_up(0, 2)
    assert score("macro_f1", probabilities, labels) != score("positive_f1", probabilities, labels)


@pytest.mark.parametrize("positive", [0, 1])
def test_a_threshold_moves_decisions_and_leaves_scores_alone(positive: int) -> None:
    probabilities, labels = made_up(0, 2)
    low, high = (evaluate(probabilities, labels, positive=positive, threshold=t) for t in (0.2, 0.8))
    assert low["sensitivity"] > high["sensitivity"]
    assert low["specificity"] < high["specificity"]
    assert all(low[name] == high[name] for name in ("auroc", "average_precision", "nll", "brier", "ece"))


def test_the_threshold_itself_is_positive() -> None:
    assert decide(np.array([[0.7, 0.3], [0.71, 0.29]]), threshold=0.3).tolist() == [1, 0]


def test_confusion_matrix_equals_scikit_learn() -> None:
    probabilities, labels = made_up(0, 4)
    top = probabilities.argmax(axis=1)
    assert np.array_equal(confusion_matrix(top, labels, 4), sk.confusion_matrix(labels, top))


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6), st.floats(-1e3, 1e3))
def test_softmax_is_a_distribution_that_a_shift_does_not_change(row: list[float], shift: float) -> None:
    logits = np.array([row])
    assert softmax(logits).sum() == pytest.approx(1.0)
    assert np.allclose(softmax(logits), softmax(logits + shift), atol=1e-9)


def test_hard_labels_have_no_auroc() -> None:
    with pytest.raises(DataError, match="probabilities"):
        score("auroc", np.array([0, 1, 1]), np.array([0, 1, 1]))


@pytest.mark.parametrize(
    ("probabilities", "labels", "says"),
    [
        (np.full((3, 2), 0.5), np.array([0, 1]), r"got \(3, 2\) and \(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "at least one case"),
        (np.full((2, 2), 0.5), np.array([0, -1]), "sealed"),
        (np.full((2, 2), 0.5), np.array([0, 2]), r"0\.\.1"),
        (np.array([[np.nan, 1.0], [0.5, 0.5]]), np.array([0, 1]), "1 cases have a NaN"),
    ],
)
def test_bad_input_is_refused_with_its_value(probabilities: np.ndarray, labels: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        evaluate(probabilities, labels)


def test_an_unknown_metric_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'auroc'"):
        check_metric("aurok")
    with pytest.raises(ConfigError, match="use 'macro_f1'"):
        check_metric("positive_f1", classes=9)
    with pytest.raises(ConfigError, match="two classes, got 3"):
        decide(np.full((1, 3), 1 / 3), threshold=0.5)
