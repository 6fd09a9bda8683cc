"""Images: one uint8 array [N, S, S, 3], standardised by the channels of the training part, or by given numbers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np

from histotune.core.files import open_array
from histotune.core.parameters import MEAN, STD
from histotune.data.modalities._base import MODALITIES, Modality, Preprocessing, refuse_options, to_device
from histotune.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FILE = "images.npy"
THUMBNAIL = 8  # side of the grid whose mean colours stand for an image in a linear baseline
_CHUNK = 4096  # images per step when statistics are gathered
_RESIDENT = 0.25  # share of a GPU's free memory that a cohort may fill
_HELD: WeakValueDictionary[tuple[int, str], Tensor] = WeakValueDictionary()  # folds of a trial share what is on a GPU


@dataclass(frozen=True)
class ImagePreprocessing(Preprocessing):
    """What turns uint8 images into a network's input, fitted on the training part only.

    Attributes:
        mean, std: per channel, of pixel values in [0, 1].
        image_size: side of an image, pixels.
    """

    kind: ClassVar[str] = "image"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int

    @classmethod
    def fit(cls, images: np.ndarray, rows: np.ndarray) -> ImagePreprocessing:
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

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, S, S)."""
        return (3, self.image_size, self.image_size)

    def standardise(self, raw: Tensor) -> Tensor:
        """Map uint8, or float in [0, 1], [B, S, S, 3] to standardised float [B, 3, S, S] in channels-last memory."""
        import torch

        pixels = raw.shape[1] * raw.shape[2]
        unit = 255.0 if raw.dtype == torch.uint8 else 1.0
        std = torch.tensor(self.std, device=raw.device)
        scale = (1 / (unit * std)).repeat(pixels)  # one long row: a broadcast over 3 channels runs 5 times slower
        shift = (torch.tensor(self.mean, device=raw.device) / std).repeat(pixels)
        flat = raw.reshape(raw.shape[0], -1).float() * scale - shift
        return flat.reshape(raw.shape).permute(0, 3, 1, 2)

    def check(self, stored: np.ndarray) -> np.ndarray:
        """Return the images if they are uint8 [n, S, S, 3] of the size that was trained on."""
        side = self.image_size
        if stored.dtype != np.uint8 or stored.shape[1:] != (side, side, 3):
            raise DataError(
                f"the model reads uint8 images [n, {side}, {side}, 3], got {stored.dtype} {list(stored.shape)}: "
                f"prepare them at image_size {side}"
            )
        return stored

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return dataclasses.asdict(self)


class ImageSource:
    """One uint8 array [N, S, S, 3]: whole on the GPU when it fits, else memory-mapped and copied by batches."""

    def __init__(self, array: np.ndarray, device: torch.device) -> None:
        import torch

        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.shape[1] != array.shape[2]:
            raise DataError(f"images must be uint8 [N, S, S, 3], got {array.dtype} {list(array.shape)}")
        self.array = np.asarray(array)
        self.device = device
        self._stored = array  # its id names it for as long as it lives
        self.resident: Tensor | None = _HELD.get((id(array), str(device)))
        if self.resident is not None or device.type != "cuda":
            return
        if array.nbytes <= _RESIDENT * torch.cuda.mem_get_info(device)[0]:
            self.resident = _HELD[id(array), str(device)] = _upload(self.array, device)

    def take(self, rows: np.ndarray) -> Tensor:
        """Return the images of `rows`, uint8 [B, S, S, 3], on the device."""
        import torch

        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device)]
        batch = to_device(torch.from_numpy(self.array[rows]), self.device)
        assert isinstance(batch, torch.Tensor)
        return batch


class ImageModality(Modality):
    """uint8 [N, S, S, 3], one image per case."""

    name = "image"

    def cases(self, stored: np.ndarray) -> int:
        """Return N."""
        return len(stored)

    def select(self, stored: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the images of `rows`, in memory."""
        return np.asarray(stored[rows])

    def digests(self, stored: np.ndarray) -> list[str]:
        """Return 16 hexadecimal digits over the pixels of every image."""
        return [hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest() for image in stored]

    def save(self, stored: np.ndarray, folder: Path) -> None:
        """Write one array."""
        np.save(folder / FILE, stored, allow_pickle=False)

    def load(self, folder: Path) -> np.ndarray:
        """Map the array into memory."""
        return open_array(folder / FILE)

    def fit(
        self, stored: np.ndarray, rows: np.ndarray, labels: np.ndarray, options: Mapping[str, Any]
    ) -> ImagePreprocessing:
        """Measure mean and standard deviation of the channels, where the options `mean` and `std` do not give them."""
        self.check_options(options)
        given = {name: tuple(map(float, values)) for name, values in options.items()}
        if given.keys() >= {"mean", "std"}:
            return ImagePreprocessing(image_size=int(stored.shape[1]), **given)  # type: ignore[arg-type]
        return dataclasses.replace(ImagePreprocessing.fit(stored, rows), **given)  # type: ignore[arg-type]

    def restore(self, saved: Mapping[str, Any]) -> ImagePreprocessing:
        """Take what `to_dict` gave."""
        return ImagePreprocessing(tuple(saved["mean"]), tuple(saved["std"]), saved["image_size"])

    def source(self, stored: np.ndarray, device: torch.device) -> ImageSource:
        """Return what takes batches."""
        return ImageSource(stored, device)

    def summary(self, stored: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return mean colours on a grid of at most 8 x 8 fields, float32 [n, F]."""
        side = stored.shape[1]
        edges = np.linspace(0, side, min(THUMBNAIL, side) + 1).astype(int)[:-1]
        cells = np.diff(np.append(edges, side))
        sums = np.add.reduceat(np.add.reduceat(stored[rows].astype(np.float32), edges, axis=1), edges, axis=2)
        means: np.ndarray = (sums / (cells[:, None] * cells)[None, :, :, None]).reshape(len(rows), -1)
        return means

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check `mean` and `std`, of pixels in [0, 1]: those that the weights of a network were trained with."""
        refuse_options(self.name, options, {"mean": MEAN, "std": STD})


@MODALITIES.register("image")
def image() -> ImageModality:
    """One RGB image per case, uint8 [N, S, S, 3]."""
    return ImageModality()


def _upload(array: np.ndarray, device: torch.device) -> Tensor:
    import torch

    held = torch.empty(array.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(array), _CHUNK):
        part = np.array(array[start : start + _CHUNK])  # a copy: torch refuses to share a read-only map
        held[start : start + len(part)] = torch.from_numpy(part).to(device)
    return held
