"""Files of a dataset -> a prepared cohort on disk: decoded once, in parallel, whole or absent.

CACHE/<dataset>-<image size>-<fingerprint>/
    cohort.json     name, classes, digest, facts; written last
    table.csv       one line per case, without labels
    present.csv     who has which modality
    modalities/     a folder for each, which its kind reads: images are images.npy, uint8 [N, H, W, 3]
    labels.csv      id, label, path: `cohort.read_labels` alone opens it
    properties.csv  bytes, width, height, format and quantisation of image files, case by case
    problems.csv    every file that was left out or is odd, and why
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.core import files
from histotune.core.files import read_table
from histotune.core.progress import Progress, silent
from histotune.data.cohort import COHORT, FORMAT, MODALITY, PRESENT, PROPERTIES, Cohort, load
from histotune.data.modalities import MODALITIES, Column
from histotune.data.modalities.image import FILE
from histotune.errors import ConfigError, DataError
from histotune.ingest.datasets import Dataset, Listing, Problem
from histotune.ingest.datasets._base import FileFormat
from histotune.ingest.decode import SMALLEST_SIDE, DecodeJob, decode
from histotune.ingest.images import RESIZES, ImagesFile
from histotune.ingest.spellings import is_missing, refuse_spellings
from histotune.ingest.walk import HARMLESS

IMAGE = "image"  # the modality that a reader's images are
_DIGEST = 1  # version of a cohort's digest
"""Is called with (cases decoded, cases in all)."""
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
        progress: is called with how far it is.

    Raises:
        DataError: nothing can be read, only one class is left, or `strict` met a problem.
        HistotuneError: the disk is full; nothing half-written is left.
    """
    if resize not in RESIZES:
        raise ConfigError(f"resize is one of {', '.join(RESIZES)}, not {resize!r}")
    if image_size < SMALLEST_SIDE:
        raise ConfigError(f"image_size must be at least {SMALLEST_SIDE} px, got {image_size}")
    listing = _checked(dataset.scan(root))
    _refuse_one_class(listing.table["label"], listing, f"the {len(listing.table)} cases in {root}")
    job = DecodeJob(dataset, root, image_size, resize)
    name = f"{dataset.name}-{image_size}-{_fingerprint(job, listing)}"
    folder = cache.absolute() / name
    if not (folder / COHORT).exists():
        with _turn(cache, name) as temporary:
            if temporary is not None:
                _write(temporary, cache.absolute(), job, listing, workers, progress or silent)
    cohort = load(folder)
    if strict:
        _refuse_problems(cohort)
    return cohort


def _checked(listing: Listing) -> Listing:
    """Leave out cases whose class or patient says that it is missing, and refuse names that are spelled in two ways.

    Raises:
        DataError: two classes, or two patients, differ only in how they are written; no case is left.
    """
    table = listing.table
    label = table["label"].map(lambda number: listing.classes[number])
    unlabelled = label.map(is_missing)
    nobody = table["patient"].map(is_missing) & ~unlabelled
    where = table["path"] if "path" in table else table["id"]
    patient, rows = table["patient"], table.index
    problems = [Problem(where[row], "no_label", f"its class is {label[row]!r}: missing") for row in rows[unlabelled]]
    problems += [Problem(where[row], "no_patient", f"its patient is {patient[row]!r}: missing") for row in rows[nobody]]
    if problems:
        kept = ~(unlabelled | nobody)
        if not kept.any():
            raise DataError(f"none of {len(table)} cases can be used; the first, {where.iloc[0]}: {problems[0].reason}")
        table, label = table[kept].reset_index(drop=True), label[kept].reset_index(drop=True)
        classes = tuple(name for name in listing.classes if not is_missing(name))
        positive = listing.classes[listing.positive]
        listing = replace(
            listing,
            table=table.assign(label=label.map(classes.index).astype(np.int64)),
            classes=classes,
            positive=classes.index(positive) if positive in classes else min(1, len(classes) - 1),
            problems=[*listing.problems, *problems],
        )
    refuse_spellings(listing.classes, "the classes", "Write one of them throughout")
    if listing.facts.get("patients_known", True):
        cure = "Write every patient in one way, or all its cases could stand on both sides of the split"
        refuse_spellings(table["patient"], "the patients", cure)
    return listing


