"""The laws of a loss: shapes, finite numbers, gradients, what training achieves, and what a saved one remembers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from histotune.errors import DataError
from histotune.models.losses import LOSSES, Objective, ObjectiveInput
from histotune.testing._contract import Contract, alike, documented, finite, refused, require

LOSS = Contract("loss")
WIDTH = 6  # of the features
COUNTS = (40, 55, 70, 85, 100)  # training cases of each class
BY_DESCENT = "training_makes_right_labels_cheaper_than_wrong_ones"


def check_loss(name: str, *, without: Iterable[str] = (), **params: Any) -> None:
    """Check every law of a loss, with these parameters.

    Args:
        name: as registered.
        without: names of laws that it breaks by design.
        params: parameters of the loss; its defaults where none are given.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such loss, parameter or law.
    """
    LOSSES.check(name, params)
    LOSS.check(name, name, params, without=without)


def build_loss(name: str, params: dict[str, Any], classes: int = 3, *, seed: int = 0) -> Objective:
    """Build a loss of `WIDTH` features for the first of `COUNTS`."""
    torch.manual_seed(seed)
    return LOSSES.build(name, ObjectiveInput(WIDTH, COUNTS[:classes]), **params)


def loss_batch(classes: int = 3, size: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Draw features [size, WIDTH]; the classes take turns."""
    features = torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(seed))
    return features, torch.arange(size) % classes


@LOSS.law
def it_is_documented(name: str, params: dict[str, Any]) -> None:
    """A summary is there, and every default lies in the range of its parameter."""
    documented(LOSSES, name)


@LOSS.law
def scores_and_loss_have_the_promised_shape_and_type(name: str, params: dict[str, Any]) -> None:
    """Scores are float32 [B, C], the loss is a float32 scalar."""
    for classes in (2, 5):
        for size in (1, 7):
            objective, (features, labels) = build_loss(name, params, classes), loss_batch(classes, size)
            scores, loss = objective.scores(features), objective.loss(features, labels)
            require(scores.shape == (size, classes), f"scores have shape {tuple(scores.shape)}, not {(size, classes)}")
            require(loss.shape == (), f"the loss has shape {tuple(loss.shape)}, and must be a scalar")
            require(scores.dtype == loss.dtype == torch.float32, f"got {scores.dtype} scores and {loss.dtype} loss")


@LOSS.law
def loss_and_gradients_are_finite_for_every_finite_input(name: str, params: dict[str, Any]) -> None:
    """No finite features, however small or large, give NaN or infinity."""
    for classes in (2, 5):
        for scale in (0.0, 1.0, 1e-6, 1e4, 1e8):
            objective, (features, labels) = build_loss(name, params, classes), loss_batch(classes)
            features = (features * scale).requires_grad_()
            loss = objective.loss(features, labels)
            finite(loss, f"the loss of features times {scale:g}")
            loss.backward()
            finite(features.grad, f"the gradient of features times {scale:g}")
            for key, weight in objective.named_parameters():
                if weight.grad is not None:
                    finite(weight.grad, f"the gradient of {key} for features times {scale:g}")


@LOSS.law
def gradient_reaches_features_and_every_parameter(name: str, params: dict[str, Any]) -> None:
    """Whatever is trainable is trained."""
    objective, (features, labels) = build_loss(name, params), loss_batch()
    features.requires_grad_()
    objective.loss(features, labels).backward()
    for key, leaf in [("the features", features), *objective.named_parameters()]:
        if leaf.requires_grad:
            require(leaf.grad is not None and leaf.grad.abs().sum() > 0, f"{key} gets no gradient")


@LOSS.law
def training_makes_right_labels_cheaper_than_wrong_ones(name: str, params: dict[str, Any]) -> None:
    """After some steps of descent the right class has the highest score and the lowest loss."""
    for classes in (2, 5):
        objective, (features, labels) = build_loss(name, params, classes), loss_batch(classes, 10)
        features.requires_grad_()
        optimizer = torch.optim.Adam([features, *objective.parameters()], lr=0.3)
        for _ in range(60):
            optimizer.zero_grad()
            objective.loss(features, labels).backward()
            optimizer.step()
        right = (objective.scores(features).argmax(dim=1) == labels).double().mean().item()
        require(right == 1, f"after training, {right:.0%} of the cases have their highest score at their label")
        cost = objective.loss(features, labels).item()
        for shift in range(1, classes):
            wrong = objective.loss(features, (labels + shift) % classes).item()
            require(cost < wrong, f"right labels cost {cost:.6g}, wrong ones {wrong:.6g}")


