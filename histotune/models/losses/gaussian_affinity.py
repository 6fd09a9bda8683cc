"""Affinity loss: a max-margin loss over Gaussian affinities to class centres."""

from __future__ import annotations

from histotune.models.losses._affinity import HEAD_RANGES, Affinity, AffinityHead, Focus
from histotune.models.losses._base import LOSSES, ObjectiveInput


@LOSSES.register("gaussian_affinity", ranges=HEAD_RANGES, source="Hayat et al., 2019")
def gaussian_affinity(
    given: ObjectiveInput,
    *,
    lambda_: float = 0.1,
    sigma: float = 130.0,
    sigma_mode: str = "absolute",
    sigma_factor: float = 1.0,
    centres: int = 1,
    reg_weight: float = 1.0,
) -> Affinity:
    """Affinity loss L_a: margin `lambda` between Gaussian affinities of width `sigma`, plus the centres' diversity."""
    return Affinity(given, lambda_, AffinityHead(sigma, sigma_mode, sigma_factor, centres, reg_weight), Focus())
