"""The cosine head, whose losses differ in what a margin does to the cosine of the true class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from histotune.models.losses._base import Objective, ObjectiveInput, each_class, full_precision

EDGE = 1e-7  # how near to +-1 a cosine comes where its angle is differentiated: there the slope is infinite
_SHORTEST = 1e-6  # a feature below this length keeps a finite gradient


class CosineMargin(Objective):
    """mean_i alpha_yi (-log softmax(s z_i)_yi), z the cosines of feature and class vector, that of yi after its margin.

    The scores are s' times the plain cosines, with s' the `inference_scale`, or s where that is 0.

    Args:
        given: width of the features and cases of each class.
        scale: s.
        inference_scale: s', 0 for the scale of training; 1 is what the released CFAL code uses.
        beta: of the class weights, 0 for none.
    """

    soft_labels = True
    weights: Tensor

    def __init__(self, given: ObjectiveInput, *, scale: float, inference_scale: float, beta: float) -> None:
        super().__init__()
        self.scale = scale
        self.inference_scale = inference_scale or scale
        self.directions = nn.Parameter(torch.empty(given.classes, given.feature_dim))
        nn.init.xavier_uniform_(self.directions)
        self.register_buffer("weights", given.class_weights(beta), persistent=False)

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Map the cosines [n, 1] to the classes of the labels [n] to what training sees of them, [n, 1]."""
        raise NotImplementedError

    def length(self, features: Tensor) -> Tensor | float:
        """Return what multiplies the cosines of a case beside the scale: [B, 1], or 1."""
        return 1.0

    def cosines(self, features: Tensor) -> Tensor:
        """Return the cosines [B, C] of features [B, D] and class vectors."""
        directions = functional.normalize(self.directions, dim=1, eps=_SHORTEST)
        return functional.normalize(features, dim=1, eps=_SHORTEST) @ directions.T

    @full_precision
    def scores(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C], float32: scaled cosines without a margin."""
        return self.inference_scale * self.length(features) * self.cosines(features)

    @full_precision
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features [B, D] against labels [B] or probabilities [B, C]."""
        cosines, labels, shares = each_class(self.cosines(features), labels)
        own = self.with_margin(cosines.gather(1, labels[:, None]), labels)
        length = self.length(features)
        if isinstance(length, Tensor):
            length = length.repeat_interleave(len(cosines) // len(features), dim=0)
        logits = self.scale * length * cosines.scatter(1, labels[:, None], own)
        cases = functional.cross_entropy(logits, labels, reduction="none")
        return (shares * self.weights[labels] * cases).sum()
