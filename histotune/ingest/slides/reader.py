"""Whole-slide files: their size, their scale, and any rectangle of them at any scale, read tile by tile.

OpenSlide reads what scanners write and tiled TIFF; a PNG, a JPEG or a TIFF without tiles is decoded whole.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from histotune.errors import ConfigError
from histotune.ingest.datasets import BadFile
from histotune.ingest.images import SUFFIXES as PICTURES
from histotune.ingest.images import read_image

SUFFIXES = PICTURES | {".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide", ".bif", ".czi"}
OVERVIEW = 2048  # longer side of an overview, pixels
_WHOLE = PICTURES - {".tif", ".tiff"}  # never tiled
_TILE = 2048  # side of what is decoded at once, pixels
_CENTIMETRE = 10_000  # µm
_SAME = 0.02  # by which two scales may differ and be the same
_USUAL = (6.0, 16.0)  # µm per pixel times objective: .25 at 40x and .5 at 20x make 10
_BELIEVED = (0.05, 20.0)  # µm per pixel that a microscope makes


class _Reader(Protocol):
    """What decodes a file; levels are as OpenSlide has them."""

    @property
    def dimensions(self) -> tuple[int, int]: ...

    @property
    def level_downsamples(self) -> tuple[float, ...]: ...

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image: ...

    def close(self) -> None: ...


class Slide:
    """An open slide; use it in a `with` block.

    Args:
        path: the file.
        mpp: µm per pixel, for a file that does not say it.

    Attributes:
        width, height: pixels at the highest resolution, which all places refer to.
        mpp: µm per pixel there; None where unknown. The file's own counts more than one that is given.
        notes: what contradicts the scale, in words.

    Raises:
        BadFile: there is no such file, it is no slide, it is damaged, or too large to be decoded whole.
        ConfigError: it needs OpenSlide, which is not installed.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self.path = path
        self._reader, message, self._damage = _open(path)
        self.width, self.height = self._reader.dimensions
        self.mpp = message or mpp
        self.notes = [] if message is None else _contradictions(self._reader, message, mpp)

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def overview(self, downsample: int) -> np.ndarray:
        """Return the whole slide, 1 px for `downsample` of each side, uint8 [h, w, 3]; the last may stand for fewer."""
        size = -(-self.width // downsample), -(-self.height // downsample)
        return self.read(0, 0, self.width, self.height, size)

    def read(self, x: float, y: float, width: float, height: float, size: tuple[int, int]) -> np.ndarray:
        """Return a rectangle, resampled; however large it is, no more than a tile of it is decoded at once.

        Args:
            x, y, width, height: pixels at the highest resolution.
            size: (width, height) in pixels of what is returned, uint8 [h, w, 3].

        Raises:
            BadFile: it cannot be decoded.
        """
        across, down = width / size[0], height / size[1]
        level = self._level(min(across, down))
        scale = self._reader.level_downsamples[level]
        step = max(1, int(_TILE * scale / max(across, down)))
        whole = np.empty((size[1], size[0], 3), np.uint8)
        for top in range(0, size[1], step):
            for left in range(0, size[0], step):
                part = whole[top : top + step, left : left + step]
                corner = round(x + left * across), round(y + top * down)
                extent = (
                    max(1, round(part.shape[1] * across / scale)),
                    max(1, round(part.shape[0] * down / scale)),
                )
                part[:] = _resized(self._decode(corner, level, extent), (part.shape[1], part.shape[0]))
        return whole

    def _level(self, downsample: float) -> int:
        """Return the coarsest level that has all pixels of this downsampling; 1 % is what rounded sizes make."""
        fine = [at for at, scale in enumerate(self._reader.level_downsamples) if scale <= 1.01 * downsample]
        return max(fine, default=0, key=lambda at: self._reader.level_downsamples[at])

    def _decode(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        try:
            region = self._reader.read_region(corner, level, size)
        except self._damage as error:
            raise BadFile("broken", f"{self.path.name} cannot be decoded at {corner}: {error}") from error
        if region.mode == "RGB" or region.getchannel("A").getextrema() == (255, 255):
            return region.convert("RGB")
        white = Image.new("RGBA", region.size, (255, 255, 255, 255))  # what was not scanned is transparent
        return Image.alpha_composite(white, region).convert("RGB")


class _Whole:
    """A decoded picture that answers like a slide of one level."""

    level_downsamples = (1.0,)

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.dimensions = (pixels.shape[1], pixels.shape[0])

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        part = np.full((size[1], size[0], 3), 255, np.uint8)
        x, y = location
        result = self.pixels[y : y + size[1], x : x + size[0]]
        part[: result.shape[0], : result.shape[1]] = result
        return Image.fromarray(part)

    def close(self) -> None:
        pass


def _open(path: Path) -> tuple[_Reader, float | None, tuple[type[Exception], ...]]:
    """Return what reads a file, the µm per pixel that it tells, and what is raised where it is damaged."""
    if not path.is_file():
        raise BadFile("missing", f"there is no file {path}")
    if path.suffix.lower() not in _WHOLE:
        try:
            import openslide
        except ImportError as error:
            raise ConfigError(f"{path.name} needs OpenSlide: pip install 'histotune[slides]' ({error})") from error
        try:
            if openslide.OpenSlide.detect_format(path):
                slide = openslide.OpenSlide(path)
                return slide, _scale(slide.properties), (openslide.OpenSlideError,)
        except openslide.OpenSlideError as error:
            raise BadFile("broken", f"{path.name} is damaged: {error}") from error
    return _Whole(_decoded(path)), None, ()


def _decoded(path: Path) -> np.ndarray:
    try:
        return read_image(path).pixels
    except BadFile as error:
        if error.kind == "not_an_image":
            reason = f"{path.name} is neither a slide that OpenSlide reads nor an image: {error.reason}"
            raise BadFile("not_a_slide", reason) from error
        if error.kind == "unsupported":
            reason = f"{path.name} has no tiles and cannot be decoded whole ({error.reason}): save it as a tiled TIFF"
            raise BadFile("unsupported", reason) from error
        raise


def _scale(properties: Any) -> float | None:
    """Return the mean of µm per pixel across and down; a TIFF's resolution counts where it is given by centimetre.

    The usual 72 or 96 dots per inch say how large a picture is to be printed.
    """
    sides = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    if not all(sides) and properties.get("tiff.ResolutionUnit") == "centimeter":
        dots = [float(properties.get(f"tiff.{axis}Resolution") or 0) for axis in "XY"]
        sides = [_CENTIMETRE / dot if dot else None for dot in dots]
    if not all(sides):
        return None
    mean = sum(float(side) for side in sides if side) / 2
    return mean if _BELIEVED[0] <= mean <= _BELIEVED[1] else None


def _contradictions(reader: _Reader, own: float, given: float | None) -> list[str]:
    """Say what contradicts the µm per pixel that a file tells: the user, its other side, its objective."""
    notes = []
    if given is not None and abs(given / own - 1) > _SAME:
        notes.append(f"the file says {own:.4g} µm per pixel, not {given:g} (--slide-mpp): the file's scale is taken")
    properties = getattr(reader, "properties", {})
    sides = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    if all(sides) and abs(sides[0] / sides[1] - 1) > _SAME:
        notes.append(f"its pixels are not square: {sides[0]:.4g} x {sides[1]:.4g} µm; the mean is taken")
    power = _number(properties.get("openslide.objective-power"))
    if power and not _USUAL[0] <= own * power <= _USUAL[1]:
        notes.append(f"{own:.4g} µm per pixel contradicts its objective of {power:g}x (usual: {10 / power:.3g})")
    return notes


def _number(value: Any) -> float:
    try:
        return float(value or 0)
    except ValueError:
        return 0.0


def _resized(region: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resample by mean where it shrinks (as `datasets.fit`), in between where it grows."""
    if region.size == size:
        return np.asarray(region)
    shrinks = size[0] <= region.width and size[1] <= region.height
    return np.asarray(region.resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR))