@LOSS.law
def loss_is_a_mean_over_the_batch(name: str, params: dict[str, Any]) -> None:
    """The same batch twice costs as much as once."""
    objective, (features, labels) = build_loss(name, params), loss_batch()
    twice = objective.loss(features.repeat(2, 1), labels.repeat(2))
    alike(objective.loss(features, labels), twice, "the loss of a batch once and twice", rtol=1e-5)


@LOSS.law
def order_of_the_batch_does_not_matter(name: str, params: dict[str, Any]) -> None:
    """The order of the cases has no meaning."""
    for seed in range(4):
        objective = build_loss(name, params, seed=seed).double()
        features, labels = loss_batch(size=9, seed=seed)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        one, other = (objective.loss(features.double()[at], labels[at]) for at in (order, order.sort().values))
        alike(one, other, "the loss in another order", rtol=1e-12)


@LOSS.law
def autocast_changes_neither_type_nor_much_of_the_value(name: str, params: dict[str, Any]) -> None:
    """Scores and loss of bfloat16 features are float32, and nearly those of float32 features."""
    objective, (features, labels) = build_loss(name, params), loss_batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, scores = objective.loss(features.bfloat16(), labels), objective.scores(features.bfloat16())
    require(scores.dtype == loss.dtype == torch.float32, f"got {scores.dtype} scores and {loss.dtype} loss")
    alike(loss, objective.loss(features, labels), "the loss under autocast", rtol=0.05)


@LOSS.law
def arithmetic_is_float32_under_autocast(name: str, params: dict[str, Any]) -> None:
    """Float32 features give the same bits under autocast: see `full_precision`."""
    objective, (features, labels) = build_loss(name, params), loss_batch()
    scores, loss = objective.scores(features), objective.loss(features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        alike(objective.scores(features), scores, "the scores of float32 features under autocast")
        alike(objective.loss(features, labels), loss, "the loss of float32 features under autocast")


@LOSS.law
def a_saved_and_loaded_loss_is_the_same(name: str, params: dict[str, Any]) -> None:
    """All that it has learned is in its state dict, also what it observed."""
    objective, (features, labels) = build_loss(name, params), loss_batch()
    objective.observe(features, labels)
    objective.adapt()
    again = build_loss(name, params, seed=99)
    again.load_state_dict(objective.state_dict())
    alike(again.scores(features), objective.scores(features), "the scores of a loaded loss")
    alike(again.loss(features, labels), objective.loss(features, labels), "the loss of a loaded loss")


@LOSS.law
def loss_changes_no_state(name: str, params: dict[str, Any]) -> None:
    """Only `observe` and `adapt` change what is saved."""
    objective, (features, labels) = build_loss(name, params), loss_batch()
    before = {key: tensor.clone() for key, tensor in objective.state_dict().items()}
    objective.loss(features, labels)
    for key, tensor in objective.state_dict().items():
        alike(tensor, before[key], f"{key} before and after a call of `loss`")


@LOSS.law
def soft_labels_that_are_hard_cost_the_same(name: str, params: dict[str, Any]) -> None:
    """A loss that takes probabilities takes those of one class as it takes that class."""
    objective, (features, labels) = build_loss(name, params), loss_batch()
    if objective.soft_labels:
        soft = objective.loss(features, functional.one_hot(labels, 3).float())
        alike(soft, objective.loss(features, labels), "the loss of soft labels that are hard", rtol=1e-5)


@LOSS.law
def progress_keeps_the_loss_finite(name: str, params: dict[str, Any]) -> None:
    """At the beginning, half-way and at the end of the training the loss is finite."""
    for fraction in (0.0, 0.5, 1.0):
        objective, (features, labels) = build_loss(name, params), loss_batch()
        objective.set_progress(fraction)
        finite(objective.loss(features, labels), f"the loss after {fraction:.0%} of the training")


@LOSS.law
def a_class_without_training_cases_is_refused(name: str, params: dict[str, Any]) -> None:
    """Nothing can be learned of a class that the training part does not hold."""
    refused(lambda: LOSSES.build(name, ObjectiveInput(WIDTH, (4, 0)), **params), DataError, "a class without cases")
