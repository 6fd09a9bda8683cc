"""The contract of an objective: a head that scores features, and the loss that trains both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from histotune.core.parameters import Interval
from histotune.core.registry import Registry
from histotune.data.imbalance import checked_counts, effective_number_weights

Own = TypeVar("Own", bound="Objective")
Rest = ParamSpec("Rest")
Method: TypeAlias = Callable[Concatenate[Own, Tensor, Rest], Tensor]
BETA = Interval(0, 1)  # of the class weights: 0 is none, 1 the inverse frequency
GAMMA = Interval(0)
SCALE = Interval(0, open_low=True)
INFERENCE_SCALE = Interval(0)


@dataclass(frozen=True)
class ObjectiveInput:
    """What the program provides to build an objective.

    Args:
        feature_dim: width D of the features.
        counts: cases of each class that are trained on, [C]: those of the *training part* that the model has input of;
            every count is at least 1.

    Raises:
        DataError: a class without training cases.
    """

    feature_dim: int
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a class without training cases."""
        checked_counts(self.counts)

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.counts)

    def class_weights(self, beta: float) -> Tensor:
        """Return the effective-number class weights, float32 [C], with sum C."""
        return torch.from_numpy(effective_number_weights(self.counts, beta)).float()


class Objective(nn.Module):
    """Head + loss over features [B, D] and labels [B] (int64, 0..C-1).

    `scores` are the logits [B, C] that calibration, AUROC and ensembles use: softmax(scores) is the prediction,
    whatever the loss does to them in training. `loss` is the mean over the batch, a float32 scalar, also under
    autocast; it is finite, with finite gradients, for every finite input. (In a float64 objective all is float64.)
    Soft targets: `loss` also takes labels [B, C] of probabilities when `soft_labels` is True (mixup needs it).
    `wanted_norm` is the norm before it, `none`, `batch` or `layer`, unless a configuration sets one.
    """

    soft_labels: bool = False
    wanted_norm: str = "none"

    def scores(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C], float32."""
        raise NotImplementedError

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features [B, D] against labels [B], a float32 scalar."""
        raise NotImplementedError

    def set_progress(self, fraction: float) -> None:
        """Record that `fraction` of the training, in [0, 1], is done; deferred schemes override it."""

    def observe(self, features: Tensor, labels: Tensor) -> None:
        """Record features and labels of a training step, or a part of it; adaptive schemes override it."""

    def adapt(self) -> None:
        """Update buffers from what was observed, once per training step; they are saved with the weights."""


def full_precision(method: Method[Own, Rest]) -> Method[Own, Rest]:
    """Call a method of an objective with features in float32 (or float64), and without autocast."""

    @functools.wraps(method)
    def lifted(self: Own, features: Tensor, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            exact = features if features.dtype == torch.float64 else features.float()
            return method(self, exact, *args, **kwargs)

    return lifted


class LinearObjective(Objective):
    """An objective whose head is one linear layer; a subclass writes `loss` only."""

    def __init__(self, given: ObjectiveInput) -> None:
        super().__init__()
        self.head = nn.Linear(given.feature_dim, given.classes)

    @full_precision
    def scores(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C], float32."""
        logits: Tensor = self.head(features)
        return logits


def each_class(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn labels [B] or probabilities [B, C] into hard labels with their shares in the mean over the batch.

    A case of probabilities q stands there C times, once as a case of each class k, with the share q_k / B: the loss of
    a soft label is the expected loss under it, which is what mixup trains on (Zhang et al., 2018).

    Returns:
        scores [n, C], labels [n] and shares [n], whose sum is 1; n is B, or B * C for soft labels.
    """
    cases, classes = scores.shape
    if not labels.is_floating_point():
        return scores, labels, scores.new_full((cases,), 1 / cases)
    every = torch.arange(classes, device=scores.device).repeat(cases)
    return scores.repeat_interleave(classes, dim=0), every, labels.to(scores.dtype).flatten() / cases


LOSSES: Registry[Objective] = Registry("loss", "histotune.models.losses")
