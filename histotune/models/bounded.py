"""A bound that a learned number can come back from: smooth, and the number itself but near the ends."""

from __future__ import annotations

import torch
from torch import Tensor


def bounded(values: Tensor, low: float, high: float, margin: float) -> Tensor:
    """Map real numbers into (low, high): as they are but within `margin` of an end, which they only approach.

    A number that is u margins below low + margin becomes low + margin / (1 + u), and the same from above. The slope is
    continuous, and 1 / (1 + u)^2 falls so slowly that descent, which may have pushed a number far beyond an end, can
    bring it back; `clamp` has none there.
    """
    floor, ceiling = low + margin, high - margin
    below = (floor - values.clamp(max=floor)) / margin
    above = (values.clamp(min=ceiling) - ceiling) / margin
    return values.clamp(floor, ceiling) + margin * (above / (1 + above) - below / (1 + below))


def unbounded(values: Tensor, low: float, high: float, margin: float, *, least: float) -> Tensor:
    """Return what `bounded` maps to these numbers; one nearer to an end than `least` is taken to be that near."""
    inside = values.clamp(low + least, high - least)
    below = low + margin - margin * (margin / (inside - low) - 1).clamp(min=0.0)
    above = high - margin + margin * (margin / (high - inside) - 1).clamp(min=0.0)
    return torch.where(inside < low + margin, below, torch.where(inside > high - margin, above, inside))
