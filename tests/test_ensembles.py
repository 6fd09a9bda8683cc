"""The contract of every ensemble, and the rules of each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.ensembles import ENSEMBLES
from histotune.errors import ConfigError, DataError
from histotune.metrics import score, softmax

every_strategy = pytest.mark.parametrize("name", ENSEMBLES.names())


def members(seed: int, count: int, cases: int = 30, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits [count, cases, classes] that know something, and labels [cases]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, cases)
    return rng.normal(size=(count, cases, classes)) + 1.5 * np.eye(classes)[labels], labels


def logits_of(*probabilities: list[float]) -> np.ndarray:
    """Make members [M, 1, C] that give one case these probabilities."""
    return np.log(np.array(probabilities))[:, None, :]


@every_strategy
@pytest.mark.parametrize("classes", [2, 3, 9])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_it_predicts_a_distribution(name: str, count: int, classes: int) -> None:
    logits, labels = members(0, count, classes=classes)
    ensemble = ENSEMBLES.build(name)
    ensemble.fit(logits, labels)
    predicted = ensemble.predict(logits)
    assert predicted.shape == (30, classes)
    assert (predicted >= 0).all()
    assert predicted.sum(axis=1) == pytest.approx(1.0)


@every_strategy
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 6))
def test_the_order_of_the_members_does_not_matter(name: str, seed: int, count: int) -> None:
    logits, labels = members(seed, count, cases=8)
    logits = np.round(logits)  # many ties
    order = np.random.default_rng(seed).permutation(count)
    answers = []
    for given_logits in (logits, logits[order]):
        ensemble = ENSEMBLES.build(name)
        ensemble.fit(given_logits, labels)
        answers.append(ensemble.predict(given_logits))
    assert np.array_equal(answers[0], answers[1])


@every_strategy
def test_one_member_is_that_member(name: str) -> None:
    logits, labels = members(1, 1)
    ensemble = ENSEMBLES.build(name)
    ensemble.fit(logits, labels)
    assert ensemble.predict(logits) == pytest.approx(softmax(logits[0]))


@every_strategy
def test_members_that_agree_are_followed(name: str) -> None:
    logits, labels = members(2, 1)
    repeated = np.repeat(logits, 3, axis=0)
    ensemble = ENSEMBLES.build(name)
    ensemble.fit(repeated, labels)
    assert np.array_equal(ensemble.predict(repeated).argmax(axis=1), logits[0].argmax(axis=1))


@every_strategy
def test_a_saved_state_predicts_the_same(name: str) -> None:
    logits, labels = members(3, 4)
    fitted, loaded = ENSEMBLES.build(name), ENSEMBLES.build(name)
    fitted.fit(logits, labels)
    loaded.load_state(json.loads(json.dumps(fitted.state())))
    assert np.array_equal(fitted.predict(logits), loaded.predict(logits))


@every_strategy
def test_extreme_logits_stay_finite(name: str) -> None:
    logits = np.array([[[1e4, -1e4], [0.0, 0.0]], [[-1e4, 1e4], [1e4, -1e4]]])
    ensemble = ENSEMBLES.build(name)
    ensemble.fit(logits, np.array([0, 1]))
    assert np.isfinite(ensemble.predict(logits)).all()


@every_strategy
@pytest.mark.parametrize("logits", [np.zeros((3, 2)), np.zeros((0, 3, 2)), np.full((2, 3, 2), np.nan)])
def test_bad_logits_are_refused(name: str, logits: np.ndarray) -> None:
    with pytest.raises(DataError, match="an ensemble needs"):
        ENSEMBLES.build(name).predict(logits)


def test_the_average_is_the_mean_probability() -> None:
    predicted = ENSEMBLES.build("average").predict(logits_of([0.9, 0.1], [0.5, 0.5]))
    assert predicted == pytest.approx(np.array([[0.7, 0.3]]))


def test_the_geometric_average_is_the_mean_log_probability() -> None:
    predicted = ENSEMBLES.build("average", mean="geometric").predict(logits_of([0.9, 0.1], [0.5, 0.5]))
    assert predicted == pytest.approx(np.array([[3.0, 1.0]]) / 4)
    with pytest.raises(ConfigError, match="got 'harmonic'"):
        ENSEMBLES.build("average", mean="harmonic")


def test_max_takes_each_class_at_its_surest_and_renormalises() -> None:
    predicted = ENSEMBLES.build("max").predict(logits_of([0.6, 0.3, 0.1], [0.1, 0.2, 0.7]))
    assert predicted == pytest.approx(np.array([[0.6, 0.3, 0.7]]) / 1.6)


def test_votes_count_members_and_not_how_sure_they_are() -> None:
    predicted = ENSEMBLES.build("vote").predict(logits_of([0.51, 0.49], [0.51, 0.49], [0.01, 0.99]))
    assert predicted == pytest.approx(np.array([[2 / 3, 1 / 3]]), abs=1e-6)


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        (([0.6, 0.4, 0.0], [0.3, 0.7, 0.0]), 1),  # one vote each: class 1 has the higher mean
        (([0.4, 0.6, 0.0], [0.7, 0.3, 0.0]), 0),
        (([0.6, 0.4, 0.0], [0.4, 0.6, 0.0]), 0),  # equal means too: the lowest index
        (([0.0, 0.4, 0.6], [0.0, 0.6, 0.4]), 1),
        (([0.5, 0.45, 0.05], [0.05, 0.45, 0.5]), 0),  # class 1 has the highest mean, but no vote
        (([0.3, 0.3, 0.4], [0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.35, 0.25, 0.4]), 2),  # two votes win over one each
        (([0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.0, 0.45, 0.55], [0.0, 0.45, 0.55]), 0),  # two against two
    ],
)
def test_a_tied_vote_goes_to_the_highest_mean_then_to_the_lowest_index(votes: list[list[float]], winner: int) -> None:
    logits = np.log(np.maximum(np.array(votes), 1e-300))[:, None, :]
    assert ENSEMBLES.build("vote").predict(logits).argmax() == winner


def test_auroc_of_votes_ranks_by_share_then_by_mean_probability() -> None:
    logits, labels = members(5, 4, cases=200, classes=2)
    probabilities = softmax(logits)
    share = (probabilities.argmax(axis=2) == 1).mean(axis=0)
    ranked = share + 1e-6 * probabilities.mean(axis=0)[:, 1]
    by_hand = np.stack([1 - ranked, ranked], axis=1)
    voted = ENSEMBLES.build("vote").predict(logits)
    assert score("auroc", voted, labels) == pytest.approx(score("auroc", by_hand, labels))
    assert voted[:, 1] == pytest.approx(ranked / (1 + 1e-6))
    assert len(np.unique(voted[:, 1])) > len(np.unique(share))


def test_averaging_independent_members_helps() -> None:
    logits, labels = members(6, 9, cases=2000)
    single = max(score("accuracy", softmax(one), labels) for one in logits)
    assert all(
        score("accuracy", ENSEMBLES.build(name).predict(logits), labels) > single for name in ("average", "vote")
    )


def test_a_state_that_means_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="learns nothing"):
        ENSEMBLES.build("average").load_state({"weights": [1.0]})
