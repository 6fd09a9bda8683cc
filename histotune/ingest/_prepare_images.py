"""The images of a dataset -> one array on disk: bad files and copies are left out, odd ones are listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histotune.data.modalities.image import FILE
from histotune.errors import DataError
from histotune.ingest._images_file import ImagesFile
from histotune.ingest.datasets import Listing, Problem
from histotune.ingest.datasets._base import Saved
from histotune.ingest.decode import Job, decode

Progress = Callable[[int, int], None]
"""Hears (cases decoded, cases in all)."""

_USUAL = 0.9  # share of the images from which on their size counts as the usual one


@dataclass(frozen=True)
class Found:
    """table: the listing's with `content`, `size`, `converted`, `keep`, `Saved`; problems: what came to light."""

    table: pd.DataFrame
    problems: list[Problem]


def write_images(folder: Path, job: Job, listing: Listing, workers: int | None, progress: Progress) -> Found:
    """Decode every image; those that cannot be read and copies of others are left out of the array."""
    folder.mkdir(parents=True)
    with ImagesFile(folder / FILE, len(listing.table), job.side) as images:
        found = _decode_into(images, job, listing, workers, progress)
        found = _leave_out_copies(found)
        images.keep(found.table.loc[found.table["content"] != "", "keep"].to_numpy(bool))
    problems = [*listing.problems, *found.problems]
    table = found.table[found.table["keep"]]
    if table.empty:
        raise DataError(f"none of {len(listing.table)} files in {job.root} can be read; the first: {problems[0]}")
    problems += _unusual_sizes(table, {problem.path for problem in problems})
    return Found(found.table, problems)


def _decode_into(images: ImagesFile, job: Job, listing: Listing, workers: int | None, progress: Progress) -> Found:
    table = listing.table
    paths = table["path"] if "path" in table else table["id"]
    contents: list[str] = []
    sizes: list[tuple[int, int]] = []
    converted: list[str] = []
    saved: list[Saved] = []
    problems: list[Problem] = []
    progress(0, len(table))
    for done in decode(job, listing, workers):
        images.append(done.pixels)
        problems += [Problem(paths[len(contents) + at], *note) for at, note in done.notes.items()]
        contents += done.contents
        sizes += done.sizes
        converted += done.converted
        saved += done.saved
        progress(len(contents), len(table))
    columns = {"content": contents, "size": [f"{w}x{h}" for w, h in sizes], "converted": converted}
    table = table.join(pd.DataFrame(saved, columns=Saved._fields, index=table.index))
    return Found(table.assign(**columns, keep=[content != "" for content in contents]), problems)


def _leave_out_copies(found: Found) -> Found:
    """Leave out all but the first of identical images, and all of them when their labels differ."""
    table = found.table
    readable = table[table["keep"]]
    copies = readable[readable["content"].duplicated(keep=False)]
    keep = table["keep"].copy()
    problems = list(found.problems)
    for _, group in copies.groupby("content", sort=False):
        names = list(group["path"] if "path" in group else group["id"])
        if group["label"].nunique() > 1:
            keep[group.index] = False
            reason = f"the same pixels have different labels: {', '.join(names[:4])}"
            problems += [Problem(name, "contradiction", reason) for name in names]
        else:
            keep[group.index[1:]] = False
            problems += [Problem(name, "duplicate", f"the same pixels as {names[0]}") for name in names[1:]]
    return Found(table.assign(keep=keep), problems)


def _unusual_sizes(table: pd.DataFrame, listed: set[str]) -> list[Problem]:
    """List the images that differ in size when nearly all others are of one size; they are kept."""
    usual = table["size"].mode()[0]
    odd = table[table["size"] != usual]
    if odd.empty or len(odd) > (1 - _USUAL) * len(table):
        return []
    reason = f"px; {len(table) - len(odd)} others are {usual} px; scaled"
    rows = zip(odd["path"], odd["size"], strict=True)
    return [Problem(path, "wrong_size", f"{size} {reason}", kept=True) for path, size in rows if path not in listed]
