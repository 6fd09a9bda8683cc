"""The contract of every objective, the laws that tie losses together, their edges, and what they refuse."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from histotune.core.config import TrialConfig
from histotune.data.imbalance import effective_number_weights
from histotune.errors import ConfigError, DataError
from histotune.models.losses import LOSSES, LinearObjective, Objective, ObjectiveInput
from histotune.models.losses._affinity import Affinity
from histotune.space import read_space
from histotune.testing.losses import BY_DESCENT, LOSS, WIDTH, build_loss, loss_batch


def build(name: str, classes: int = 3, **params: Any) -> Objective:
    return build_loss(name, params, classes)


batch = loss_batch
EVERY = pytest.mark.parametrize("name", LOSSES.names())


# --- the contract, for every registered objective


@EVERY
@pytest.mark.parametrize("law", LOSS.laws)
def test_every_loss_keeps_the_law(name: str, law: str) -> None:
    if (name, law) != ("sphereface_reproduction", BY_DESCENT):  # its margin keeps it from learning
        LOSS.check_one(law, LOSS.laws[law], name, name, {})


# --- the edges


@EVERY
@pytest.mark.parametrize("beta", [0.0, 0.999999])
@pytest.mark.parametrize("place", ["centre", "opposite", "far", "one case", "one class"])
def test_edges_keep_loss_and_gradients_finite(name: str, beta: float, place: str) -> None:
    """On a centre and along a class vector, opposite to it (cosine -1), logits of about 1e4, one case, one class."""
    takes_beta = any(p.name == "beta" for p in LOSSES.entry(name).parameters)
    params: dict[str, Any] = {"beta": beta} if takes_beta else {}
    objective = build(name, **params)
    objective.set_progress(1.0)
    features, labels = batch()
    heads = next(p for p in objective.parameters() if p.ndim > 1).detach().reshape(3, -1, WIDTH)[:, 0]
    if place == "centre":
        features = heads[labels].clone()
    elif place == "opposite":
        features = -heads[labels]
    elif place == "far":
        features = 1e4 * features.sign() * features.abs().clamp_min(1.0)
    elif place == "one case":
        features, labels = features[:1], labels[:1]
    else:
        labels = torch.zeros_like(labels)
    features.requires_grad_()
    loss = objective.loss(features, labels)
    loss.backward()
    assert torch.isfinite(objective.scores(features)).all()
    assert torch.isfinite(loss)
    for tensor in (features, *objective.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("mode", ["paper", "released_keras"])
def test_a_modulator_with_gradient_is_finite_on_a_centre(gamma: float, mode: str) -> None:
    objective = build("cfal", gamma=gamma, detach_modulator=False, mode=mode)
    features = objective.get_parameter("centres").detach()[:, 0].clone().requires_grad_()
    objective.loss(features, torch.arange(3)).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_scores_of_affinities_survive_where_the_affinities_underflow() -> None:
    with pytest.warns(UserWarning, match="affinities vanish"):
        objective = build("cfal", sigma=1e-3)
    features, _ = batch()
    scores = objective.scores(features)
    assert (scores.exp() == 0).all()
    assert torch.isfinite(scores).all()
    nearest = torch.cdist(features, objective.get_parameter("centres")[:, 0]).argmin(dim=1)
    assert torch.equal(scores.argmax(dim=1), nearest)


def test_automatic_sigma_travels_with_the_weights() -> None:
    one, (features, labels) = build("cfal", sigma_mode="auto", centres=2), batch()
    torch.manual_seed(99)
    other = LOSSES.build("cfal", ObjectiveInput(WIDTH, (40, 55, 70)), sigma_mode="auto", centres=2)
    assert other.get_buffer("scale") != one.get_buffer("scale")
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.scores(features), one.scores(features))
    assert torch.equal(other.loss(features, labels), one.loss(features, labels))


# --- laws, for every registered objective

SEEDS = st.integers(0, 2**31)
LAW = settings(max_examples=8, deadline=None)


def drawn(name: str, seed: int, counts: tuple[int, ...], **params: Any) -> tuple[Objective, torch.Tensor, torch.Tensor]:
    """An objective in float64, features [9, WIDTH] and labels, all from a seed."""
    torch.manual_seed(seed)
    objective = LOSSES.build(name, ObjectiveInput(WIDTH, counts), **params).double()
    return objective, torch.randn(9, WIDTH, dtype=torch.float64), torch.randint(len(counts), (9,))


@EVERY
@LAW
@given(seed=SEEDS, order=st.permutations(range(4)), late=st.booleans())
def test_names_of_the_classes_do_not_matter(name: str, seed: int, order: list[int], late: bool) -> None:
    counts = (7, 90, 40, 300)
    objective, features, labels = drawn(name, seed, counts)
    other = LOSSES.build(name, ObjectiveInput(WIDTH, tuple(counts[k] for k in order))).double()
    state = {key: value[order] if value.ndim else value for key, value in objective.state_dict().items()}
    other.load_state_dict(state)
    for each in (objective, other):
        each.set_progress(float(late))
    renamed = torch.tensor(order).argsort()[labels]
    assert other.loss(features, renamed).item() == pytest.approx(objective.loss(features, labels).item(), rel=1e-9)
    assert torch.allclose(other.scores(features), objective.scores(features)[:, order])


@EVERY
@LAW
@given(seed=SEEDS)
def test_equal_counts_weigh_nothing(name: str, seed: int) -> None:
    if all(p.name != "beta" for p in LOSSES.entry(name).parameters):
        pytest.skip(f"{name} weighs no classes")
    (weighed, features, labels), (plain, _, _) = (drawn(name, seed, (50, 50, 50), beta=b) for b in (0.99, 0.0))
    for each in (weighed, plain):
        each.set_progress(1.0)
    assert weighed.loss(features, labels).item() == pytest.approx(plain.loss(features, labels).item(), rel=1e-6)


# --- one loss that becomes another

AFFINE = {"sigma": 9.0, "lambda": 0.4, "reg_weight": 0.1}
REDUCTIONS = [
    ("focal", {"gamma": 0.0}, "cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.0, "tau": 0.0}, "cross_entropy", {}),
    ("cfal", {**AFFINE, "gamma": 0.0, "beta": 0.99}, "class_balanced_affinity", {**AFFINE, "beta": 0.99}),
    ("class_balanced_affinity", {**AFFINE, "beta": 0.0}, "gaussian_affinity", AFFINE),
    ("cfal", {**AFFINE, "gamma": 0.0, "beta": 0.0, "mode": "released_keras"}, "gaussian_affinity", AFFINE),
    ("cfal", {**AFFINE, "gamma": 0.0, "beta": 0.0, "reg_inside": False}, "gaussian_affinity", AFFINE),
    ("arcface", {"scale": 7.0, "margin": 0.0}, "cosface", {"scale": 7.0, "margin": 0.0}),
    ("sphereface", {"scale": 7.0, "margin": 1.0}, "cosface", {"scale": 7.0, "margin": 0.0}),
    ("ldam", {"scale": 7.0, "margin": 0.0}, "cosface", {"scale": 7.0, "margin": 0.0}),
]


@pytest.mark.parametrize(("name", "params", "other", "others"), REDUCTIONS)
@LAW
@given(seed=SEEDS)
def test_reductions(name: str, params: dict[str, Any], other: str, others: dict[str, Any], seed: int) -> None:
    counts = (7, 90, 40)
    (one, features, labels), (two, _, _) = drawn(name, seed, counts, **params), drawn(other, seed, counts, **others)
    two.load_state_dict(one.state_dict())
    assert one.loss(features, labels).item() == pytest.approx(two.loss(features, labels).item(), rel=1e-9)
    assert torch.allclose(one.scores(features), two.scores(features))


@LAW
@given(seed=SEEDS, known=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3))
def test_acbfl_without_focus_and_weights_is_ldam(seed: int, known: list[float]) -> None:
    flat = {"gamma": 0.0, "beta": 0.0, "eta": 0.0, "kappa": 3.0}
    one, features, labels = drawn("acbfl", seed, (7, 90, 40), scale=30.0, margin=0.4, **flat)
    one.get_buffer("known").copy_(torch.tensor(known))
    two = drawn("ldam", seed, (7, 90, 40), scale=30.0, margin=0.4, beta=0.0)[0]
    two.load_state_dict(dict(one.named_parameters()))
    assert one.loss(features, labels).item() == pytest.approx(two.loss(features, labels).item(), rel=1e-12)
    assert torch.equal(one.scores(features), two.scores(features))


@LAW
@given(seed=SEEDS, gamma=st.floats(0.0, 5.0), known=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3))
def test_acbfl_without_margin_and_adaptation_is_class_balanced_focal(
    seed: int, gamma: float, known: list[float]
) -> None:
    """On the same logits: the cosine head is a linear one of normed features and weights."""
    counts = (7, 90, 40)
    plain = {"margin": 0.0, "kappa": 0.0, "eta": 0.0}
    one, features, labels = drawn("acbfl", seed, counts, scale=9.0, gamma=gamma, beta=0.99, **plain)
    one.get_buffer("known").copy_(torch.tensor(known))
    two = drawn("focal", seed, counts, gamma=gamma, beta=0.99)[0]
    directions = functional.normalize(one.get_parameter("directions").detach(), dim=1)
    two.load_state_dict({"head.weight": 9.0 * directions, "head.bias": torch.zeros(3)})
    lengths = functional.normalize(features, dim=1)
    assert one.loss(features, labels).item() == pytest.approx(two.loss(lengths, labels).item(), rel=1e-9)
    assert torch.allclose(one.scores(features), two.scores(lengths))


def test_acbfl_turns_to_the_class_that_is_not_yet_known() -> None:
    features, _ = batch()
    costs = {}
    for eta in (0.5, 0.0):
        objective = build("acbfl", margin=0.0, beta=0.0, gamma=0.0, eta=eta)
        objective.get_buffer("known").copy_(torch.tensor([0.1, 0.9, 0.9]))
        costs[eta] = np.array([objective.loss(features, torch.full((12,), k)).item() for k in range(3)])
    assert costs[0.5] / costs[0.0] == pytest.approx(3 * np.array([1.45, 1.05, 1.05]) / 3.55, rel=1e-5)


@LAW
@given(seed=SEEDS)
def test_cosines_without_margin_are_the_normalised_softmax(seed: int) -> None:
    objective, features, labels = drawn("arcface", seed, (5, 6, 7), margin=0.0, scale=9.0)
    directions = objective.get_parameter("directions")
    logits = 9.0 * functional.cosine_similarity(features[:, None], directions[None], dim=2)
    assert objective.loss(features, labels).item() == pytest.approx(
        functional.cross_entropy(logits, labels).item(), rel=1e-9
    )


@LAW
@given(seed=SEEDS, weight=st.floats(0.0, 10.0))
def test_two_classes_of_one_centre_have_no_diversity(seed: int, weight: float) -> None:
    objective, features, labels = drawn("cfal", seed, (7, 90), reg_weight=weight)
    without = drawn("cfal", seed, (7, 90), reg_weight=0.0)[0]
    assert objective.diversity().item() == 0  # type: ignore[operator]
    assert objective.loss(features, labels).item() == without.loss(features, labels).item()


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_logit_adjustment_asks_more_of_rare_classes_and_leaves_the_scores(tau: float) -> None:
    given_, (features, labels) = ObjectiveInput(WIDTH, (1, 9, 90)), batch()
    plain, adjusted = (LOSSES.build("cross_entropy", given_, tau=t) for t in (0.0, tau))
    adjusted.load_state_dict(plain.state_dict())
    assert torch.equal(plain.scores(features), adjusted.scores(features))
    rare, common = labels == 0, labels == 2
    assert adjusted.loss(features[rare], labels[rare]) > plain.loss(features[rare], labels[rare])
    assert adjusted.loss(features[common], labels[common]) < plain.loss(features[common], labels[common])


def test_deferred_weights_wait_for_their_time() -> None:
    given_, (features, _) = ObjectiveInput(WIDTH, (4, 400)), batch(2)
    objective = LOSSES.build("ldam", given_, defer=0.8, beta=0.999)
    rare = torch.zeros(len(features), dtype=torch.long)
    losses = []
    for fraction in (0.0, 0.79, 0.8, 1.0, 0.5):
        objective.set_progress(fraction)
        losses.append(objective.loss(features, rare).item())
    weight = effective_number_weights((4, 400), 0.999)[0]
    assert losses[0] == losses[1] == losses[4], "and a training that is resumed earlier waits again"
    assert losses[2] == losses[3] == pytest.approx(weight * losses[0], rel=1e-6)


def test_the_literal_sphereface_helps_the_true_class() -> None:
    (literal, features, labels), (plain, _, _) = (
        drawn(name, 3, (5, 6, 7), margin=m) for name, m in (("sphereface_reproduction", 0.35), ("sphereface", 1.0))
    )
    assert literal.loss(features, labels) < plain.loss(features, labels)


@pytest.mark.parametrize("name", ["arcface", "cosface", "sphereface", "ldam"])
def test_inference_scale_changes_the_scores_only(name: str) -> None:
    (usual, features, labels), (faithful, _, _) = drawn(name, 1, (5, 6)), drawn(name, 1, (5, 6), inference_scale=1.0)
    assert usual.loss(features, labels) == faithful.loss(features, labels)
    scale = next(p.default for p in LOSSES.entry(name).parameters if p.name == "scale")
    assert torch.allclose(usual.scores(features), scale * faithful.scores(features))
    assert faithful.scores(features).abs().max() <= 1 + 1e-12


def test_focal_turns_from_easy_cases() -> None:
    logits = torch.tensor([[4.0, 0.0], [0.0, 0.5]])
    shares = []
    for gamma in (0.0, 1.0, 2.0):
        objective = LOSSES.build("focal", ObjectiveInput(2, (1, 1)), gamma=gamma)
        assert isinstance(objective, LinearObjective)
        torch.nn.init.eye_(objective.head.weight)
        torch.nn.init.zeros_(objective.head.bias)
        easy, hard = (objective.loss(logits[i : i + 1], torch.tensor([0])).item() for i in range(2))
        shares.append(easy / (easy + hard))
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("name", "params", "word"),
    [
        ("cross_entropy", {"label_smoothing": 1.0}, r"'label_smoothing' of loss 'cross_entropy' .* \[0, 1\), got 1.0"),
        ("cross_entropy", {"beta": 1.5}, r"'beta' .* \[0, 1\], got 1.5"),
        ("cross_entropy", {"tau": -1.0}, r"'tau' .* \[0, inf\), got -1.0"),
        ("focal", {"gamma": -1.0}, r"'gamma' .* \[0, inf\), got -1.0"),
        ("sigmoid_focal", {"gamma": float("nan")}, r"'gamma' .* got nan"),
        ("cfal", {"sigma": 0.0}, r"'sigma' .* \(0, inf\), got 0.0"),
        ("cfal", {"sigma": -130}, r"'sigma' .* \(0, inf\), got -130"),
        ("cfal", {"sigma": float("inf")}, r"'sigma' .* got inf"),
        ("cfal", {"sigma": "wide"}, r"'sigma' .* must be a number .* got 'wide'"),
        ("cfal", {"lambda": 1.5}, r"'lambda' .* \[0, 1\], got 1.5"),
        ("cfal", {"lambda_": 0.5}, "Did you mean 'lambda'"),
        ("cfal", {"centres": 0}, r"'centres' .* got 0"),
        ("cfal", {"centres": 1.5}, r"'centres' .* whole number .* got 1.5"),
        ("cfal", {"sigma_mode": "automatic"}, r"absolute | auto, got 'automatic'"),
        ("cfal", {"mode": "released"}, "Did you mean 'released_keras'"),
        ("cfal", {"detach_modulator": "no"}, r"false | true, got 'no'"),
        ("gaussian_affinity", {"beta": 0.9}, "no parameter 'beta'"),
        ("class_balanced_affinity", {"gamma": 1.0}, "no parameter 'gamma'"),
        ("arcface", {"margin": 28.6}, r"'margin' .* radians, got 28.6"),
        ("arcface", {"scale": 0}, r"'scale' .* \(0, inf\), got 0"),
        ("cosface", {"margin": 2.5}, r"'margin' .* \[0, 2\], got 2.5"),
        ("sphereface", {"margin": 0.35}, r"'margin' .* \[1, 4\], got 0.35"),
        ("sphereface_reproduction", {"margin": 1.0}, r"'margin' .* \(0, 1\), got 1.0"),
        ("acbfl", {"momentum": 1.0}, r"'momentum' .* \[0, 1\), got 1.0"),
        ("acbfl", {"kappa": -0.5}, r"'kappa' .* \[0, inf\), got -0.5"),
        ("ldam", {"defer": 1.2}, r"'defer' .* \[0, 1\], got 1.2"),
        ("focal", {"gama": 1.0}, "Did you mean 'gamma'"),
        ("focl", {}, "Did you mean 'focal'"),
    ],
)
def test_bad_parameters_are_named(name: str, params: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        LOSSES.build(name, ObjectiveInput(WIDTH, (4, 4)), **params)


@EVERY
def test_a_class_without_training_cases_is_refused_by_every_loss(name: str) -> None:
    with pytest.raises(DataError, match=r"at least one case in the training part, got counts \[4, 0\]"):
        LOSSES.build(name, ObjectiveInput(WIDTH, (4, 0)))


def test_a_space_ranges_over_the_parameters_of_cfal() -> None:
    searched = {
        "lambda": {"low": 0.1, "high": 0.9, "step": 0.1},
        "sigma": {"low": 10.0, "high": 500.0, "log": True},
        "detach_modulator": {"choice": [True, False]},
        "sigma_mode": {"choice": ["absolute", "auto"]},
    }
    values: dict[str, Any] = {
        "dataset": "synthetic",
        "loss": {"choice": {"cfal": searched, "arcface": {"margin": 0.1}}},
    }
    config = TrialConfig.from_dict(read_space(values, "mine").default())
    assert config.loss.name == "cfal"
    objective = LOSSES.build(config.loss.name, ObjectiveInput(WIDTH, (4, 4)), **config.loss.params)
    assert isinstance(objective, Affinity)
    assert objective.lambda_ == 0.1
    searched["lambda"] = {"low": 0.1, "high": 1.9}
    with pytest.raises(ConfigError, match=r"mine: .*'lambda' of loss 'cfal' must lie in \[0, 1\], got 1.9"):
        read_space(values, "mine")


@EVERY
def test_every_parameter_says_what_it_may_be(name: str) -> None:
    entry = LOSSES.entry(name)
    assert entry.source
    assert all(p.range for p in entry.parameters)
    for parameter in entry.parameters:
        assert parameter.range is not None
        parameter.range.check(parameter.name, parameter.default)


@pytest.mark.parametrize("name", ["gaussian_affinity", "class_balanced_affinity", "cfal"])
def test_features_too_wide_for_sigma_are_warned_of_with_the_cure(name: str) -> None:
    wide = ObjectiveInput(4096, (5, 5))
    with pytest.warns(UserWarning, match=r"width 4096 .* 8192 .* sigma 130 .* about 8192, or lower"):
        LOSSES.build(name, wide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LOSSES.build(name, wide, sigma=8192)
        LOSSES.build(name, wide, sigma_mode="auto")
        LOSSES.build(name, ObjectiveInput(64, (5,) * 9))


# --- class weights


def test_beta_zero_gives_ones() -> None:
    assert effective_number_weights([3, 700, 12], 0.0).tolist() == [1.0, 1.0, 1.0]


def test_weights_of_the_crc_counts_are_the_published_arithmetic() -> None:
    counts = [10407, 10566, 11512, 11557, 8896, 13536, 8763, 10446, 14317]
    expected = [1.022, 1.013, 0.967, 0.965, 1.122, 0.891, 1.132, 1.020, 0.868]
    assert effective_number_weights(counts, 0.9999) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999, 0.99999, 1 - 1e-12])
def test_weights_follow_the_definition_in_exact_arithmetic(beta: float) -> None:
    from fractions import Fraction

    counts = [3, 40, 500]
    exact = [(1 - Fraction(beta)) / (1 - Fraction(beta) ** n) for n in counts]
    expected = [float(e / sum(exact) * len(counts)) for e in exact]
    assert effective_number_weights(counts, beta) == pytest.approx(expected, rel=1e-12)


def test_weights_approach_inverse_frequency() -> None:
    counts = [30, 500, 7000]
    inverse = 1 / np.array(counts)
    expected = inverse / inverse.sum() * 3
    assert effective_number_weights(counts, 1.0) == pytest.approx(expected)
    assert effective_number_weights(counts, 1 - 1e-10) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 1.0])
def test_weights_sum_to_the_classes_and_rarer_weighs_no_less(beta: float) -> None:
    weights = effective_number_weights([5, 50, 500, 5000], beta)
    assert weights.sum() == pytest.approx(4)
    assert (np.diff(weights) <= 0).all()


def test_a_class_without_cases_is_refused() -> None:
    with pytest.raises(DataError, match="at least one"):
        effective_number_weights([4, 0], 0.9)
