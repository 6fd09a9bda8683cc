"""Files of a dataset -> a prepared cohort on disk: decoded once, in parallel, whole or absent.

CACHE/<dataset>-<image size>-<fingerprint>/
    cohort.json     name, classes, digest, facts; written last
    table.csv       one line per case, without labels
    images.npy      uint8 [N, H, W, 3]
    labels.csv      id, label, path: `cohort.read_labels` alone opens it
    problems.csv    every file that was left out or is odd, and why
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune import files
from histotune.cohort import FORMAT, Cohort, load
from histotune.datasets import RESIZES, Dataset, Listing, Problem
from histotune.datasets._decode import SMALLEST_SIDE, Job, decode
from histotune.datasets._images_file import ImagesFile
from histotune.errors import ConfigError, DataError

Progress = Callable[[int, int], None]
"""Hears (cases decoded, cases in all)."""

_USUAL = 0.9  # share of the images from which on their size counts as the usual one


def prepare(
    dataset: Dataset,
    root: Path | None,
    *,
    image_size: int,
    cache: Path,
    strict: bool = False,
    workers: int | None = None,
    resize: str = "area",
    progress: Progress | None = None,
) -> Cohort:
    """Bring a dataset into one memory-mapped array; the second time it is only opened.

    Args:
        dataset: its reader.
        root: where its files are; None for made-up data.
        image_size: side of the square images, pixels.
        cache: folder of all prepared cohorts.
        strict: whether a file that is left out or odd is an error.
        workers: number of decoding processes; None takes one per core.
        resize: `area` or `pad`, as in `datasets.fit`.
        progress: hears how far it is.

    Raises:
        DataError: nothing can be read, only one class is left, or `strict` met a problem.
        HistotuneError: the disk is full; nothing half-written is left.
    """
    if resize not in RESIZES:
        raise ConfigError(f"resize is one of {', '.join(RESIZES)}, not {resize!r}")
    if image_size < SMALLEST_SIDE:
        raise ConfigError(f"image_size must be at least {SMALLEST_SIDE} px, got {image_size}")
    listing = dataset.scan(root)
    _refuse_one_class(listing.table["label"], listing, f"the {len(listing.table)} cases in {root}")
    job = Job(dataset, root, image_size, resize)
    name = f"{dataset.name}-{image_size}-{_fingerprint(job, listing)}"
    folder = cache.absolute() / name
    if not (folder / "cohort.json").exists():
        with _turn(cache, name) as temporary:
            if temporary is not None:
                _write(temporary, job, listing, workers, progress or _unheard)
    cohort = load(folder)
    if strict:
        _refuse_problems(cohort)
    return cohort


def _write(folder: Path, job: Job, listing: Listing, workers: int | None, progress: Progress) -> None:
    """Fill `folder` with the prepared cohort."""
    with ImagesFile(folder / "images.npy", len(listing.table), job.side) as images:
        found = _decode_into(images, job, listing, workers, progress)
        found = _leave_out_copies(found)
        images.keep(found.table.loc[found.table["content"] != "", "keep"].to_numpy(bool))
    table = found.table[found.table["keep"]].reset_index(drop=True)
    problems = [*listing.problems, *found.problems]
    if table.empty:
        raise DataError(f"none of {len(listing.table)} files in {job.root} can be read; the first: {problems[0]}")
    _refuse_one_class(table["label"], listing, f"the {len(table)} readable cases in {job.root}")
    problems += _unusual_sizes(table, {problem.path for problem in problems})
    if "path" not in table:
        table["path"] = ""
    columns = ["id", "patient", "site", "content", "x", "y", "part"]
    files.write_text(folder / "table.csv", table[columns].to_csv(index=False))
    files.write_text(folder / "labels.csv", table[["id", "label", "path"]].to_csv(index=False))
    listed = pd.DataFrame(problems, columns=list(Problem._fields))
    files.write_text(folder / "problems.csv", listed.to_csv(index=False))
    saved = {
        "format": FORMAT,
        "name": job.dataset.name,
        "classes": list(listing.classes),
        "positive": listing.positive,
        "digest": _digest(table, job, listing.classes),
        "facts": _facts(table, job, listing, listed),
    }
    files.write_json(folder / "cohort.json", saved)


@dataclass(frozen=True)
class _Found:
    """table: the listing's with `content`, `size`, `converted` and `keep`; problems: what came to light."""

    table: pd.DataFrame
    problems: list[Problem]


def _decode_into(images: ImagesFile, job: Job, listing: Listing, workers: int | None, progress: Progress) -> _Found:
    table = listing.table
    paths = table["path"] if "path" in table else table["id"]
    contents: list[str] = []
    sizes: list[tuple[int, int]] = []
    converted: list[str] = []
    problems: list[Problem] = []
    progress(0, len(table))
    for done in decode(job, listing, workers):
        images.append(done.pixels)
        problems += [Problem(paths[len(contents) + at], *note) for at, note in done.notes.items()]
        contents += done.contents
        sizes += done.sizes
        converted += done.converted
        progress(len(contents), len(table))
    columns = {"content": contents, "size": [f"{w}x{h}" for w, h in sizes], "converted": converted}
    return _Found(table.assign(**columns, keep=[content != "" for content in contents]), problems)


