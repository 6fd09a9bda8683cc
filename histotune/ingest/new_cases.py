"""New cases as a model reads them: a folder with a table, or a folder of images or bags, for every modality.

CASES/
    NAME.csv, .csv.gz, .parquet    a table: its first column, or `case_id`, is the case
    NAME/ID.png                    images; also .jpg, .tif, ...
    NAME/ID/ or NAME/slides/ID/    bags and graphs, as `histotune prepare slides` writes them
    slides/ID/                     the same, for every bag and graph that has no folder of its own name
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from histotune.data.modalities import Column, Preprocessing
from histotune.data.modalities.bag import Bags
from histotune.data.modalities.graph import GraphModality, stacked
from histotune.data.modalities.table import TablePreprocessing
from histotune.errors import DataError, suggest
from histotune.ingest.cells import CATEGORIES, NUMBERS
from histotune.ingest.datasets import BadFile, Problem
from histotune.ingest.images import SUFFIXES, fit, read_image
from histotune.ingest.tables import CASE_ID, PARQUET, KnownRows, known_columns, read_frame, read_known, slashed
from histotune.ingest.walk import summary, walk

TABLES = (".csv", ".csv.gz", *PARQUET)
_SLIDES, _DONE = "slides", "features.npy"
_OF_SLIDES = ("slides.csv", "problems.csv", "labels.csv")  # beside prepared slides
FileProblem = Mapping[str, str]
ImageFiles = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray
"""A file, a folder, a CSV with a column `path`, a list of files, or uint8 [n, H, W, 3]."""


@dataclass(frozen=True)
class Reads:
    """What a model reads of one modality.

    Attributes:
        kind: of the modality.
        columns: of a table, {column: `numbers` or `categories`} as it was trained on.
        needed: those columns that it cannot do without.
        shape: of one case, as a backbone gets it.
        words: of a table, {column: the categories that are known}.
        id: of a table, its column of case ids in training; "" where that is not known.
    """

    kind: str
    columns: Mapping[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    words: Mapping[str, Collection[str]] = field(default_factory=dict)
    id: str = ""


def what_is_read(fitted: Iterable[tuple[str, Preprocessing]]) -> dict[str, Reads]:
    """Join what several models read, each given by the modality and what was fitted to it; by modality, sorted."""
    result: dict[str, Reads] = {}
    for name, one in fitted:
        known = result.get(name, Reads(one.kind, shape=one.shape))
        if isinstance(one, TablePreprocessing):
            kinds = {column.name: NUMBERS if column.categories is None else CATEGORIES for column in one.columns}
            needed = tuple(dict.fromkeys([*known.needed, *one.sources]))
            words = {column.name: set(column.categories) for column in one.columns if column.categories is not None}
            words = {column: {*words[column], *known.words.get(column, ())} for column in words}
            known = replace(known, columns={**known.columns, **kinds}, needed=needed, words={**known.words, **words})
        result[name] = known
    return dict(sorted(result.items()))


class Given(Protocol):
    """One modality of new cases."""

    @property
    def ids(self) -> Sequence[str]:
        """The cases that have it."""

    def take(self, ids: Sequence[str], size: int) -> Column:
        """Return the cases `ids`, images at `size` px; absent where it is not there."""


class CaseFiles:
    """The cases of a folder, or of a single table.

    Attributes:
        ids: of all modalities together, sorted.
        notes: what a person should know: missing modalities, files that are not read.
        problems: images that could not be read, as {path, kind, reason}; complete once all cases were taken.
    """

    def __init__(self, root: Path, reads: Mapping[str, Reads], resize: str) -> None:
        """List the cases.

        Raises:
            DataError: there are none of what is read, a name that stands for two files, or as `read_known`.
        """
        self.problems: list[FileProblem] = []
        self._given: dict[str, Given] = {}
        places = _places(root, reads)
        for name, place in places.items():
            if reads[name].kind == "table":
                one = reads[name]
                self._given[name] = _Rows(read_known(place, one.columns, one.needed, words=one.words, own=one.id))
            elif reads[name].kind == "image":
                self._given[name] = _Images(place, resize, self.problems)
            else:
                self._given[name] = _BagFolder(place, reads[name].kind, self.problems)
        self.ids = sorted({case for given in self._given.values() for case in given.ids})
        if not self.ids:
            raise DataError(f"{root} has no case of {', '.join(places)}")
        self.notes = _notes(root, reads, places)

    def take(self, ids: Sequence[str], sizes: Sequence[int]) -> dict[int, dict[str, Column]]:
        """Return some cases for every image size, pixels."""
        return {size: {name: given.take(ids, size) for name, given in self._given.items()} for size in sizes}


def of_frame(frame: pd.DataFrame, reads: Mapping[str, Reads]) -> tuple[list[str], dict[str, Column]]:
    """Return the cases of a table with a row for each and the columns `MODALITY.COLUMN`; `case_id` where there is one.

    A modality of which there is no column is absent; an empty row of it says that the case lacks it.

    Raises:
        DataError: there is nothing that is read, or as `known_columns`.
    """
    ids = [str(case) for case in (frame[CASE_ID] if CASE_ID in frame else range(len(frame)))]
    result = {}
    for name, wanted in reads.items():
        own = [column for column in frame.columns if str(column).startswith(f"{name}.")]
        if wanted.kind == "table" and own:
            part = frame[own].set_axis([column.removeprefix(f"{name}.") for column in own], axis=1).set_axis(ids)
            known = known_columns(Path(name), part, wanted.columns, wanted.needed, wanted.words)
            result[name] = Column("table", known.table, known.there)
    if not result:
        tables = [name for name, wanted in reads.items() if wanted.kind == "table"]
        raise DataError(
            f"no column of the {len(frame.columns)} given is called MODALITY.COLUMN with one of the tables that the "
            f"model reads: {', '.join(tables) or 'it reads none'}"
        )
    return ids, result


@dataclass(frozen=True)
class _Rows:
    known: KnownRows

    @property
    def ids(self) -> list[str]:
        return self.known.ids

    def take(self, ids: Sequence[str], size: int) -> Column:
        return Column("table", *self.known.of(ids))


class _Images:
    def __init__(self, folder: Path, resize: str, problems: list[FileProblem]) -> None:
        self._resize, self._problems, self._paths = resize, problems, dict[str, Path]()
        walked = walk(folder, SUFFIXES, deep=False)
        for file in walked.files:
            path = folder / file.path
            if path.stem in self._paths:
                raise DataError(f"{self._paths[path.stem]} and {path.name} are images of one case: remove one")
            self._paths[path.stem] = path
        for problem in walked.problems:
            self._add({"path": str(folder / problem.path), "kind": problem.kind, "reason": problem.reason})
        self.ids = list(self._paths)

    def take(self, ids: Sequence[str], size: int) -> Column:
        pixels, present = np.zeros((len(ids), size, size, 3), np.uint8), np.zeros(len(ids), bool)
        for row, case in enumerate(ids):
            if path := self._paths.get(case):
                try:
                    pixels[row], present[row] = fit(read_image(path).pixels, size, self._resize), True
                except BadFile as error:
                    self._add({"path": str(path), "kind": error.kind, "reason": error.reason})
        return Column("image", pixels, present)

    def _add(self, problem: FileProblem) -> None:
        if problem not in self._problems:  # listed already for another image size
            self._problems.append(problem)


class _BagFolder:
    def __init__(self, folder: Path, kind: str, problems: list[FileProblem]) -> None:
        self._folder, self._kind = folder / _SLIDES if (folder / _SLIDES).is_dir() else folder, kind
        self.ids = list[str]()
        for path in sorted(self._folder.iterdir()):
            if (reason := _no_bag(path)) is None:
                self.ids.append(path.name)
            elif reason:
                problem = {"path": str(path), "kind": "no_bag", "reason": reason}
                problems.extend([problem] if problem not in problems else [])  # a bag and a graph of one folder
        if not self.ids:
            raise DataError(
                f"{folder} holds no bags: one folder for each case, as `histotune prepare slides FOLDER` writes them"
            )
        self._width = self._load(self.ids[0]).features.shape[1]

    def take(self, ids: Sequence[str], size: int) -> Column:
        known, empty = set(self.ids), _empty(self._width)
        try:
            bags = stacked([self._load(case) if case in known else empty for case in ids])
        except ValueError as error:
            raise DataError(f"{self._folder}: {error}") from error
        neighbours = bags.neighbours if self._kind == "graph" else bags.neighbours[:, :0]
        there = Bags(bags.features, bags.coordinates, bags.offsets, neighbours)
        return Column(self._kind, there, bags.counts > 0)

    def _load(self, case: str) -> Bags:
        try:
            return GraphModality().load(self._folder / case)
        except (OSError, ValueError) as error:
            raise DataError(f"{self._folder / case} is no bag, or a damaged one: {error}") from error


def _no_bag(path: Path) -> str | None:
    """Return why this is no case that has a bag; None where it is one, "" where nobody would take it for one."""
    if path.is_symlink() and not path.exists():
        return "the link leads to a folder that is not there"
    if not path.is_dir():
        return ""
    if not (path / _DONE).is_file():
        return f"a folder without {_DONE}, which is written last"
    return "a hidden folder is not read" if path.name.startswith(".") else None


def image_paths(images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[list[str], list[Problem]]:
    """List the image files that are meant, as text, and what is passed over in a folder of them, as `walk` does.

    Raises:
        DataError: there are none.
    """
    if not isinstance(images, (str, os.PathLike)):
        if not len(images):
            raise DataError("the list of images is empty")
        return [os.fspath(path) for path in images], []
    root = Path(images)
    if root.is_dir():
        walked = walk(root, SUFFIXES)
        if not walked.files:
            others = f"; passed over: {summary(walked.problems)}" if walked.problems else ""
            raise DataError(f"{root} and its subfolders hold no image files ({', '.join(sorted(SUFFIXES))}){others}")
        named = [problem._replace(path=str(root / problem.path)) for problem in walked.problems]
        return [str(root / file.path) for file in walked.files], named
    if not root.exists():
        raise DataError(f"{root} does not exist: name an image, a folder of images, or a CSV with a column 'path'")
    return (_listed(root) if root.suffix.lower() == ".csv" else [str(root)]), []


def stacked_images(sized: Sequence[Mapping[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Turn a list of {size: [S, S, 3]} into {size: [n, S, S, 3]}."""
    return {size: np.stack([image[size] for image in sized]) for size in (sized[0] if sized else ())}


