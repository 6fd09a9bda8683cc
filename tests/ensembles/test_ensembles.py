"""The contract of every ensemble, and the rules of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from histotune.ensembles.strategies import ENSEMBLES
from histotune.ensembles.strategies.weighted_logits import SOFT, _weighted, _withheld
from histotune.errors import ConfigError, DataError
from histotune.metrics.scores import score, softmax
from histotune.testing.ensembles import ENSEMBLE, drawn_members

every_strategy = pytest.mark.parametrize("name", ENSEMBLES.names())
unlearned = pytest.mark.parametrize("name", [name for name in ENSEMBLES.names() if not ENSEMBLES.build(name).learns])
learned = pytest.mark.parametrize("name", [name for name in ENSEMBLES.names() if ENSEMBLES.build(name).learns])


@every_strategy
@pytest.mark.parametrize("law", ENSEMBLE.laws)
def test_every_strategy_keeps_the_law(name: str, law: str) -> None:
    ENSEMBLE.check_one(law, ENSEMBLE.laws[law], name, name, {})


def logits_of(*probabilities: list[float]) -> np.ndarray:
    """Make members [M, 1, C] that give one case these probabilities."""
    return np.log(np.array(probabilities))[:, None, :]


@every_strategy
@pytest.mark.parametrize("logits", [np.zeros((3, 2)), np.zeros((0, 3, 2)), np.full((2, 3, 2), np.nan)])
def test_bad_logits_are_refused(name: str, logits: np.ndarray) -> None:
    with pytest.raises(DataError, match="an ensemble needs"):
        ENSEMBLES.build(name).predict(logits)


# --- members that are missing


@unlearned
def test_who_is_left_alone_is_followed(name: str) -> None:
    logits, _ = drawn_members(0, 3)
    present = np.zeros((3, 30), bool)
    present[1] = True
    predicted = ENSEMBLES.build(name).predict(logits, present)
    assert np.array_equal(predicted.argmax(axis=1), logits[1].argmax(axis=1))
    if name != "vote":
        assert predicted == pytest.approx(softmax(logits[1]))


@every_strategy
def test_a_mask_of_another_shape_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="need a mask of who is there"):
        ENSEMBLES.build(name).predict(np.zeros((2, 3, 2)), np.ones((3, 2), bool))


# --- weights, checked against somebody else's optimum


def log_scores(logits: np.ndarray) -> np.ndarray:
    logs = np.log(softmax(logits))
    return np.asarray(logs - logs.mean(axis=2, keepdims=True))


@pytest.mark.parametrize("bias", [True, False])
def test_weighted_logits_are_at_the_optimum_that_scipy_finds(bias: bool) -> None:
    logits, labels = drawn_members(7, 3, cases=200)
    scores = log_scores(logits)

    def loss(numbers: np.ndarray) -> float:
        weights, shift = numbers[:9].reshape(3, 3), numbers[9:] if bias else np.zeros(3)
        joined = np.einsum("mc,mnc->nc", weights, scores) + shift
        errors = -np.log(softmax(joined)[np.arange(200), labels]).mean()
        return float(errors + 0.01 * np.square(weights - 1 / 3).sum())

    result = minimize(loss, np.r_[np.full(9, 1 / 3), np.zeros(3 if bias else 0)], method="BFGS", options={"gtol": 1e-7})
    ensemble = ENSEMBLES.build("weighted_logits", bias=bias, dropout=0.0, shrink=0.01)
    ensemble.fit(logits, labels)
    state = ensemble.state()
    assert np.array(state["weights"]) == pytest.approx(result.x[:9].reshape(3, 3), abs=1e-4)
    if bias:  # a number that is added to all classes changes nothing
        ours, theirs = np.array(state["bias"]), result.x[9:]
        assert ours - ours.mean() == pytest.approx(theirs - theirs.mean(), abs=1e-4)
    else:
        assert state["bias"] == [0.0, 0.0, 0.0]


def test_weighted_logits_make_up_for_a_missing_member_class_by_class() -> None:
    ensemble = ENSEMBLES.build("weighted_logits")
    ensemble.load_state({"weights": [[1.0, 0.5], [0.5, 1.5]], "bias": [0.25, 0.0]})
    logits = logits_of([0.8, 0.2], [0.4, 0.6])
    scores = log_scores(logits)[:, 0]
    alone = ensemble.predict(logits, np.array([[True], [False]]))
    first, second = (np.sqrt(np.square(weights) + SOFT**2) for weights in ([1.0, 0.5], [0.5, 1.5]))
    louder = (first + second) / first
    expected = np.array([[louder[0] * 1.0 * scores[0, 0] + 0.25, louder[1] * 0.5 * scores[0, 1]]])
    assert alone == pytest.approx(softmax(expected))
    both = np.array([[1.0 * scores[0, 0] + 0.5 * scores[1, 0] + 0.25, 0.5 * scores[0, 1] + 1.5 * scores[1, 1]]])
    assert ensemble.predict(logits) == pytest.approx(softmax(both))


@pytest.mark.parametrize("dropout", [0.3, 0.7])
def test_withheld_members_are_taken_as_often_as_chance_would(dropout: float) -> None:
    present = torch.tensor([[True, True, False], [True, False, True], [True, True, False]])
    masks, chances = _withheld(present, dropout)
    assert chances.sum(dim=0) == pytest.approx(np.ones(3))
    rng = np.random.default_rng(0)
    for case in range(3):
        there = present[:, case].numpy()
        draws = there & (rng.random((200_000, 3)) >= dropout)
        draws = draws[draws.any(axis=1)]  # what leaves nobody is drawn again
        for mask, chance in zip(masks[:, :, case].numpy(), chances[:, case].numpy(), strict=True):
            if chance > 0:
                assert (draws == mask).all(axis=1).mean() == pytest.approx(chance, abs=0.005)


def two_classes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw two to four members of different skill and noise [M, 120, 2], labels, and who is there."""
    rng = np.random.default_rng(seed)
    members, labels = 2 + seed % 3, rng.integers(0, 2, 120)
    sides = np.stack([1 - 2 * labels, 2 * labels - 1], axis=1)
    noise = rng.normal(size=(members, 120, 2)) * rng.uniform(0.3, 2, (members, 1, 1))
    present = rng.random((members, 120)) > (0.25 if seed % 2 else 0.0)
    present[0, ~present.any(axis=0)] = True
    return rng.uniform(-0.3, 1, (members, 1, 1)) * sides + noise, labels, present


