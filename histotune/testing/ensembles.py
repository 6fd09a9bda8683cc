"""The laws of an ensemble strategy: distributions, missing members, the order of members, what a saved one gives."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from histotune.ensembles.strategies import ENSEMBLES, Ensemble
from histotune.errors import DataError
from histotune.metrics.scores import softmax
from histotune.testing._contract import Contract, alike, documented, finite, refused, require

ENSEMBLE = Contract("ensemble")


def check_ensemble(name: str, *, without: Iterable[str] = (), **params: Any) -> None:
    """Check every law of an ensemble strategy, with these parameters.

    Args:
        name: as registered.
        without: names of laws that it breaks by design.
        params: parameters of the strategy; its defaults where none are given.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such strategy, parameter or law.
    """
    ENSEMBLES.check(name, params)
    ENSEMBLE.check(name, name, params, without=without)


def drawn_members(seed: int, count: int, cases: int = 30, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits [count, cases, classes] that carry signal, and labels [cases]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, cases)
    return rng.normal(size=(count, cases, classes)) + 1.5 * np.eye(classes)[labels], labels


def masked_members(seed: int = 0, count: int = 3, cases: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw logits, labels and which members have input, at least one for every case."""
    logits, labels = drawn_members(seed, count, cases)
    present = np.random.default_rng(seed + 1).random((count, cases)) < 0.6
    present[0] |= ~present.any(axis=0)
    return logits, labels, present


def _fitted(
    name: str, params: dict[str, Any], logits: np.ndarray, labels: np.ndarray, present: np.ndarray | None = None
) -> Ensemble:
    ensemble = ENSEMBLES.build(name, **params)
    ensemble.fit(logits, labels, present)
    return ensemble


@ENSEMBLE.law
def it_is_documented(name: str, params: dict[str, Any]) -> None:
    """A summary is there, and every default lies in the range of its parameter."""
    documented(ENSEMBLES, name)


@ENSEMBLE.law
def it_predicts_a_distribution(name: str, params: dict[str, Any]) -> None:
    """Probabilities are [N, C], not negative, and sum to 1 for every case."""
    for classes in (2, 3, 9):
        for count in (1, 2, 4, 7):
            logits, labels = drawn_members(0, count, classes=classes)
            predicted = _fitted(name, params, logits, labels).predict(logits)
            require(predicted.shape == (30, classes), f"got shape {predicted.shape}, not {(30, classes)}")
            require((predicted >= 0).all(), f"got the probability {predicted.min():.6g}")
            alike(predicted.sum(axis=1), np.ones(30), "the sum over the classes", rtol=1e-6)


@ENSEMBLE.law
def the_order_of_the_members_does_not_matter(name: str, params: dict[str, Any]) -> None:
    """To a strategy that learns nothing: bit by bit; what is learned follows the members into another order."""
    learns = ENSEMBLES.build(name, **params).learns
    for seed in range(4 if learns else 30):
        logits, labels = drawn_members(seed, 2 + seed % 3, cases=30 if learns else 8)
        logits = logits if learns else np.round(logits)  # many ties
        order = np.random.default_rng(seed).permutation(len(logits))
        first, second = (_fitted(name, params, some, labels).predict(some) for some in (logits, logits[order]))
        alike(first, second, "the prediction in another order", atol=1e-4 if learns else 0.0)


@ENSEMBLE.law
def one_member_is_that_member(name: str, params: dict[str, Any]) -> None:
    """The probabilities of a single member come back as they are."""
    logits, labels = drawn_members(1, 1)
    predicted = _fitted(name, params, logits, labels).predict(logits)
    alike(predicted, softmax(logits[0]), "the prediction and that of the only member", rtol=1e-6)


@ENSEMBLE.law
def members_that_agree_are_followed(name: str, params: dict[str, Any]) -> None:
    """Of members that all predict the same, a strategy that learns nothing predicts the same class."""
    logits, labels = drawn_members(2, 1)
    repeated = np.repeat(logits, 3, axis=0)
    ensemble = _fitted(name, params, repeated, labels)
    if not ensemble.learns:
        alike(ensemble.predict(repeated).argmax(axis=1), logits[0].argmax(axis=1), "the class that all predict")


