"""The contract of every objective, and each loss against its formula in float64 numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from histotune.class_balance import effective_number_weights
from histotune.errors import ConfigError, DataError
from histotune.losses import LOSSES, LinearObjective, Objective, ObjectiveInput

WIDTH = 6
EVERY = pytest.mark.parametrize("name", LOSSES.names())
CLASSES = pytest.mark.parametrize("classes", [2, 5])


def build(name: str, classes: int = 3, **params: Any) -> Objective:
    torch.manual_seed(0)
    return LOSSES.build(name, ObjectiveInput(WIDTH, tuple(40 + 15 * k for k in range(classes))), **params)


def batch(classes: int = 3, size: int = 12, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, WIDTH, generator=generator)
    return features, torch.arange(size) % classes


# --- the contract, for every registered objective


@EVERY
@CLASSES
@pytest.mark.parametrize("size", [1, 7])
def test_scores_and_loss_have_the_promised_shape_and_type(name: str, classes: int, size: int) -> None:
    objective, (features, labels) = build(name, classes), batch(classes, size)
    assert objective.scores(features).shape == (size, classes)
    assert objective.scores(features).dtype == torch.float32
    assert objective.loss(features, labels).shape == ()
    assert objective.loss(features, labels).dtype == torch.float32


@EVERY
@CLASSES
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e-6, 1e4, 1e8])
def test_loss_and_gradients_are_finite_for_every_finite_input(name: str, classes: int, scale: float) -> None:
    objective, (features, labels) = build(name, classes), batch(classes)
    features = (features * scale).requires_grad_()
    loss = objective.loss(features, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@EVERY
def test_gradient_reaches_features_and_every_parameter(name: str) -> None:
    objective, (features, labels) = build(name), batch()
    features.requires_grad_()
    objective.loss(features, labels).backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())


@EVERY
@CLASSES
def test_descent_makes_right_labels_cheaper_than_wrong_ones(name: str, classes: int) -> None:
    objective, (features, labels) = build(name, classes), batch(classes, 10)
    features.requires_grad_()
    optimizer = torch.optim.Adam([features, *objective.parameters()], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        objective.loss(features, labels).backward()
        optimizer.step()
    assert (objective.scores(features).argmax(dim=1) == labels).all()
    for shift in range(1, classes):
        assert objective.loss(features, labels) < objective.loss(features, (labels + shift) % classes)


@EVERY
def test_loss_is_a_mean_over_the_batch(name: str) -> None:
    objective, (features, labels) = build(name), batch()
    once, twice = objective.loss(features, labels), objective.loss(features.repeat(2, 1), labels.repeat(2))
    assert once.item() == pytest.approx(twice.item(), rel=1e-5)


@EVERY
def test_order_of_the_batch_does_not_matter(name: str) -> None:
    objective, (features, labels) = build(name), batch()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    assert objective.loss(features[order], labels[order]).item() == pytest.approx(
        objective.loss(features, labels).item(), rel=1e-5
    )


@EVERY
def test_autocast_changes_neither_type_nor_much_of_the_value(name: str) -> None:
    objective, (features, labels) = build(name), batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(features.bfloat16(), labels)
        assert objective.scores(features.bfloat16()).dtype == torch.float32
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(objective.loss(features, labels).item(), rel=0.05)


@EVERY
def test_saved_and_loaded_objective_scores_the_same(name: str) -> None:
    objective, (features, labels) = build(name), batch()
    torch.manual_seed(99)
    again = LOSSES.build(name, ObjectiveInput(WIDTH, (40, 55, 70)))
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.scores(features), objective.scores(features))
    assert torch.equal(again.loss(features, labels), objective.loss(features, labels))


@EVERY
def test_soft_labels_that_are_hard_cost_the_same(name: str) -> None:
    objective, (features, labels) = build(name), batch()
    if not objective.soft_labels:
        pytest.skip(f"{name} takes hard labels only")
    soft = functional.one_hot(labels, 3).float()
    assert objective.loss(features, soft).item() == pytest.approx(objective.loss(features, labels).item(), rel=1e-5)


@EVERY
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_progress_is_heard_without_complaint(name: str, fraction: float) -> None:
    objective, (features, labels) = build(name), batch()
    objective.set_progress(fraction)
    assert torch.isfinite(objective.loss(features, labels))


# --- values and gradients against formulas of their own, in float64

Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def restated_cross_entropy(smoothing: float) -> Formula:
    def formula(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        softened = (1 - smoothing) * targets + smoothing / targets.shape[1]
        return float(np.mean(np.sum(weights * softened * -log_softmax(logits), axis=1)))

    return formula


def restated_focal(gamma: float) -> Formula:
    def formula(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        log_p = log_softmax(logits)
        return float(np.mean(np.sum(weights * targets * (1 - np.exp(log_p)) ** gamma * -log_p, axis=1)))

    return formula


CASES = [
    *[
        ("cross_entropy", {"label_smoothing": s, "beta": b}, restated_cross_entropy(s))
        for s in (0, 0.1)
        for b in (0, 0.99)
    ],
    *[("focal", {"gamma": g, "beta": b}, restated_focal(g)) for g in (0, 0.5, 1, 2, 5) for b in (0, 0.99, 1)],
]


@pytest.mark.parametrize(("name", "params", "formula"), CASES, ids=lambda v: v if isinstance(v, str) else None)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_follow_the_formula(
    name: str, params: dict[str, Any], formula: Formula, soft: bool, seed: int
) -> None:
    objective, (features, hard) = build(name, **params), batch(seed=seed)
    assert isinstance(objective, LinearObjective)
    rng = np.random.default_rng(seed)
    targets = rng.dirichlet(np.ones(3), size=len(hard)) if soft else np.eye(3)[hard.numpy()]
    labels = torch.from_numpy(targets).float() if soft else hard
    weight, bias = (p.detach().double().numpy() for p in objective.head.parameters())
    alphas = effective_number_weights((40, 55, 70), params["beta"])

    def value(at: np.ndarray) -> float:
        return formula(at @ weight.T + bias, targets, alphas)

    features.requires_grad_()
    loss = objective.loss(features, labels)
    loss.backward()
    at = features.detach().double().numpy()
    assert loss.item() == pytest.approx(value(at), rel=1e-5)
    assert features.grad is not None
    step = 1e-6
    for row, column in rng.integers(0, [len(at), WIDTH], size=(8, 2)):
        nudge = np.zeros_like(at)
        nudge[row, column] = step
        slope = (value(at + nudge) - value(at - nudge)) / (2 * step)
        assert features.grad[row, column].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_focal_without_focus_is_cross_entropy(seed: int) -> None:
    focal, plain, (features, labels) = build("focal", gamma=0, beta=0), build("cross_entropy"), batch(seed=seed)
    assert focal.loss(features, labels).item() == pytest.approx(plain.loss(features, labels).item(), rel=1e-6)


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
        ("cross_entropy", {"label_smoothing": 1.0}, "label_smoothing"),
        ("cross_entropy", {"beta": 1.5}, "beta"),
        ("focal", {"gamma": -1.0}, "gamma"),
        ("focal", {"gama": 1.0}, "Did you mean 'gamma'"),
        ("focl", {}, "Did you mean 'focal'"),
    ],
)
def test_bad_parameters_are_named(name: str, params: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        LOSSES.build(name, ObjectiveInput(WIDTH, (4, 4)), **params)


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
