"""Row numbers become batches on the device: no per-item Python, no worker processes, uint8 until the last moment."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from histotune import files
from histotune.errors import DataError

_CHUNK = 4096  # images per step when statistics are gathered
_RESIDENT = 0.25  # share of a GPU's free memory that a cohort may fill


@dataclass(frozen=True)
class Preprocessing:
    """What turns uint8 images into a network's input, fitted on the training part only.

    Attributes:
        mean, std: per channel, of pixel values in [0, 1].
        image_size: side of an image, pixels.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int

    @classmethod
    def fit(cls, images: np.ndarray, rows: np.ndarray) -> Preprocessing:
        """Measure the channels of uint8 images [N, S, S, 3] over `rows`, exactly (in integers)."""
        total, squares, pixels = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
        for start in range(0, len(rows), _CHUNK):
            values = images[rows[start : start + _CHUNK]].reshape(-1, 3)
            counts = np.stack([np.bincount(values[:, channel], minlength=256) for channel in range(3)])  # [3, 256]
            total += counts @ np.arange(256)
            squares += counts @ np.arange(256) ** 2
            pixels += len(values)
        mean = total / pixels
        std = np.sqrt(
            np.maximum(squares / pixels - mean**2, 1.0)
        )  # at least one grey level: a flat channel is no error
        red, green, blue = ((float(m) / 255, float(s) / 255) for m, s in zip(mean, std, strict=True))
        return cls((red[0], green[0], blue[0]), (red[1], green[1], blue[1]), int(images.shape[1]))

    def standardise(self, images: Tensor) -> Tensor:
        """Map uint8, or float in [0, 1], [B, S, S, 3] to standardised float [B, 3, S, S] in channels-last memory."""
        pixels = images.shape[1] * images.shape[2]
        unit = 255.0 if images.dtype == torch.uint8 else 1.0
        std = torch.tensor(self.std, device=images.device)
        scale = (1 / (unit * std)).repeat(pixels)  # one long row: a broadcast over 3 channels runs 5 times slower
        shift = (torch.tensor(self.mean, device=images.device) / std).repeat(pixels)
        flat = images.reshape(images.shape[0], -1).float() * scale - shift
        return flat.reshape(images.shape).permute(0, 3, 1, 2)

    def save(self, path: Path) -> None:
        """Write JSON to `path`."""
        files.write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Preprocessing:
        """Read what `save` wrote."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(saved["mean"]), tuple(saved["std"]), saved["image_size"])


class Images:
    """One uint8 array [N, S, S, 3]: whole on the GPU when it fits, else memory-mapped and copied by batches."""

    def __init__(self, array: np.ndarray, device: torch.device) -> None:
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.shape[1] != array.shape[2]:
            raise DataError(f"images must be uint8 [N, S, S, 3], got {array.dtype} {list(array.shape)}")
        self.array = np.asarray(array)
        self.device = device
        self.resident: Tensor | None = None
        if device.type == "cuda" and array.nbytes <= _RESIDENT * torch.cuda.mem_get_info(device)[0]:
            self.resident = _upload(self.array, device)

    def take(self, rows: np.ndarray) -> Tensor:
        """Return the images of `rows`, uint8 [B, S, S, 3], on the device."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device)]
        batch = torch.from_numpy(self.array[rows])
        if self.device.type == "cpu":
            return batch
        return batch.pin_memory().to(self.device, non_blocking=True)


def shuffled(rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Cut a random order of `rows` into batches of `batch_size` or one less, so that every case is seen once.

    Sizes differ by at most one and no batch has a single case where that can be helped: batch norm needs two.
    """
    return np.array_split(rng.permutation(rows), steps(len(rows), batch_size))


def steps(cases: int, batch_size: int) -> int:
    """Return how many batches `shuffled` makes."""
    return max(1, min(-(-cases // batch_size), cases // 2))


def in_order(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Cut `rows` into batches as they stand."""
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def _upload(array: np.ndarray, device: torch.device) -> Tensor:
    held = torch.empty(array.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(array), _CHUNK):
        part = np.array(array[start : start + _CHUNK])  # a copy: torch refuses to share a read-only map
        held[start : start + len(part)] = torch.from_numpy(part).to(device)
    return held