def _write(
    folder: Path, cache: Path, job: DecodeJob, listing: Listing, workers: int | None, progress: Progress
) -> None:
    """Fill `folder` with the prepared cohort."""
    result, columns = _Decoded(listing.table, list(listing.problems)), dict[str, Column]()
    if job.dataset.images:
        result = _write_images(folder / MODALITY / IMAGE, job, listing, workers, progress)
    columns = dict(job.dataset.columns(listing, job.root, cache))
    kept = result.table["keep"].to_numpy(bool) if job.dataset.images else np.ones(len(listing.table), bool)
    columns = {name: column.select(np.flatnonzero(kept)) for name, column in columns.items()}
    table = result.table[kept].reset_index(drop=True)
    if job.dataset.images:
        columns[IMAGE] = Column(IMAGE, None, np.ones(len(table), bool))
    else:
        table = table.assign(content=_contents(columns))
    _refuse_absent(columns)
    _refuse_one_class(table["label"], listing, f"the {len(table)} readable cases in {job.root}")
    for name, column in columns.items():
        if column.stored is not None:
            (folder / MODALITY / name).mkdir(parents=True)
            MODALITIES.build(column.kind).save(column.stored, folder / MODALITY / name)
    if "path" not in table:
        table["path"] = ""
    named = ["id", "patient", "site", "content", "x", "y", "part"]
    files.write_text(folder / "table.csv", table[named].to_csv(index=False))
    files.write_text(folder / "labels.csv", table[["id", "label", "path"]].to_csv(index=False))
    files.write_text(folder / PRESENT, pd.DataFrame({k: v.present for k, v in columns.items()}).to_csv(index=False))
    if {"bytes", "format"} <= set(table.columns):
        properties = ["bytes", "width", "height", "format", "quantisation"]
        files.write_text(folder / PROPERTIES, table[properties].to_csv(index=False))
    listed = pd.DataFrame(result.problems, columns=list(Problem._fields))
    files.write_text(folder / "problems.csv", listed.to_csv(index=False))
    held = sorted(str(path.relative_to(folder)) for path in (folder / MODALITY).rglob("*") if path.is_file())
    saved = {
        "format": FORMAT,
        "name": job.dataset.name,
        "classes": list(listing.classes),
        "positive": listing.positive,
        "modalities": {name: column.kind for name, column in columns.items()},
        "files": ["table.csv", PRESENT, *held],
        "digest": _digest(table, job, listing.classes),
        "facts": _facts(table, columns, job, listing, listed),
    }
    files.write_json(folder / COHORT, saved)


def _contents(columns: Mapping[str, Column]) -> list[str]:
    """Name what all modalities of a case hold together."""
    digests = [
        [digest if there else "" for digest, there in zip(result, column.present, strict=True)]
        for _, column in sorted(columns.items())
        for result in [MODALITIES.build(column.kind).digests(column.stored)]
    ]
    return [hashlib.blake2b(" ".join(case).encode(), digest_size=8).hexdigest() for case in zip(*digests, strict=True)]


def _refuse_absent(columns: Mapping[str, Column]) -> None:
    absent = [name for name, column in columns.items() if not column.present.any()]
    if absent:
        raise DataError(
            f"modality {absent[0]!r} is absent for all {len(columns[absent[0]].present)} cases: check its file and the "
            "case ids in it, or leave the modality out"
        )
    empty = np.flatnonzero(~np.any([column.present for column in columns.values()], axis=0))
    if len(empty):
        raise DataError(f"{len(empty)} cases have no modality at all, the first in row {empty[0]}: leave them out")


def _facts(
    table: pd.DataFrame, columns: Mapping[str, Column], job: DecodeJob, listing: Listing, problems: pd.DataFrame
) -> dict[str, Any]:
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
        "modalities": {name: int(column.present.sum()) for name, column in columns.items()},
        "left_out": dict(kinds[False]),
        "odd": dict(kinds[True]),
        **(_facts_of_images(table, job) if job.dataset.images else {}),
    }


def _facts_of_images(table: pd.DataFrame, job: DecodeJob) -> dict[str, Any]:
    return {
        "image_size": job.side,
        "resize": job.resize,
        "sizes": {str(size): int(n) for size, n in table["size"].value_counts()[:5].items()},
        "converted": dict(Counter(table.loc[table["converted"] != "", "converted"])),
    }


def _fingerprint(job: DecodeJob, listing: Listing) -> str:
    """Name what would be prepared, from paths, sizes, times and options, without opening a file."""
    hashed = hashlib.blake2b(digest_size=6)
    options = [FORMAT, job.dataset.options(), job.side, job.resize, listing.classes, listing.positive]
    hashed.update(
        json.dumps([options, sorted(listing.table.columns), listing.problems, listing.sources], default=str).encode()
    )
    hashed.update(pd.util.hash_pandas_object(listing.table, index=False).to_numpy().tobytes())
    return hashed.hexdigest()


def _digest(table: pd.DataFrame, job: DecodeJob, classes: tuple[str, ...]) -> str:
    """Name what was prepared; unlike the fingerprint it is the same wherever and whenever the files lie."""
    columns = ["id", "patient", "site", "content", "label", "part"]
    form = [_DIGEST, job.side, job.resize, classes] if job.dataset.images else [_DIGEST, classes]
    hashed = hashlib.sha256(json.dumps(form).encode())
    hashed.update(table[columns].to_csv(index=False).encode())
    return hashed.hexdigest()[:16]


