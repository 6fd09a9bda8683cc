"""Decode a listing in several processes, in order, with a bounded number of images in memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np

from histotune.errors import DataError
from histotune.ingest.datasets._base import BadFile, Dataset, FileFormat, Listing
from histotune.ingest.images import fit

SMALLEST_SIDE = 8  # px; less than this shows nothing
_FEW = 512  # cases below which starting processes (0.5 s each) costs more than it brings


@dataclass
class Decoded:
    """What became of a run of cases.

    Attributes:
        pixels: uint8 [readable, side, side, 3].
        contents: digest of every case's pixels before they are resized, "" where it could not be read.
        sizes: (width, height) as read, (0, 0) where it could not be read.
        converted: as in `Picture`.
        saved: as in `Picture`.
        notes: {position: (kind, reason, kept)} of cases to be listed.
    """

    pixels: np.ndarray
    contents: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    saved: list[FileFormat] = field(default_factory=list)
    notes: dict[int, tuple[str, str, bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class DecodeJob:
    """What is the same for all cases of a preparation; it travels to every process."""

    dataset: Dataset
    root: Path | None
    side: int
    resize: str


def decode(job: DecodeJob, listing: Listing, workers: int | None) -> Iterator[Decoded]:
    """Decode all cases in order, a chunk at a time.

    Args:
        job: what to do.
        listing: the cases.
        workers: number of processes; None takes one per core that this process may use, 1 starts none.

    Raises:
        DataError: a process was killed.
    """
    table = listing.table
    length = int(np.clip(2**23 // (job.side**2 * 3), 16, 256))  # at most 8 MiB of pixels, if 16 images allow
    chunks = (table.iloc[at : at + length].to_dict("records") for at in range(0, len(table), length))
    processes = min(workers or len(os.sched_getaffinity(0)), len(table) // length + 1)
    if processes == 1 or len(table) < _FEW or not _importable(type(job.dataset)):
        yield from (decode_chunk(job, chunk) for chunk in chunks)
        return
    yield from _in_processes(job, chunks, processes)


def decode_chunk(job: DecodeJob, cases: Sequence[Mapping[Any, Any]]) -> Decoded:
    """Decode some cases in this process; a file that cannot be read becomes a note."""
    done = Decoded(np.empty((len(cases), job.side, job.side, 3), np.uint8))
    readable = 0
    for position, case in enumerate(cases):
        try:
            picture = job.dataset.read(case, job.root)
            height, width = picture.pixels.shape[:2]
            if min(height, width) < SMALLEST_SIDE:
                raise BadFile("too_small", f"{width}x{height} px; at least {SMALLEST_SIDE}x{SMALLEST_SIDE} are needed")
        except BadFile as error:
            done.notes[position] = (error.kind, error.reason, False)
            done.contents.append("")
            done.sizes.append((0, 0))
            done.converted.append("")
            done.saved.append(FileFormat())
            continue
        if picture.note:
            done.notes[position] = (*picture.note, True)
        done.pixels[readable] = fit(picture.pixels, job.side, job.resize)
        done.contents.append(content_digest(picture.pixels))
        done.sizes.append((width, height))
        done.converted.append(picture.converted)
        done.saved.append(picture.saved)
        readable += 1
    done.pixels = done.pixels[:readable]
    return done


def content_digest(pixels: np.ndarray) -> str:
    """Digest of pixels and shape; the same on every machine."""
    shape = repr(pixels.shape).encode()
    return blake2b(shape + np.ascontiguousarray(pixels).tobytes(), digest_size=8).hexdigest()


def _in_processes(job: DecodeJob, chunks: Iterator[list[dict[Any, Any]]], processes: int) -> Iterator[Decoded]:
    # Processes are spawned, not forked: the parent may hold threads and locks of torch, Ray or a progress bar.
    context = multiprocessing.get_context("spawn")
    waiting: deque[Future[Decoded]] = deque()
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_live_and_die_with_the_parent)
    submit: Callable[..., Future[Decoded]] = pool.submit
    try:
        for chunk in chunks:
            with _main_module_hidden():
                waiting.append(submit(decode_chunk, job, chunk))
            if len(waiting) > 2 * processes:  # so that what waits to be written stays small
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            f"one of {processes} decoding processes was killed, most likely because memory ran out; "
            "try again with fewer processes"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _live_and_die_with_the_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone: a killed parent cannot end its processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep spawned processes from running the user's script again: no `if __name__ == ...` is needed there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _importable(reader: type) -> bool:
    """Whether a new process can import the reader's class: not when it lives in a script or a plugin file."""
    return PathFinder.find_spec(reader.__module__.partition(".")[0]) is not None
