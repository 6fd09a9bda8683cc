"""The Gaussian affinity objective, of which three losses are the registered cases."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from histotune.core.parameters import YES_OR_NO, Allowed, Interval, OneOf
from histotune.models.losses._base import BETA, GAMMA, Objective, ObjectiveInput, each_class, full_precision

_SMALLEST = 1e-6  # of 1 - d before it is raised to gamma: below gamma = 1 its gradient is infinite on a centre
_VANISHED = 1e-6  # an affinity below which a feature feels next to nothing of the centres
_TRUNCATED = 0.87962566103423978  # standard deviation of a unit normal that is cut at +-2

HEAD_RANGES: Mapping[str, Allowed] = {
    "lambda": Interval(0, 1),
    "sigma": Interval(0, open_low=True),
    "sigma_mode": OneOf("absolute", "auto"),
    "sigma_factor": Interval(0, open_low=True),
    "centres": Interval(1, 64, whole=True),
    "reg_weight": Interval(0),
}
FOCUS_RANGES: Mapping[str, Allowed] = {
    "gamma": GAMMA,
    "beta": BETA,
    "detach_modulator": YES_OR_NO,
    "reg_inside": YES_OR_NO,
    "mode": OneOf("paper", "released_keras"),
}


@dataclass(frozen=True)
class AffinityHead:
    """Centres and width of the Gaussian affinity d_ik = max_m exp(-||f_i - w_km||^2 / sigma).

    Args:
        centres: number M of centres of each class.
        sigma: divides the squared distance (`sigma_mode` absolute).
        sigma_mode: `absolute`, or `auto`: sigma is `sigma_factor` times the mean squared distance between two initial
            centres, which follows the width of the features.
        reg_weight: factor of R, the variance of the squared distances between centres.
    """

    sigma: float
    sigma_mode: str
    sigma_factor: float
    centres: int
    reg_weight: float


@dataclass(frozen=True)
class Focus:
    """How cases are weighed: alpha_y (1 - d_y)^gamma.

    Args:
        detach_modulator: no gradient through (1 - d_y)^gamma.
        reg_inside: R stands inside the bracket that is weighed, as in Eq. 7; else it is added once.
        mode: `paper` weighs each case; `released_keras` is the product of two batch means, which the released code
            arrives at by broadcasting, so that weights and focus only rescale the batch.
    """

    gamma: float = 0.0
    beta: float = 0.0
    detach_modulator: bool = True
    reg_inside: bool = True
    mode: str = "paper"


class Affinity(Objective):
    """mean_i alpha_yi (1 - d_iyi)^gamma (sum_{j != yi} max(0, lambda + d_ij - d_iyi) + reg_weight R).

    The scores are -min_m ||f_i - w_km||^2 / sigma: their softmax is the affinities divided by their sum, and it stays
    exact where the affinities themselves underflow. R is 0 for two classes of one centre: there is one pair.
    """

    soft_labels = True
    wanted_norm = "layer"  # sigma is a squared distance: it means something at a known scale of the features only
    scale: Tensor
    weights: Tensor
    pairs: Tensor

    def __init__(self, given: ObjectiveInput, lambda_: float, head: AffinityHead, focus: Focus) -> None:
        super().__init__()
        self.lambda_, self.reg_weight, self.focus = lambda_, head.reg_weight, focus
        number = given.classes * head.centres
        deviation = math.sqrt(2 / number) / _TRUNCATED  # Keras' he_normal of [C, M, D], whose fan-in is C * M
        self.centres = nn.Parameter(torch.empty(given.classes, head.centres, given.feature_dim))
        nn.init.trunc_normal_(self.centres, std=deviation, a=-2 * deviation, b=2 * deviation)
        self.register_buffer("weights", given.class_weights(focus.beta), persistent=False)
        self.register_buffer("pairs", torch.triu_indices(number, number, 1), persistent=False)  # [2, number of pairs]
        auto = head.sigma_mode == "auto" and number > 1
        scale = self.centre_distances().mean().detach() if auto else torch.tensor(1.0)
        self.register_buffer("scale", scale, persistent=auto)  # saved: it comes from the first centres
        self._factor = head.sigma_factor if auto else head.sigma
        _warn_if_vanishing(given, head, self.sigma.item())

    @property
    def sigma(self) -> Tensor:
        """The width of the affinities, a scalar."""
        return self.scale * self._factor

    @full_precision
    def scores(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C], float32; 0 on a centre, negative elsewhere."""
        centres = self.centres.flatten(0, 1)  # [C M, D]
        squares = features.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)  # [B, C M]
        distances = (squares - 2 * features @ centres.T).clamp_min(0)
        return -distances.unflatten(1, self.centres.shape[:2]).amin(dim=2) / self.sigma

    @full_precision
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features [B, D] against labels [B] or probabilities [B, C]."""
        focus = self.focus
        scores, labels, shares = each_class(self.scores(features), labels)
        own = scores.gather(1, labels[:, None])  # [n, 1]
        excess = functional.relu(self.lambda_ + scores.exp() - own.exp())
        violation = excess.scatter(1, labels[:, None], 0.0).sum(dim=1)  # [n]
        modulator = self.weights[labels]
        if focus.gamma:
            modulator = modulator * (-torch.expm1(own[:, 0])).clamp_min(_SMALLEST) ** focus.gamma
        if focus.detach_modulator:
            modulator = modulator.detach()
        spread = self.reg_weight * self.diversity()
        weighed = violation + spread if focus.reg_inside else violation
        if focus.mode == "paper":
            total = (shares * modulator * weighed).sum()
        else:
            total = (shares * modulator).sum() * (shares * weighed).sum()
        return total if focus.reg_inside else total + spread

    def centre_distances(self) -> Tensor:
        """Return the squared distances of all pairs of centres, [pairs]."""
        centres = self.centres.flatten(0, 1)
        return (centres[self.pairs[0]] - centres[self.pairs[1]]).square().sum(dim=1)

    def diversity(self) -> Tensor:
        """Return R, the variance of the squared distances between centres; the mean is not detached."""
        if self.pairs.shape[1] < 2:
            return self.centres.new_zeros(())
        return self.centre_distances().var(correction=0)


def _warn_if_vanishing(given: ObjectiveInput, head: AffinityHead, sigma: float) -> None:
    """Warn when a feature of unit variance, as a norm layer gives it, has no affinity to any initial centre."""
    distance = given.feature_dim * (1 + 2 / (given.classes * head.centres))  # expected, squared
    affinity = math.exp(-distance / sigma)
    if affinity < _VANISHED:
        raised = "loss.sigma_factor" if head.sigma_mode == "auto" else "loss.sigma (or set loss.sigma_mode to auto)"
        value = head.sigma_factor * distance / sigma if head.sigma_mode == "auto" else distance
        warnings.warn(
            f"affinities vanish: normed features of width {given.feature_dim} lie at a squared distance of about "
            f"{distance:.0f} from the centres, with sigma {sigma:g} an affinity of {affinity:.1e}, and hardly train; "
            f"raise {raised} to about {value:.4g}, or lower model.head.feature_dim",
            stacklevel=2,
        )
