"""Whole-slide files made of a few colours."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Color = tuple[int, int, int]
TILE = 256
GLASS, TISSUE = (244, 243, 245), (190, 90, 160)


def tiled_tiff(path: Path, rows: int, columns: int, colors: Mapping[tuple[int, int], Color]) -> Path:
    """Write a tiled TIFF of 0.5 µm per px whose tiles are glass, or of colours; equal tiles lie there once."""
    kinds = [GLASS, *dict.fromkeys(colors.values())]
    pixels = [np.full((TILE, TILE, 3), kind, np.uint8).tobytes() for kind in kinds]
    size = TILE * TILE * 3
    offsets = [8 + size * kinds.index(colors.get((r, c), GLASS)) for r in range(rows) for c in range(columns)]
    count, extra = rows * columns, 8 + size * len(kinds)
    lists = struct.pack(f"<{count}I", *offsets) + struct.pack(f"<{count}I", *[size] * count)
    more = extra + len(lists)
    values = struct.pack("<3H", 8, 8, 8) + b"\0\0" + struct.pack("<4I", 20_000, 1, 20_000, 1)
    tags = [
        (256, 4, 1, columns * TILE),
        (257, 4, 1, rows * TILE),
        (258, 3, 3, more),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (277, 3, 1, 3),
        (282, 5, 1, more + 8),
        (283, 5, 1, more + 16),
        (284, 3, 1, 1),
        (296, 3, 1, 3),
        (322, 3, 1, TILE),
        (323, 3, 1, TILE),
        (324, 4, count, extra),
        (325, 4, count, extra + 4 * count),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0" * 4
    header = b"II*\0" + struct.pack("<I", more + len(values))
    path.write_bytes(header + b"".join(pixels) + lists + values + directory)
    return path


def block(rows: range, columns: range, color: Color = TISSUE) -> dict[tuple[int, int], Color]:
    """Return the tiles of a rectangle in one colour."""
    return {(row, column): color for row in rows for column in columns}