@pytest.mark.parametrize("seed", range(6))
def test_two_classes_do_not_stay_with_equal_columns(seed: int) -> None:
    """There is a saddle: no equal columns, the best ones included, have as small an expected loss."""
    logits, labels, present = two_classes(seed)
    ensemble = ENSEMBLES.build("weighted_logits")
    ensemble.fit(logits, labels, present)
    state = ensemble.state()
    weights, bias = np.array(state["weights"]), np.array(state["bias"])
    scores, there, members = torch.tensor(log_scores(logits)), torch.tensor(present), len(logits)
    masks, chances = _withheld(there, 0.3)
    own = torch.tensor(labels)[:, None].expand(len(masks), -1, 1)

    def loss(weights: np.ndarray, bias: np.ndarray) -> float:
        joined = _weighted(scores, masks, torch.tensor(weights), torch.tensor(bias)).log_softmax(dim=2)
        errors = -joined.gather(2, own)[:, :, 0]
        return float((errors * chances).sum(0).mean()) + 1e-3 * float(np.square(weights - 1 / members).sum())

    def equal(numbers: np.ndarray) -> float:
        return loss(np.repeat(numbers[:-1, None], 2, axis=1), np.array([numbers[-1], -numbers[-1]]))

    best = minimize(equal, np.r_[np.full(members, 1 / members), 0.0], method="BFGS", options={"gtol": 1e-7})
    assert loss(weights, bias) < best.fun - 1e-4
    assert np.abs(weights[:, 0] - weights[:, 1]).max() > 0.05