@contextlib.contextmanager
def _turn(cache: Path, name: str) -> Iterator[Path | None]:
    """Wait until nobody else prepares `name`; then give a folder to fill, or None when it was prepared meanwhile.

    The folder takes its name when the block ends, and vanishes when the block fails.
    """
    folder = cache.absolute() / name
    with files.lock(cache / f".{name}.lock", "preparing a cohort", wait=True):
        if (folder / COHORT).exists():
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
        message = ", ".join(f"{name}: {n}" for name, n in zip(listing.classes, counts, strict=True))
        raise DataError(f"{where} belong to one class only ({message}); a classifier needs at least two")


def _refuse_problems(cohort: Cohort) -> None:
    path = cohort.folder / "problems.csv"
    problems = read_table(path, Problem._fields, str)
    problems = problems[~problems["kind"].isin(HARMLESS)]
    if len(problems):
        first = "\n".join(f"  {row.path}: {row.kind}: {row.reason}" for row in problems[:5].itertuples())
        raise DataError(f"{len(problems)} files have problems (--strict), all listed in {path}; the first:\n{first}")


@dataclass(frozen=True)
class _Decoded:
    """table: the listing's with `content`, `size`, `converted`, `keep`, `FileFormat`; problems: what came to light."""

    table: pd.DataFrame
    problems: list[Problem]


def _write_images(folder: Path, job: DecodeJob, listing: Listing, workers: int | None, progress: Progress) -> _Decoded:
    """Decode every image; those that cannot be read and copies of others are left out of the array."""
    folder.mkdir(parents=True)
    with ImagesFile(folder / FILE, len(listing.table), job.side) as images:
        result = _decode_into(images, job, listing, workers, progress)
        result = _leave_out_copies(result)
        images.keep(result.table.loc[result.table["content"] != "", "keep"].to_numpy(bool))
    problems = [*listing.problems, *result.problems]
    table = result.table[result.table["keep"]]
    if table.empty:
        raise DataError(f"none of {len(listing.table)} files in {job.root} can be read; the first: {problems[0]}")
    problems += _unusual_sizes(table, {problem.path for problem in problems})
    return _Decoded(result.table, problems)


def _decode_into(
    images: ImagesFile, job: DecodeJob, listing: Listing, workers: int | None, progress: Progress
) -> _Decoded:
    table, what = listing.table, f"preparing {job.dataset.name}"
    paths = table["path"] if "path" in table else table["id"]
    contents: list[str] = []
    sizes: list[tuple[int, int]] = []
    converted: list[str] = []
    saved: list[FileFormat] = []
    problems: list[Problem] = []
    progress(what, 0, len(table))
    for done in decode(job, listing, workers):
        images.append(done.pixels)
        problems += [Problem(paths[len(contents) + at], *note) for at, note in done.notes.items()]
        contents += done.contents
        sizes += done.sizes
        converted += done.converted
        saved += done.saved
        progress(what, len(contents), len(table))
    columns = {"content": contents, "size": [f"{w}x{h}" for w, h in sizes], "converted": converted}
    table = table.join(pd.DataFrame(saved, columns=FileFormat._fields, index=table.index))
    return _Decoded(table.assign(**columns, keep=[content != "" for content in contents]), problems)


def _leave_out_copies(result: _Decoded) -> _Decoded:
    """Leave out all but the first of identical images, and all of them when their labels differ."""
    table = result.table
    readable = table[table["keep"]]
    copies = readable[readable["content"].duplicated(keep=False)]
    keep = table["keep"].copy()
    problems = list(result.problems)
    for _, group in copies.groupby("content", sort=False):
        names = list(group["path"] if "path" in group else group["id"])
        if group["label"].nunique() > 1:
            keep[group.index] = False
            reason = f"the same pixels have different labels: {', '.join(names[:4])}"
            problems += [Problem(name, "contradiction", reason) for name in names]
        else:
            keep[group.index[1:]] = False
            problems += [Problem(name, "duplicate", f"the same pixels as {names[0]}") for name in names[1:]]
    return _Decoded(table.assign(keep=keep), problems)


def _unusual_sizes(table: pd.DataFrame, listed: set[str]) -> list[Problem]:
    """List the images that differ in size when nearly all others are of one size; they are kept."""
    usual = table["size"].mode()[0]
    odd = table[table["size"] != usual]
    if odd.empty or len(odd) > (1 - _USUAL) * len(table):
        return []
    reason = f"px; {len(table) - len(odd)} others are {usual} px; scaled"
    rows = zip(odd["path"], odd["size"], strict=True)
    return [Problem(path, "wrong_size", f"{size} {reason}", kept=True) for path, size in rows if path not in listed]
