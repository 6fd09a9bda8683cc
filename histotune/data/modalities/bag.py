"""Bags: what a case consists of, such as the patches of a slide, as feature vectors with their places."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.files import open_array
from histotune.core.parameters import Interval
from histotune.data.modalities._base import MODALITIES, Bag, Modality, Preprocessing, refuse_options
from histotune.errors import DataError

if TYPE_CHECKING:
    import torch
from typing import TYPE_CHECKING

from histotune.data.modalities._base import to_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_CHUNK = 4096  # instances in memory at once when statistics are gathered
_FLAT = 1e-6  # a standard deviation of this share of the mean is what is left of a constant in float32
_OPTIONS = {"instances": Interval(0, whole=True)}
ARRAYS = ("features", "coordinates", "neighbours")  # memory-mapped; the offsets are small
_RESIDENT = 0.25  # share of a GPU's free memory that the bags may fill


@dataclass(frozen=True, eq=False)
class Bags:
    """The instances of N cases, one case after the other; each case's instances count from 0.

    Attributes:
        features: float32 [total, D].
        coordinates: float32 [total, 2], x and y, pixels in the slide at its highest resolution.
        offsets: int64 [N + 1]; case i has the instances from offsets[i] up to offsets[i + 1], none where they are
            equal, as in a case without this modality.
        neighbours: int32 [total, K], an instance's neighbours by their number in their case, -1 for none; K is 0 in
            bags that are no graphs.
        most: instances of a case that a batch holds at most, evenly spaced over the case; 0 is all.
    """

    features: np.ndarray
    coordinates: np.ndarray
    offsets: np.ndarray
    neighbours: np.ndarray
    most: int = 0

    def __len__(self) -> int:
        """Return N."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """How many instances every case has, int64 [N]."""
        return np.diff(self.offsets)

    def case(self, row: int) -> slice:
        """Return where the instances of a case lie."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))


def join(features: Sequence[np.ndarray], coordinates: Sequence[np.ndarray]) -> Bags:
    """Make bags of the features [n, D] and coordinates [n, 2] of every case, in memory; no neighbours."""
    offsets = np.concatenate([[0], np.cumsum([len(case) for case in features])]).astype(np.int64)
    places = np.concatenate(coordinates).astype(np.float32).reshape(-1, 2)
    joined = np.concatenate(features).astype(np.float32)
    return Bags(joined, places, offsets, np.zeros((len(joined), 0), np.int32))


