"""Class weights, margins and priors from the number of training cases of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histotune.errors import ConfigError, DataError


def effective_number_weights(counts: Sequence[int], beta: float) -> np.ndarray:
    """Weigh each class by the inverse of its effective number of samples (Cui et al., CVPR 2019).

    E_n = (1 - beta^n) / (1 - beta), weight 1 / E_n, scaled to sum C. `beta` 0 gives ones; `beta` 1 is the limit,
    inverse frequency. `expm1` keeps 1 - beta^n exact where beta^n is close to 1.

    Args:
        counts: cases of each class in the training part, [C], each at least 1.
        beta: in [0, 1].

    Returns:
        float64 [C], positive, with sum C.

    Raises:
        ConfigError: `beta` outside [0, 1].
        DataError: a class without training cases.

    >>> effective_number_weights([10, 1000], 0.0).tolist()
    [1.0, 1.0]
    >>> effective_number_weights([30, 10], 1.0).tolist()
    [0.5, 1.5]
    """
    if not 0.0 <= beta <= 1.0:
        raise ConfigError(f"beta must lie in [0, 1], got {beta=}")
    cases = checked_counts(counts)
    if beta == 0.0:
        return np.ones_like(cases)
    covered = cases if beta == 1.0 else -np.expm1(cases * np.log(beta))  # proportional to E_n
    inverse = 1.0 / covered
    return inverse / inverse.sum() * len(cases)


def ldam_margins(counts: Sequence[int], largest: float) -> np.ndarray:
    """Return margins proportional to n^(-1/4), the greatest of them `largest` (Cao et al., 2019); float64 [C].

    >>> ldam_margins([16, 1], 0.5).tolist()
    [0.25, 0.5]

    Raises:
        DataError: a class without training cases.
    """
    margins = checked_counts(counts) ** -0.25
    return largest * margins / margins.max()


def log_priors(counts: Sequence[int]) -> np.ndarray:
    """Return the logarithm of each class's share of the training cases; float64 [C].

    Raises:
        DataError: a class without training cases.
    """
    cases = checked_counts(counts)
    return np.log(cases / cases.sum())


def checked_counts(counts: Sequence[int]) -> np.ndarray:
    """Return the counts as float64 [C].

    Raises:
        DataError: no class, or a class without training cases.
    """
    cases = np.asarray(counts, dtype=np.float64)
    if cases.size == 0 or cases.min() < 1:
        raise DataError(
            f"every class needs at least one case in the training part, got counts {list(counts)}: "
            "choose another split, or add or leave out classes"
        )
    return cases