@ENSEMBLE.law
def a_saved_state_predicts_the_same(name: str, params: dict[str, Any]) -> None:
    """What `state` returns passes through JSON and predicts the same bits."""
    logits, labels = drawn_members(3, 4)
    fitted, loaded = _fitted(name, params, logits, labels), ENSEMBLES.build(name, **params)
    loaded.load_state(json.loads(json.dumps(fitted.state())))
    alike(fitted.predict(logits), loaded.predict(logits), "the prediction of a loaded state")


@ENSEMBLE.law
def extreme_logits_stay_finite(name: str, params: dict[str, Any]) -> None:
    """Logits of 10,000 give finite probabilities."""
    logits = np.array([[[1e4, -1e4], [0.0, 0.0]], [[-1e4, 1e4], [1e4, -1e4]]])
    finite(_fitted(name, params, logits, np.array([0, 1])).predict(logits), "the prediction from logits of 10,000")


@ENSEMBLE.law
def bad_logits_are_refused(name: str, params: dict[str, Any]) -> None:
    """Logits of another shape or with NaN, and a mask of another shape, are refused."""
    ensemble = ENSEMBLES.build(name, **params)
    for bad in (np.zeros((3, 2)), np.zeros((0, 3, 2)), np.full((2, 3, 2), np.nan)):
        refused(lambda bad=bad: ensemble.predict(bad), DataError, f"logits of shape {bad.shape}")  # type: ignore[misc]
    refused(lambda: ensemble.predict(np.zeros((2, 3, 2)), np.ones((3, 2), bool)), DataError, "a mask of another shape")


@ENSEMBLE.law
def values_of_a_missing_member_do_not_matter(name: str, params: dict[str, Any]) -> None:
    """What stands where a member has no input, NaN included, changes neither what is learned nor the prediction."""
    logits, labels, present = masked_members()
    other = np.where(present[:, :, None], logits, np.nan)
    first, second = _fitted(name, params, logits, labels, present), _fitted(name, params, other, labels, present)
    require(first.state() == second.state(), "what is learned depends on values of missing members")
    predicted = first.predict(logits, present)
    alike(predicted, second.predict(other, present), "the prediction with NaN where a member is missing")
    alike(predicted.sum(axis=1), np.ones(len(labels)), "the sum over the classes", rtol=1e-6)


@ENSEMBLE.law
def the_only_member_with_input_is_followed(name: str, params: dict[str, Any]) -> None:
    """A strategy that learns nothing predicts the class of the only member that has input."""
    logits, _ = drawn_members(0, 3)
    present = np.zeros((3, 30), bool)
    present[1] = True
    ensemble = ENSEMBLES.build(name, **params)
    if not ensemble.learns:
        predicted = ensemble.predict(logits, present).argmax(axis=1)
        alike(predicted, logits[1].argmax(axis=1), "the class of the only member with input")


@ENSEMBLE.law
def a_case_without_input_is_given_to_all(name: str, params: dict[str, Any]) -> None:
    """Where no member has input, all members count."""
    logits, labels, present = masked_members()
    ensemble = _fitted(name, params, logits, labels, present)
    nobody, everybody = present.copy(), present.copy()
    nobody[:, 3], everybody[:, 3] = False, True
    alike(ensemble.predict(logits, nobody), ensemble.predict(logits, everybody), "a case where no member has input")


@ENSEMBLE.law
def another_number_of_members_is_refused(name: str, params: dict[str, Any]) -> None:
    """What was learned of three members is not applied to two."""
    ensemble = _fitted(name, params, *drawn_members(0, 3))
    if ensemble.learns:
        refused(lambda: ensemble.predict(drawn_members(0, 2)[0]), DataError, "a prediction of two members out of three")
