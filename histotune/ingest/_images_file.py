"""A .npy file of images that grows by appending, so that memory does not, and that may lose rows at the end."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import numpy as np

_ROWS = 1024  # moved at a time when rows are left out


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
