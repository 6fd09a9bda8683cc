"""Centre-focused affinity loss: class-balanced, and turned from cases that lie near their centre."""

from __future__ import annotations

from histotune.models.losses._affinity import FOCUS_RANGES, HEAD_RANGES, Affinity, AffinityHead, Focus
from histotune.models.losses._base import LOSSES, ObjectiveInput


@LOSSES.register(
    "cfal",
    ranges={**HEAD_RANGES, **FOCUS_RANGES},
    source="Eq. 7 of CFAL, IEEE JBHI, doi 10.1109/JBHI.2023.3336372",
)
def cfal(
    given: ObjectiveInput,
    *,
    lambda_: float = 0.1,
    sigma: float = 130.0,
    sigma_mode: str = "absolute",
    sigma_factor: float = 1.0,
    centres: int = 1,
    reg_weight: float = 1.0,
    gamma: float = 2.0,
    beta: float = 0.999,
    detach_modulator: bool = True,
    reg_inside: bool = True,
    mode: str = "paper",
) -> Affinity:
    """Centre-focused affinity loss: L_cba times (1 - affinity to the own centre)^`gamma`, case by case.

    `detach_modulator` (the authors' intent), `reg_inside` (Eq. 7) and `sigma_mode: auto` are readings of this project
    where the paper is silent; `mode: released_keras` is what the released code computes, see `Focus`.
    """
    head = AffinityHead(sigma, sigma_mode, sigma_factor, centres, reg_weight)
    return Affinity(given, lambda_, head, Focus(gamma, beta, detach_modulator, reg_inside, mode))
