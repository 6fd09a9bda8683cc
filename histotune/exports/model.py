"""An export and new cases -> class probabilities; only the export folder is needed, and nothing in it is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from histotune.core import files
from histotune.data.modalities import MODALITIES, Column
from histotune.ensembles.strategies import ENSEMBLES
from histotune.errors import DataError, HistotuneError
from histotune.exports.scorer import LoadedMember, Scorer
from histotune.ingest.datasets import BadFile, Problem
from histotune.ingest.images import fit, read_image
from histotune.ingest.new_cases import CaseFiles, ImageFiles, image_paths, of_frame, stacked_images, words
from histotune.ingest.tables import three
from histotune.ingest.walk import HARMLESS, summary
from histotune.models.network import IMAGE
from histotune.models.predictor import load_model
from histotune.storage import layout

FORMAT = 1
_GRAPHS = {"onnx": layout.ONNX, "torch_export": layout.PT2}  # {key of export.json: file}
CHUNK = 256  # images in memory at once


class Export(Scorer):
    """A portable model, a single trial or an ensemble of trials, ready to predict from files."""

    def __repr__(self) -> str:
        return f"Export({self.name!r}, {len(self.members)} members, classes {', '.join(self.classes)})"

    def predict(self, cases: ImageFiles | Mapping[str, Column] | pd.DataFrame, *, strict: bool = False) -> pd.DataFrame:
        """Predict class probabilities.

        Args:
            cases: of an export that reads images only: an image file; a folder, searched with its subfolders for image
                files; a CSV file with a column `path` (relative to the CSV's folder); a list of files; or a uint8
                array [n, H, W, 3]. Of any other: a folder as `case_files` describes it, or, if it reads one table
                only, that file. Of tables also a DataFrame with a row per case, columns called `MODALITY.COLUMN`, and
                `case_id` where ids are known; a modality of which there is no column is absent, and so is one whose
                cells are all empty. Of all: {modality: `modalities.Column`}, where one that is left out is absent.
            strict: whether an image that cannot be read is an error.

        Returns:
            One row per case: `path` of an image file, else `id` (from 0 for an array and for columns), `p_CLASS` for
            every class, `label`, the class of highest probability, and for two classes `label_at_threshold`, the class
            at the validation threshold. Where not only images are read, `missing` names the modalities that the case
            lacks. Images that cannot be read, and cases that have nothing that is read, have no row: a warning counts
            them and what else a folder holds, and `table.attrs["problems"]` lists {path, kind, reason}, where `path`
            may be the id of a case.

        Raises:
            DataError: there is no case, none can be read, `strict` met an image that cannot, or a table lacks a column.
        """
        if isinstance(cases, pd.DataFrame):
            ids, columns = of_frame(cases, self.reads)
            table = self._of_columns(columns)
            return table.assign(id=[ids[row] for row in table["id"]])
        if isinstance(cases, Mapping):
            return self._of_columns(cases)
        if not self.only_images:
            return self._of_files(cases, strict)
        if isinstance(cases, np.ndarray):
            return self.table({"id": range(len(cases))}, self._of_array(cases))
        return self._of_images(*image_paths(cases), strict)

    def _of_images(self, paths: Sequence[str], passed_over: Sequence[Problem], strict: bool) -> pd.DataFrame:
        scored, kept, problems = [], [], []
        others = [{"path": one.path, "kind": one.kind, "reason": one.reason} for one in passed_over]
        _refuse([other for other, one in zip(others, passed_over, strict=True) if not one.kept], strict)
        for start in range(0, len(paths), CHUNK):
            sized, readable, bad = self._read(paths[start : start + CHUNK])
            problems += bad
            _refuse(problems, strict)
            kept += readable
            if readable:
                scored.append(self.probabilities(sized))
        if not kept:
            raise DataError(f"none of {len(paths)} images can be read; the first: {words(problems[0])}")
        if problems:
            warnings.warn(
                f"{len(problems)} of {len(paths)} images cannot be read and are left out; the first: "
                f"{words(problems[0])}",
                stacklevel=3,
            )
        if passed_over:
            warnings.warn(f"beside {len(paths)} images: {summary(passed_over)}", stacklevel=3)
        table = self.table({"path": kept}, np.concatenate(scored))
        table.attrs["problems"] = [*problems, *others]
        return table

    def _of_files(self, cases: ImageFiles, strict: bool) -> pd.DataFrame:
        if not isinstance(cases, (str, os.PathLike)):
            raise DataError(
                f"{self.name} reads {', '.join(self.reads)}: give a folder of cases, or {{modality: Column}}, got "
                f"{type(cases).__name__}"
            )
        files = CaseFiles(Path(cases), self.reads, self.info["resize"])
        parts, unknown = [], list[str]()
        for start in range(0, len(files.ids), CHUNK):
            ids = files.ids[start : start + CHUNK]
            result, nothing = self._rows_of(ids, files.take(ids, self.image_sizes))
            _refuse(files.problems, strict)
            parts.append(result)
            unknown += nothing
        for note in files.notes:
            warnings.warn(note, stacklevel=3)
        if files.problems:
            text = f"{len(files.problems)} images cannot be read; the first: {words(files.problems[0])}"
            warnings.warn(text, stacklevel=3)
        return self._joined(parts, unknown, files.problems)

    def _of_columns(self, given: Mapping[str, Column]) -> pd.DataFrame:
        read = {name: column for name, column in given.items() if name in self.reads}
        if not read:
            raise DataError(f"{self.name} reads {', '.join(self.reads)}, and the cases have {sorted(given)} only")
        cases = len(next(iter(read.values())).present)
        for name, column in read.items():
            stored = MODALITIES.build(column.kind).cases(column.stored)
            if (stored, len(column.present)) != (cases, cases):
                raise DataError(
                    f"modality {name!r} has {stored} cases and says of {len(column.present)} whether they "
                    f"have it; the first modality has {cases}"
                )
        parts, unknown = [], list[str]()
        for start in range(0, cases, CHUNK):
            rows = np.arange(start, min(start + CHUNK, cases))
            sized: dict[int, dict[str, Column]] = {size: {} for size in self.image_sizes}
            for name, column in read.items():
                part = column.select(rows)
                for size in sized:
                    sized[size][name] = self._sized(part, size)
            result, nothing = self._rows_of([*range(start, start + len(rows))], sized)
            parts.append(result)
            unknown += nothing
        return self._joined(parts, unknown, [])

    def _sized(self, column: Column, size: int) -> Column:
        """Resize the images of a column, where it has any."""
        if column.kind != IMAGE or column.stored.shape[1:] == (size, size, 3):
            return column
        return column._replace(stored=np.stack([fit(image, size, self.info["resize"]) for image in column.stored]))

    def _rows_of(self, ids: Sequence[Any], cases: Mapping[int, Mapping[str, Column]]) -> tuple[pd.DataFrame, list[Any]]:
        """Return a row of each case of which something is known, and the ids of the others."""
        observed = np.asarray(self.has_input(cases).any(axis=0))
        some = next(iter(cases.values()))
        there = {name: some[name].present if name in some else np.zeros(len(ids), bool) for name in self.reads}
        missing = [", ".join(name for name in there if not there[name][row]) for row in range(len(ids))]
        table = self.table({"id": ids, "missing": missing}, self.probabilities(cases))
        return table.loc[observed], [case for case, known in zip(ids, observed, strict=True) if not known]

    def _joined(self, parts: Sequence[pd.DataFrame], unknown: Sequence[Any], problems: Sequence[Any]) -> pd.DataFrame:
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        if table.empty:
            raise DataError(f"nothing that {self.name} reads ({', '.join(self.reads)}) is known of any case")
        if unknown:
            warnings.warn(
                f"{len(unknown)} cases have nothing that {self.name} reads and are left out: {three(unknown)}",
                stacklevel=4,
            )
        reason = f"it has none of {', '.join(self.reads)}"
        left_out = [{"path": str(case), "kind": "no_modality", "reason": reason} for case in unknown]
        table.attrs["problems"] = [*problems, *left_out]
        return table

    def _of_array(self, images: np.ndarray) -> np.ndarray:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise DataError(
                f"an array of images is uint8 [n, H, W, 3] with n, H, W of at least 1, got {images.dtype} "
                f"{list(images.shape)}"
            )
        scored = []
        for start in range(0, len(images), CHUNK):
            sized = [self._fit(image) for image in images[start : start + CHUNK]]
            scored.append(self.probabilities(stacked_images(sized)))
        return np.concatenate(scored)

    def _read(self, paths: Sequence[str]) -> tuple[dict[int, np.ndarray], list[str], list[dict[str, str]]]:
        """Decode files: returns their pixels at every image size, the readable paths, and what could not be read."""
        sized, readable, problems = [], [], []
        for path in paths:
            try:
                picture = read_image(path)
                sized.append(self._fit(picture.pixels))
                readable.append(path)
                if picture.note:
                    warnings.warn(f"{path}: {picture.note[0]}: {picture.note[1]}", stacklevel=4)
            except BadFile as error:
                problems.append({"path": path, "kind": error.kind, "reason": error.reason})
        return stacked_images(sized), readable, problems

    def _fit(self, image: np.ndarray) -> dict[int, np.ndarray]:
        """Resize one image uint8 [H, W, 3] to every image size, as the cohort of the training was resized."""
        return {size: fit(image, size, self.info["resize"]) for size in self.image_sizes}


def _refuse(problems: Sequence[Mapping[str, str]], strict: bool) -> None:
    meant = [problem for problem in problems if problem["kind"] not in HARMLESS]
    if strict and meant:
        raise DataError(f"{words(meant[0])}. Leave `strict` out to predict the images that can be read")


def load(folder: str | os.PathLike[str], device: torch.device | None = None) -> Export:
    """Open an export folder, on the first GPU where there is one and no other device is named.

    Raises:
        HistotuneError: it is no export, of another version, or changed after it was written.
    """
    folder = Path(folder).absolute()
    path = folder / layout.EXPORT
    if not path.is_file():
        raise HistotuneError(
            f"{folder} is no export: it has no {layout.EXPORT}. `histotune ensemble STUDY --export FOLDER` writes one"
        )
    info = files.read_json(path, cure="restore it from a copy, or export it again")
    if info.get("format") != FORMAT:
        raise HistotuneError(
            f"{path} has format {info.get('format')!r}, this histotune reads {FORMAT}: export it again"
        )
    if content_digest(folder, info) != info["digest"] or not _graphs_fit(folder, info):
        raise HistotuneError(
            f"{folder} was changed after it was exported: its files do not fit its digest; export it again"
        )
    members = tuple(
        LoadedMember(member["trial"], member["temperature"], load_model(folder / member["folder"], device))
        for member in info["members"]
    )
    ensemble = ENSEMBLES.build(info["strategy"], **info["params"])
    ensemble.load_state(info["state"])
    ensemble.temperature = float(info.get("temperature", 1.0))  # exports of earlier versions have none
    return Export(folder, info, members, ensemble)


def content_digest(folder: Path, info: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits over all that decides the probabilities and labels of an export."""
    decisive = ["strategy", "params", "state", "members", "classes", "positive", "threshold", "resize"]
    decisive += ["temperature"] if "temperature" in info else []  # exports of earlier versions have none
    hashed = hashlib.sha256(json.dumps([info[key] for key in decisive], sort_keys=True).encode())
    for member in info["members"]:
        place = folder / member["folder"]
        for path in sorted(path for path in place.rglob("*") if path.is_file()):
            hashed.update(path.relative_to(place).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()[:12]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _graphs_fit(folder: Path, info: Mapping[str, Any]) -> bool:
    """Whether the graphs beside the members are those that were checked; who took one away may."""
    there = {key: folder / name for key, name in _GRAPHS.items() if (folder / name).exists()}
    return all(file_digest(path) == info.get(key, {}).get("sha256") for key, path in there.items())
