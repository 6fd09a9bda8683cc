"""One image file -> RGB pixels of 8 bits: converted where that is faithful, refused with a reason where it is not."""

from __future__ import annotations

import math
import os
import re
import struct
import warnings
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image, UnidentifiedImageError

from histotune.ingest.datasets._base import BadFile, FileFormat, Picture

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
RESIZES = ("area", "pad")
WHITE = 255

# Readers that run no outside program (EPS starts Ghostscript) and that pathology uses.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
# What Pillow raises on damaged files besides OSError: its parsers trust lengths, offsets and tables in the file.
_DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError)
_SEVERAL = ("TIFF", "GIF", "WEBP", "PNG")  # formats of files that may hold several images
_SUBFILE, _BITS, _PHOTOMETRIC, _PLANAR = 254, 258, 262, 284  # tags of TIFF 6.0
_DESCRIPTION, _ORIENTATION = 270, 274
_STACK = re.compile(
    r"ImageJ=[^\n]*\n(?:.*\n)*?images=(\d+)"
)  # what ImageJ says of a stack; it may be one page to others
_DIM = 8  # largest value of 16 bits in less than this part of the range: 12 bits are sixteen times dimmer
_REDUCED, _MASK = 1, 4  # bits of the subfile type: a smaller copy of another page, a mask of it
_ROWS = 1024  # moved at a time when rows are left out


_DAMAGE += (AttributeError, ArithmeticError, RuntimeError, MemoryError, struct.error, zlib.error)
_CONVERSIONS = {
    "1": "1 bit",
    "L": "grey",
    "LA": "grey",
    "P": "palette",
    "PA": "palette",
    "RGB": "transparency",
    "RGBA": "transparency",
    "CMYK": "cmyk",
    "YCbCr": "ycbcr",
    "LAB": "lab",
}


def read_image(path: str | os.PathLike[str]) -> Picture:
    """Decode one file into RGB pixels.

    Grey becomes RGB, CMYK becomes RGB, 16 bits are scaled by 255/65535 (12 bits by 255/4095), transparency is laid on
    white, and an orientation that a camera noted is followed. Of a TIFF, smaller copies of the first page and masks are
    no images of their own; of a JPEG of several pictures (MPO), the first is the one that is meant.

    Raises:
        BadFile: it is missing, empty, no image, damaged, of a kind that has no faithful 8-bit form, or holds several
            images, of which nobody knows the one that is meant.
    """
    path = os.fspath(path)
    try:
        if os.stat(path).st_size == 0:  # noqa: PTH116  (a hot path: no Path object)
            raise BadFile("empty", "the file has 0 bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                several = _refuse_several(image)
                orientation = (
                    1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
                )  # Pillow turns TIFFs
                image.load()
                picture = _to_rgb(image, path)
                pixels = _upright(picture.pixels, orientation)
                return picture._replace(pixels=pixels, saved=_saved(image), note=picture.note or several)
    except FileNotFoundError as error:
        raise BadFile("missing", "there is no such file") from error
    except UnidentifiedImageError as error:
        raise BadFile("not_an_image", f"the file begins with {_head(path)!r}, as no known image does") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadFile("unsupported", f"too many pixels for one patch: {error}") from error
    except _DAMAGE as error:
        raise BadFile("broken", f"cannot be decoded: {error}") from error


def fit(pixels: np.ndarray, side: int, resize: str = "area") -> np.ndarray:
    """Bring uint8 [H, W, 3] to [side, side, 3].

    Args:
        pixels: the image.
        side: pixels of the square.
        resize: `area` averages over the area that a new pixel covers (bilinear where the image must grow; the aspect
            ratio is not kept); `pad` first lays the image in the middle of a white square.
    """
    height, width = pixels.shape[:2]
    if resize == "pad" and height != width:
        longer = max(height, width)
        top, left = (longer - height) // 2, (longer - width) // 2
        square = np.full((longer, longer, 3), WHITE, np.uint8)
        square[top : top + height, left : left + width] = pixels
        pixels, height, width = square, longer, longer
    if (height, width) == (side, side):
        return pixels
    shrinks = side <= height and side <= width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((side, side), method))


