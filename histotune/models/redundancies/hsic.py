"""Hilbert-Schmidt independence criterion between two branches, normalised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from histotune.models.redundancies._base import REDUNDANCIES, WEIGHT, Redundancy

_FLAT = 1e-6  # of a squared distance or an inner product below which everything counts as equal


class Hsic(Redundancy):
    """Unbiased HSIC of Gaussian kernels over the geometric mean of each with itself: 0 if independent, 1 if equal.

    A kernel's width is the mean squared distance in the batch. The estimate has no bias (Song et al., 2012), so
    that independent branches of any width are at 0 on average, sometimes below.
    """

    least_cases = 4

    def between(self, embeddings: Mapping[str, Tensor], pair: tuple[str, str], there: Tensor) -> Tensor:
        """Return the normalised criterion, in [-1, 1]; 0 with fewer than four cases."""
        one, other = (_kernel(embeddings[name], there) for name in pair)
        scale = (one.square().sum() * other.square().sum()).clamp_min(_FLAT**2).sqrt()
        result = (one * other).sum() / scale
        return torch.where(there.sum() >= self.least_cases, result, torch.zeros_like(result))


def _kernel(values: Tensor, there: Tensor) -> Tensor:
    """Return the kernel matrix [B, B] whose rows and columns sum to 0 without the diagonal, which is 0."""
    pairs = there[:, None] * there * (1 - torch.eye(len(there), dtype=there.dtype, device=there.device))
    lengths = values.square().sum(dim=1)
    squares = (lengths[:, None] + lengths - 2 * values @ values.T).clamp_min(0)
    width = (pairs * squares).sum() / pairs.sum().clamp_min(1)
    kernel = pairs * (-squares / width.detach().clamp_min(_FLAT)).exp()
    cases = there.sum().clamp_min(3)
    rows = kernel.sum(dim=1) / (cases - 2)
    return pairs * (kernel - rows[:, None] - rows + kernel.sum() / ((cases - 1) * (cases - 2)))


@REDUNDANCIES.register(
    "hsic",
    ranges={"weight": WEIGHT},
    source="Gretton et al., 2005; Song et al., 2012 (unbiased); Kornblith et al., 2019 (normalised: CKA)",
)
def hsic(dims: Mapping[str, int], *, weight: float = 0.1) -> Hsic:
    """Normalised HSIC (CKA) of Gaussian kernels: any dependence between two branches, linear or not."""
    return Hsic("hsic", dims, weight)
