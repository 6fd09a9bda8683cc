"""Row numbers of bags -> padded batches on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.data.modalities._base import Bag, to_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from histotune.data.modalities.bag import Bags

ARRAYS = ("features", "coordinates", "neighbours")  # memory-mapped; the offsets are small
_RESIDENT = 0.25  # share of a GPU's free memory that the bags may fill


class BagSource:
    """Batches of bags: whole on the GPU when they fit there, else memory-mapped and copied by batches."""

    def __init__(self, stored: Bags, device: torch.device) -> None:
        import torch

        self.stored, self.device = stored, device
        self.resident: dict[str, Tensor] = {}
        size = sum(getattr(stored, name).nbytes for name in ARRAYS)
        if device.type == "cuda" and size and size <= _RESIDENT * torch.cuda.mem_get_info(device)[0]:
            arrays = {name: np.array(getattr(stored, name)) for name in ARRAYS}
            self.resident = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}

    def take(self, rows: np.ndarray) -> Bag:
        """Return the bags of `rows`, padded with zeros to the longest of them, on the device."""
        import torch

        counts = self.stored.counts[rows]
        kept = np.minimum(counts, self.stored.most) if self.stored.most else counts
        number = np.arange(max(1, kept.max(initial=0)))
        there = number < kept[:, None]
        places = self.stored.offsets[rows][:, None] + number * counts[:, None] // np.maximum(kept, 1)[:, None]
        mask = torch.from_numpy(there).to(self.device)
        features, coordinates, near = (self._gather(name, places, there) for name in ARRAYS)
        sizes = (torch.from_numpy(size)[:, None, None].to(self.device) for size in (counts, kept))
        return Bag(features, coordinates, mask, _renumbered(near.long(), mask, *sizes))

    def _gather(self, name: str, places: np.ndarray, there: np.ndarray) -> Tensor:
        import torch

        if self.resident:
            index, mask = (torch.from_numpy(array).to(self.device) for array in (np.where(there, places, 0), there))
            return self.resident[name][index] * mask[:, :, None]
        array: np.ndarray = getattr(self.stored, name)
        padded = np.zeros((*places.shape, array.shape[1]), array.dtype)
        padded[there] = array[places[there]]
        batch = to_device(torch.from_numpy(padded), self.device)
        assert isinstance(batch, torch.Tensor)
        return batch


def _renumbered(neighbours: Tensor, there: Tensor, counts: Tensor, kept: Tensor) -> Tensor:
    """Number neighbours among the chosen instances, where the j-th chosen one is number j * counts // kept.

    An edge to an instance that was not chosen is gone.
    """
    import torch

    chosen = (neighbours * kept + counts - 1) // counts.clamp(min=1)
    right = (chosen * counts // kept.clamp(min=1) == neighbours) & (neighbours >= 0) & there[:, :, None]
    return torch.where(right, chosen, -1)
