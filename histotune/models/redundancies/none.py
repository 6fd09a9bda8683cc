"""No redundancy term."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from histotune.models.redundancies._base import REDUNDANCIES, Redundancy


class NoRedundancy(Redundancy):
    """Zero, for any number of branches."""

    def __init__(self) -> None:
        super(Redundancy, self).__init__()

    def forward(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return 0."""
        return next(iter(embeddings.values())).new_zeros(())


@REDUNDANCIES.register("none")
def none(dims: Mapping[str, int]) -> NoRedundancy:
    """No redundancy term: 0."""
    return NoRedundancy()
