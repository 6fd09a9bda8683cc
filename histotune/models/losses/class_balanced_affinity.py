"""Class-balanced affinity loss: the affinity loss with every case weighed by its class."""

from __future__ import annotations

from histotune.models.losses._affinity import HEAD_RANGES, Affinity, AffinityHead, Focus
from histotune.models.losses._base import BETA, LOSSES, ObjectiveInput


@LOSSES.register(
    "class_balanced_affinity",
    ranges={**HEAD_RANGES, "beta": BETA},
    source="Eq. 8 of CFAL, IEEE JBHI, doi 10.1109/JBHI.2023.3336372",
)
def class_balanced_affinity(
    given: ObjectiveInput,
    *,
    lambda_: float = 0.1,
    sigma: float = 130.0,
    sigma_mode: str = "absolute",
    sigma_factor: float = 1.0,
    centres: int = 1,
    reg_weight: float = 1.0,
    beta: float = 0.999,
) -> Affinity:
    """Class-balanced affinity loss L_cba: `gaussian_affinity` with class weights of `beta` (0: none)."""
    head = AffinityHead(sigma, sigma_mode, sigma_factor, centres, reg_weight)
    return Affinity(given, lambda_, head, Focus(beta=beta))