def _leave_out_copies(found: _Found) -> _Found:
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
    return _Found(table.assign(keep=keep), problems)


def _unusual_sizes(table: pd.DataFrame, listed: set[str]) -> list[Problem]:
    """List the images that differ in size when nearly all others are of one size; they are kept."""
    usual = table["size"].mode()[0]
    odd = table[table["size"] != usual]
    if odd.empty or len(odd) > (1 - _USUAL) * len(table):
        return []
    reason = f"px; {len(table) - len(odd)} others are {usual} px; scaled"
    rows = zip(odd["path"], odd["size"], strict=True)
    return [Problem(path, "wrong_size", f"{size} {reason}", kept=True) for path, size in rows if path not in listed]


def _facts(table: pd.DataFrame, job: Job, listing: Listing, problems: pd.DataFrame) -> dict[str, Any]:
    info = job.dataset.info
    kinds = {kept: Counter(problems.loc[problems["kept"] == kept, "kind"]) for kept in (True, False)}
    return {
        "title": info.title,
        "synthetic": info.synthetic,
        "source": info.source,
        "licence": info.licence,
        "patients_known": True,
        **listing.facts,
        "cases": len(table),
        "patients": int(table["patient"].nunique()),
        "sites": int((table["site"].unique() != "").sum()),
        "image_size": job.side,
        "resize": job.resize,
        "sizes": {str(size): int(n) for size, n in table["size"].value_counts()[:5].items()},
        "left_out": dict(kinds[False]),
        "odd": dict(kinds[True]),
        "converted": dict(Counter(table.loc[table["converted"] != "", "converted"])),
    }


def _fingerprint(job: Job, listing: Listing) -> str:
    """Name what would be prepared, from paths, sizes, times and options, without opening a file."""
    hashed = hashlib.blake2b(digest_size=6)
    options = [FORMAT, job.dataset.options(), job.side, job.resize, listing.classes, listing.positive]
    hashed.update(json.dumps([options, sorted(listing.table.columns), listing.problems], default=str).encode())
    hashed.update(pd.util.hash_pandas_object(listing.table, index=False).to_numpy().tobytes())
    return hashed.hexdigest()


def _digest(table: pd.DataFrame, job: Job, classes: tuple[str, ...]) -> str:
    """Name what was prepared; unlike the fingerprint it is the same wherever and whenever the files lie."""
    columns = ["id", "patient", "site", "content", "label", "part"]
    hashed = hashlib.sha256(json.dumps([FORMAT, job.side, job.resize, classes]).encode())
    hashed.update(table[columns].to_csv(index=False).encode())
    return hashed.hexdigest()[:16]


@contextlib.contextmanager
def _turn(cache: Path, name: str) -> Iterator[Path | None]:
    """Wait until nobody else prepares `name`; then give a folder to fill, or None when it was prepared meanwhile.

    The folder takes its name when the block ends, and vanishes when the block fails.
    """
    folder = cache.absolute() / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f".{name}.lock").open("w")
    except OSError as error:
        raise files.unwritable(folder, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel frees it when this process ends, however it ends
        if (folder / "cohort.json").exists():
            yield None
            return
        for left_behind in cache.glob(f".{name}.tmp*"):  # by a process that was killed: nobody else holds the lock
            shutil.rmtree(left_behind)
        temporary = None
        try:
            temporary = Path(tempfile.mkdtemp(dir=cache, prefix=f".{name}.tmp"))
            yield temporary
            temporary.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)  # what somebody damaged by hand
            temporary.rename(folder)
        except OSError as error:
            raise files.unwritable(folder, error) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)


def _refuse_one_class(labels: pd.Series, listing: Listing, where: str) -> None:
    counts = np.bincount(labels.to_numpy(np.int64), minlength=len(listing.classes))
    if np.count_nonzero(counts) < 2:
        said = ", ".join(f"{name}: {n}" for name, n in zip(listing.classes, counts, strict=True))
        raise DataError(f"{where} belong to one class only ({said}); a classifier needs at least two")


def _refuse_problems(cohort: Cohort) -> None:
    path = cohort.folder / "problems.csv"
    problems = pd.read_csv(path, dtype=str, keep_default_na=False)
    if len(problems):
        first = "\n".join(f"  {row.path}: {row.kind}: {row.reason}" for row in problems[:5].itertuples())
        raise DataError(f"{len(problems)} files have problems (--strict), all listed in {path}; the first:\n{first}")


def _unheard(done: int, total: int) -> None:
    """Stand in for a progress bar."""