def words(problem: Mapping[str, str]) -> str:
    """List what is wrong with a file or a case."""
    return f"{problem['path']}: {problem['kind']}: {problem['reason']}"


def _empty(width: int) -> Bags:
    return Bags(
        np.zeros((0, width), np.float32),
        np.zeros((0, 2), np.float32),
        np.zeros(2, np.int64),
        np.zeros((0, 0), np.int32),
    )


def _places(root: Path, reads: Mapping[str, Reads]) -> dict[str, Path]:
    """Find the file or folder of every modality that is there."""
    tables = [name for name, wanted in reads.items() if wanted.kind == "table"]
    if root.is_file():
        if len(reads) > 1 or not tables:
            raise DataError(f"{root} is one file, and the model reads {_described(reads)}: name a folder that has them")
        return {tables[0]: root}
    if not root.is_dir():
        raise DataError(f"{root} does not exist: name a folder that has {_described(reads)}")
    result = {}
    for name, wanted in reads.items():
        if wanted.kind == "table":
            there = [root / f"{name}{ending}" for ending in TABLES if (root / f"{name}{ending}").is_file()]
        else:
            there = [path for path in (root / name,) if path.is_dir()]
            if wanted.kind != "image" and not there and (root / _SLIDES).is_dir():
                there = [root / _SLIDES]
        if len(there) > 1:
            raise DataError(f"{there[0]} and {there[1].name} are both modality {name!r}: remove one")
        if there:
            result[name] = there[0]
    if not result:
        holds = sorted(path.name for path in root.iterdir())
        raise DataError(
            f"{root} has none of what the model reads: {_described(reads)}. "
            + (suggest(next(iter(reads)), [name.partition(".")[0] for name in holds[:40]]) if holds else "It is empty")
        )
    return result