class ImagesFile:
    """uint8 [rows, side, side, 3] on disk, written in order; `with` syncs and closes it.

    Args:
        path: the file to write.
        most: rows that it will hold at most, which decides how long the header is.
        side: pixels.
    """

    def __init__(self, path: Path, most: int, side: int) -> None:
        self.rows = 0
        self.shape = (side, side, 3)
        self._most = most
        self._file = path.open("w+b")
        self._write_header(most)
        self._start = self._file.tell()

    def __enter__(self) -> ImagesFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make the header true and close."""
        with self._file:
            if kind is None:
                self._file.truncate(self._start + self.rows * int(np.prod(self.shape)))
                self._file.seek(0)
                self._write_header(self.rows)
                assert self._file.tell() == self._start
                self._file.flush()
                os.fsync(self._file.fileno())

    def append(self, images: np.ndarray) -> None:
        """Write images [n, side, side, 3] behind the last one."""
        assert images.shape[1:] == self.shape
        self._file.write(np.ascontiguousarray(images).data)
        self.rows += len(images)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only the rows that are true in `rows` [self.rows], moving them up in place."""
        assert rows.shape == (self.rows,)
        if rows.all():
            return
        self._file.flush()
        size = int(np.prod(self.shape))
        written = 0
        for first in range(0, self.rows, _ROWS):
            count = min(_ROWS, self.rows - first)
            self._file.seek(self._start + first * size)
            block = np.frombuffer(self._file.read(count * size), np.uint8).reshape(count, size)
            kept = block[rows[first : first + count]]
            self._file.seek(self._start + written * size)
            self._file.write(kept.tobytes())
            written += len(kept)
        self.rows = written

    def _write_header(self, rows: int) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, header)  # pads, so that fewer rows need as many bytes


def _refuse_several(image: Image.Image) -> tuple[str, str] | None:
    """Refuse a file of several images, left at its first; returns a note where the format means that one."""
    if image.format == "MPO" and (pictures := getattr(image, "n_frames", 1)) > 1:
        return "several_pages", f"a JPEG of {pictures} pictures: the first is read"
    stack = _STACK.match(str(getattr(image, "tag_v2", {}).get(_DESCRIPTION, "")))
    if stack and int(stack[1]) > 1:
        reason = f"it holds a stack of {stack[1]} images of ImageJ: save the one that is meant as a file of its own"
        raise BadFile("several_pages", reason)
    count = getattr(image, "n_frames", 1) if image.format in _SEVERAL else 1
    if count == 1:
        return None
    others = count - 1
    if image.format == "TIFF":
        for number in range(1, count):
            image.seek(number)
            others -= bool(_tag(image, _SUBFILE, 0) & (_REDUCED | _MASK))
        image.seek(0)
    if others:
        kind = "pages" if image.format == "TIFF" else "frames"
        raise BadFile("several_pages", f"it holds {others + 1} {kind}: save the one that is meant as a file of its own")
    return None


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels [H, W, 3] by the orientation 1 to 8 of Exif 2.3; any other number is no orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels) if orientation in range(2, 9) else pixels


def _tag(image: Image.Image, number: int, default: int) -> int:
    """Return a whole number of a TIFF's header, the first where there are several."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _to_rgb(image: Image.Image, path: str) -> Picture:
    bits = _tag(image, _BITS, 8)
    if bits > 8 and _tag(image, _PLANAR, 1) == 2 and len(image.getbands()) > 1:
        raise BadFile("unsupported", f"{bits} bits with a plane for each colour: save it with interleaved colours")
    if image.mode == "RGB" and not image.has_transparency_data:
        deep = bits > 8 or (image.format == "PNG" and _is_16_bit_png(path))
        return Picture(np.asarray(image), "16 bit" if deep else "")
    if image.mode.startswith("I;16"):
        most = 2**bits - 1 if 8 < bits < 16 else 65535
        values = np.asarray(image)
        dim = values.max(initial=0) < most / _DIM
        note = (
            ("dim", f"its largest value is {values.max(initial=0)} of {most}: fewer bits than it says?")
            if dim
            else None
        )
        grey = np.rint(values.astype(np.float64) * (255 / most)).clip(0, 255).astype(np.uint8)
        if _tag(image, _PHOTOMETRIC, 1) == 0:  # white is 0, which Pillow heeds in 8 bits only
            grey = WHITE - grey
        return Picture(np.repeat(grey[:, :, None], 3, axis=2), "16 bit", note)
    if image.mode not in _CONVERSIONS:
        raise BadFile("unsupported", f"pixels of mode {image.mode!r} have no defined range of 8 bits; save it as RGB")
    converted = _CONVERSIONS[image.mode]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (WHITE, WHITE, WHITE, WHITE))
        image = Image.alpha_composite(white, image)
    return Picture(np.asarray(image.convert("RGB")), converted)


def _saved(image: Image.Image) -> FileFormat:
    tables = getattr(image, "quantization", None) or {}  # {number: 64 steps} of a JPEG
    steps = [step for table in tables.values() for step in table]
    width, height = image.size
    return FileFormat(str(image.format), width, height, sum(steps) / len(steps) if steps else math.nan)


def _is_16_bit_png(path: str) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123  (a hot path: no Path object)
        return file.read(25)[24:] == b"\x10"  # the bit depth in a PNG's header


def _head(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(12)