def test_equal_columns_are_right_where_nobody_is_ever_missing() -> None:
    """What a sum of two weights does is all that shows then, and it is shared out evenly."""
    logits, labels, _ = two_classes(4)
    ensemble = ENSEMBLES.build("weighted_logits", dropout=0.0)
    ensemble.fit(logits, labels)
    weights = np.array(ensemble.state()["weights"])
    assert weights[:, 0] == pytest.approx(weights[:, 1], abs=1e-3)


def test_which_class_comes_first_changes_no_probability_of_two() -> None:
    logits, labels, present = two_classes(3)
    one, other = ENSEMBLES.build("weighted_logits"), ENSEMBLES.build("weighted_logits")
    one.fit(logits, labels, present)
    other.fit(logits[..., ::-1].copy(), 1 - labels, present)
    p, q = one.predict(logits, present), other.predict(logits[..., ::-1].copy(), present)
    assert p == pytest.approx(q[:, ::-1], abs=1e-4)


def test_a_member_that_knows_nothing_gets_next_to_no_weight() -> None:
    logits, labels = drawn_members(8, 2, cases=3000)
    logits[1] = np.random.default_rng(1).normal(size=logits[1].shape)
    ensemble = ENSEMBLES.build("weighted_logits", dropout=0.0)
    ensemble.fit(logits, labels)
    weights = np.abs(ensemble.state()["weights"])
    assert weights[1].max() < 0.15 * weights[0].min()


def test_stacking_is_scikit_learns_logistic_regression() -> None:
    logits, labels = drawn_members(9, 3, cases=150)
    inputs = np.concatenate([*log_scores(logits), np.zeros((150, 3))], axis=1)
    theirs = LogisticRegression(C=1.0, max_iter=5000, tol=1e-9).fit(inputs, labels)
    ours = ENSEMBLES.build("stacking", penalty=0.5)
    ours.fit(logits, labels)
    assert ours.predict(logits) == pytest.approx(theirs.predict_proba(inputs), abs=1e-4)


def test_weighted_counts_members_by_their_skill() -> None:
    labels = np.arange(40) % 2
    right, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]
    half = np.where(np.arange(40)[:, None] < 20, right, wrong)
    mostly = np.where(np.arange(40)[:, None] < 30, right, wrong)
    ensemble = ENSEMBLES.build("weighted")
    ensemble.fit(10 * np.stack([right, half, mostly, wrong]), labels)
    assert ensemble.state()["weights"] == pytest.approx([2 / 3, 0.0, 1 / 3, 0.0])


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
    logits, labels = drawn_members(5, 4, cases=200, classes=2)
    probabilities = softmax(logits)
    share = (probabilities.argmax(axis=2) == 1).mean(axis=0)
    ranked = share + 1e-6 * probabilities.mean(axis=0)[:, 1]
    by_hand = np.stack([1 - ranked, ranked], axis=1)
    voted = ENSEMBLES.build("vote").predict(logits)
    assert score("auroc", voted, labels) == pytest.approx(score("auroc", by_hand, labels))
    assert voted[:, 1] == pytest.approx(ranked / (1 + 1e-6))
    assert len(np.unique(voted[:, 1])) > len(np.unique(share))


def test_averaging_independent_members_helps() -> None:
    logits, labels = drawn_members(6, 9, cases=2000)
    single = max(score("accuracy", softmax(one), labels) for one in logits)
    assert all(
        score("accuracy", ENSEMBLES.build(name).predict(logits), labels) > single for name in ("average", "vote")
    )


def test_a_state_that_means_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="learns nothing"):
        ENSEMBLES.build("average").load_state({"weights": [1.0]})