def _notes(root: Path, reads: Mapping[str, Reads], places: Mapping[str, Path]) -> list[str]:
    notes = [
        f"modality {name!r} is absent for every case: {root} has no {_file(name, wanted)}"
        for name, wanted in reads.items()
        if name not in places
    ]
    used = set(places.values())
    if root.is_dir():
        used |= {root / name for name in _OF_SLIDES if root / _SLIDES in used}
        others = [path.name for path in sorted(root.iterdir()) if path not in used and path.name.endswith(TABLES)]
        notes += [f"{name} is not read: the model reads {', '.join(reads)}" for name in others]
    return notes


def _described(reads: Mapping[str, Reads]) -> str:
    return ", ".join(_file(name, wanted) for name, wanted in reads.items())


def _file(name: str, wanted: Reads) -> str:
    forms = {"table": f"{name}.csv (or .csv.gz, .parquet)", "image": f"{name}/ID.png"}
    return forms.get(wanted.kind, f"{name}/ID/ as `histotune prepare slides` writes it")


def _listed(file: Path) -> list[str]:
    table, _ = read_frame(file, lambda name: True, "")
    if "path" not in table:
        raise DataError(f"{file} has no column 'path'; it has: {', '.join(map(str, table.columns))}")
    return [str(file.parent / slashed(file, path.strip())) for path in table["path"].dropna()]
