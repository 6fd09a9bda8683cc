"""Uncompressed TIFF files of kinds that Pillow reads and does not write: deep, planar, white as 0, with odd pages."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_tiff(
    path: Path,
    pages: Sequence[np.ndarray],
    *,
    planar: bool = False,
    photometric: int | None = None,
    bits: int | None = None,
    subfiles: Sequence[int] = (),
) -> Path:
    """Write pages [H, W] or [H, W, 3] of uint8 or uint16; `subfiles` are the subfile types of the pages.

    With bits=12, values are packed two in three bytes.
    """
    data, tables = bytearray(), []
    start = 8
    for page in pages:
        height, width = page.shape[:2]
        colours = 1 if page.ndim == 2 else page.shape[2]
        planes = [page[..., at] for at in range(colours)] if planar else [page]
        strips = []
        for plane in planes:
            raw = _packed(plane) if bits == 12 else plane.astype(plane.dtype.newbyteorder("<")).tobytes()
            strips.append((start + len(data), len(raw)))
            data += raw + b"\0" * (len(raw) % 2)
        depth = bits or 8 * page.dtype.itemsize
        colour = photometric if photometric is not None else (1 if colours == 1 else 2)
        tables.append((height, width, colours, strips, depth, colour))
    out = bytearray(struct.pack("<2sHI", b"II", 42, 0)) + data
    link = 4
    for number, (height, width, colours, strips, depth, colour) in enumerate(tables):
        values = {
            254: ("I", [subfiles[number]] if subfiles else [0]),
            256: ("I", [width]),
            257: ("I", [height]),
            258: ("H", [depth] * colours),
            259: ("H", [1]),
            262: ("H", [colour]),
            273: ("I", [offset for offset, _ in strips]),
            277: ("H", [colours]),
            278: ("I", [height]),
            279: ("I", [length for _, length in strips]),
            284: ("H", [2 if planar else 1]),
        }
        rows = []
        for tag, (code, numbers) in values.items():
            raw = struct.pack(f"<{len(numbers)}{code}", *numbers)
            if len(raw) > 4:
                place, raw = len(out), raw + b"\0" * (len(raw) % 2)
                out += raw
                raw = struct.pack("<I", place)
            rows.append(struct.pack("<HHI", tag, {"H": 3, "I": 4}[code], len(numbers)) + raw.ljust(4, b"\0"))
        out[link : link + 4] = struct.pack("<I", len(out))
        out += struct.pack("<H", len(rows)) + b"".join(rows)
        link = len(out)
        out += b"\0\0\0\0"
    path.write_bytes(bytes(out))
    return path


def _packed(plane: np.ndarray) -> bytes:
    first, second = plane.astype(np.uint16).reshape(-1, 2).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