@dataclass(frozen=True, eq=False)
class BagPreprocessing(Preprocessing):
    """Z-scores of the features, fitted on the instances of the training cases, where every case counts alike.

    A slide of ten thousand patches therefore weighs no more than one of fifty, as in the loss.

    Attributes:
        kind: `bag` or `graph`.
        mean, std: float32 [D].
        instances: as `Bags.most`.
    """

    kind: str  # type: ignore[misc]
    mean: np.ndarray
    std: np.ndarray
    instances: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,)."""
        return self.mean.shape

    def standardise(self, raw: Bag) -> Bag:
        """Map features to z-scores, and those of the padding to zeros."""
        import torch

        assert not 0 < self.instances < raw.there.shape[1], "a source is made of what `check` returns"
        mean, std = (torch.as_tensor(values, device=raw.features.device) for values in (self.mean, self.std))
        scored = (raw.features - mean) / std
        return raw._replace(features=torch.where(raw.there[:, :, None], scored, 0.0))

    def blank(self, cases: int, device: torch.device) -> Bag:
        """Return bags with nothing but padding."""
        import torch

        return Bag(
            torch.zeros(cases, 1, *self.shape, device=device),
            torch.zeros(cases, 1, 2, device=device),
            torch.zeros(cases, 1, dtype=torch.bool, device=device),
            torch.zeros(cases, 1, 0, dtype=torch.int64, device=device),
        )

    def check(self, stored: Bags) -> Bags:
        """Return the bags, with at most `instances` of every case, if their features are as many."""
        width = stored.features.shape[1]
        if (width,) != self.shape:
            raise DataError(
                f"the model reads {self.shape[0]} features of an instance, got {width}: embed with the same backbone"
            )
        return replace(stored, most=self.instances)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, arrays as lists."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "instances": self.instances}


class BagModality(Modality):
    """`Bags` without neighbours, or, as the kind `graph`, with them."""

    name = "bag"

    def cases(self, stored: Bags) -> int:
        """Return N."""
        return len(stored)

    def select(self, stored: Bags, rows: np.ndarray) -> Bags:
        """Return the bags of `rows`, in memory."""
        places = np.concatenate([np.arange(0), *(np.r_[stored.case(row)] for row in rows)]).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(stored.counts[rows])]).astype(np.int64)
        features, coordinates, neighbours = (np.asarray(getattr(stored, name)[places]) for name in ARRAYS)
        return Bags(features, coordinates, offsets, neighbours, stored.most)

    def digests(self, stored: Bags) -> list[str]:
        """Return 16 hexadecimal digits over features, places and edges of every case."""
        return [_digest(*(getattr(stored, name)[stored.case(row)] for name in ARRAYS)) for row in range(len(stored))]

    def save(self, stored: Bags, folder: Path) -> None:
        """Write one array each.

        Raises:
            DataError: a feature is NaN or infinite.
        """
        for start in range(0, len(stored.features), _CHUNK):
            wrong = np.argwhere(~np.isfinite(stored.features[start : start + _CHUNK]))
            if len(wrong):
                case = int(np.searchsorted(stored.offsets, start + wrong[0, 0], side="right")) - 1
                raise DataError(f"feature {wrong[0, 1]} of an instance of case number {case} is NaN or infinite")
        for name in (*ARRAYS, "offsets"):
            np.save(folder / f"{name}.npy", getattr(stored, name), allow_pickle=False)

    def load(self, folder: Path) -> Bags:
        """Map the arrays into memory.

        Raises:
            StudyError, ValueError: it is missing or damaged.
        """
        paths = (folder / f"{name}.npy" for name in (*ARRAYS, "offsets"))
        features, coordinates, neighbours, offsets = map(open_array, paths)
        if not len(features) == len(coordinates) == len(neighbours) == offsets[-1]:
            raise ValueError(f"{folder}: features, coordinates, neighbours and offsets do not fit each other")
        return Bags(features, coordinates, np.array(offsets), neighbours)

    def fit(self, stored: Bags, rows: np.ndarray, labels: np.ndarray, options: Mapping[str, Any]) -> BagPreprocessing:
        """Measure mean and standard deviation of every feature.

        Args:
            options: `instances`: of a case with more than so many, as many evenly spaced ones are read; 0 reads all.
                A graph then keeps the edges between these.
        """
        self.check_options(options)
        filled = [int(row) for row in rows if stored.counts[row]]
        if not filled:
            raise DataError(f"none of {len(rows)} training cases has an instance: there is nothing to standardise by")
        mean = np.mean([_case_mean(stored, row, 0.0, 1) for row in filled], axis=0)
        std = np.sqrt(np.mean([_case_mean(stored, row, mean, 2) for row in filled], axis=0))
        std = np.where(std <= _FLAT * np.abs(mean), 1.0, std)
        return BagPreprocessing(self.name, mean.astype(np.float32), std.astype(np.float32), **options)

    def restore(self, saved: Mapping[str, Any]) -> BagPreprocessing:
        """Take what `to_dict` gave."""
        mean, std = (np.array(saved[name], np.float32) for name in ("mean", "std"))
        return BagPreprocessing(self.name, mean, std, saved["instances"])

    def source(self, stored: Bags, device: torch.device) -> BagSource:
        """Return what takes batches."""
        return BagSource(stored, device)

    def summary(self, stored: Bags, rows: np.ndarray) -> np.ndarray:
        """Return the mean of every feature and the logarithm of the count, float64 [n, D + 1]; NaN of an empty bag."""
        text = np.full((len(rows), stored.features.shape[1] + 1), np.nan)
        for at, row in enumerate(rows):
            if stored.counts[row]:
                text[at, :-1] = _case_mean(stored, row, 0.0, 1)
                text[at, -1] = np.log(stored.counts[row])
        return text

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check `instances`."""
        refuse_options(self.name, options, _OPTIONS)


@MODALITIES.register("bag")
def bag() -> BagModality:
    """The instances of a case, such as a slide's patches: features float32 [P, D] with their places [P, 2]."""
    return BagModality()


def _case_mean(stored: Bags, row: int, centre: np.ndarray | float, power: int) -> np.ndarray:
    """Return the mean of (feature - centre) ** power over a case's instances, float64 [D]."""
    features, total = stored.features[stored.case(row)], np.zeros(stored.features.shape[1])
    for start in range(0, len(features), _CHUNK):
        total += ((features[start : start + _CHUNK].astype(np.float64) - centre) ** power).sum(axis=0)
    return total / len(features)


def _digest(features: np.ndarray, coordinates: np.ndarray, neighbours: np.ndarray) -> str:
    edges = neighbours >= 0  # how wide the padding is depends on the other cases
    hashed = hashlib.blake2b(digest_size=8)
    for array in (features, coordinates, edges.sum(axis=1), neighbours[edges]):
        hashed.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


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
