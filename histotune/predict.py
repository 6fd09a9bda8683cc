"""An export and new images -> class probabilities; only the export folder is needed, and nothing in it is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from histotune.calibration import apply_temperatures
from histotune.datasets import BadFile, fit, read_image
from histotune.datasets._images import SUFFIXES
from histotune.ensembles import ENSEMBLES, Ensemble
from histotune.errors import DataError, HistotuneError
from histotune.metrics import decide
from histotune.modalities import Column
from histotune.predictor import Predictor, load_model

FORMAT = 1
EXPORT, MEMBERS, ONNX = "export.json", "members", "model.onnx"
CHUNK = 256  # images in memory at once
Cases = np.ndarray | Mapping[str, Column]
"""uint8 images [n, S, S, 3], or {modality: column of n cases}."""
Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray
"""A file, a folder, a CSV with a column `path`, a list of files, or uint8 [n, H, W, 3]."""


@dataclass(frozen=True)
class Member:
    """A trained model of an export, and the temperature by which its logits are divided."""

    trial: int
    temperature: float
    predictor: Predictor

    @property
    def image_size(self) -> int:
        """Side of the images that it reads, pixels."""
        return self.predictor.image_size


@dataclass(frozen=True)
class Export:
    """A portable model, a single trial or an ensemble of trials, ready to predict.

    Attributes:
        folder: where it lies.
        info: what `export.json` says: how it was made, on which data and split, with which validation metrics.
        members: best first.
        ensemble: joins the members; the average for a single one.
    """

    folder: Path
    info: Mapping[str, Any]
    members: tuple[Member, ...]
    ensemble: Ensemble

    def __repr__(self) -> str:
        return f"Export({self.name!r}, {len(self.members)} members, classes {', '.join(self.classes)})"

    @property
    def name(self) -> str:
        """The export's name."""
        return str(self.info["name"])

    @property
    def digest(self) -> str:
        """What names this very model, its weights included."""
        return str(self.info["digest"])

    @property
    def study(self) -> str:
        """Name of the study that it was made in."""
        return str(self.info["study"]["name"])

    @property
    def study_folder(self) -> Path:
        """Where that study stood when the export was made."""
        return Path(self.info["study"]["folder"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return tuple(self.info["classes"])

    @property
    def positive(self) -> int:
        """Index of the positive class."""
        return int(self.info["positive"])

    @property
    def threshold(self) -> float | None:
        """Probability of the positive class from which on it is called, chosen on validation; None for C > 2."""
        threshold = self.info["threshold"]
        return None if threshold is None else float(threshold)

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Sides of the images that the members read, pixels, ascending."""
        return tuple(sorted({member.image_size for member in self.members}))

    def predict(self, images: Images, *, strict: bool = False) -> pd.DataFrame:
        """Predict class probabilities.

        Args:
            images: an image file; a folder, searched with its subfolders for image files; a CSV file with a column
                `path` (relative to the CSV's folder); a list of files; or a uint8 array [n, H, W, 3].
            strict: whether an image that cannot be read is an error.

        Returns:
            One row per image: `path` (for an array `id`, from 0), `p_CLASS` for every class, `label`, the class of
            highest probability, and for two classes `label_at_threshold`, the class at the validation threshold.
            Images that cannot be read have no row: a warning counts them, and `table.attrs["problems"]` lists
            {path, kind, reason}.

        Raises:
            DataError: there is no image, none can be read, or `strict` met one that cannot.
        """
        if isinstance(images, np.ndarray):
            return self._table({"id": range(len(images))}, self._of_array(images))
        paths = image_paths(images)
        scored, kept, problems = [], [], []
        for start in range(0, len(paths), CHUNK):
            sized, readable, bad = self._read(paths[start : start + CHUNK])
            problems += bad
            if strict and problems:
                raise DataError(f"{_words(problems[0])}. Leave `strict` out to predict the images that can be read")
            kept += readable
            if readable:
                scored.append(self.probabilities(sized))
        if not kept:
            raise DataError(f"none of {len(paths)} images can be read; the first: {_words(problems[0])}")
        if problems:
            warnings.warn(
                f"{len(problems)} of {len(paths)} images cannot be read and are left out; the first: "
                f"{_words(problems[0])}",
                stacklevel=2,
            )
        table = self._table({"path": kept}, np.concatenate(scored))
        table.attrs["problems"] = problems
        return table

    def probabilities(self, cases: Mapping[int, Cases]) -> np.ndarray:
        """Map {image size S: the same n cases} to probabilities [n, C], float64; see `Predictor.logits`."""
        probabilities: np.ndarray = self.ensemble.predict(self.member_logits(cases))
        return probabilities

    def member_logits(self, cases: Mapping[int, Cases]) -> np.ndarray:
        """Map cases as in `probabilities` to the members' calibrated logits [M, n, C], float64."""
        logits = np.stack([member.predictor.logits(cases[member.image_size]) for member in self.members])
        return apply_temperatures(logits, [member.temperature for member in self.members])

    def _of_array(self, images: np.ndarray) -> np.ndarray:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
            raise DataError(
                f"an array of images is uint8 [n, H, W, 3] with n, H, W of at least 1, got {images.dtype} "
                f"{list(images.shape)}"
            )
        scored = []
        for start in range(0, len(images), CHUNK):
            sized = [self._fit(image) for image in images[start : start + CHUNK]]
            scored.append(self.probabilities(_stacked(sized)))
        return np.concatenate(scored)

    def _read(self, paths: Sequence[str]) -> tuple[dict[int, np.ndarray], list[str], list[dict[str, str]]]:
        """Decode files: returns their pixels at every image size, the readable paths, and what could not be read."""
        sized, readable, problems = [], [], []
        for path in paths:
            try:
                sized.append(self._fit(read_image(path).pixels))
                readable.append(path)
            except BadFile as error:
                problems.append({"path": path, "kind": error.kind, "reason": error.reason})
        return _stacked(sized), readable, problems

    def _fit(self, image: np.ndarray) -> dict[int, np.ndarray]:
        """Resize one image uint8 [H, W, 3] to every image size, as the cohort of the training was resized."""
        return {size: fit(image, size, self.info["resize"]) for size in self.image_sizes}

    def _table(self, names: Mapping[str, Sequence[Any]], probabilities: np.ndarray) -> pd.DataFrame:
        columns: dict[str, Any] = dict(names)
        columns |= {f"p_{name}": probabilities[:, index] for index, name in enumerate(self.classes)}
        classes = np.array(self.classes, dtype=object)
        columns["label"] = classes[decide(probabilities)]
        if self.threshold is not None:
            chosen = decide(probabilities, positive=self.positive, threshold=self.threshold)
            columns["label_at_threshold"] = classes[chosen]
        return pd.DataFrame(columns)


def load(folder: str | os.PathLike[str], device: torch.device | None = None) -> Export:
    """Open an export folder, on the first GPU where there is one and no other device is named.

    Raises:
        HistotuneError: it is no export, of another version, or changed after it was written.
    """
    folder = Path(folder).absolute()
    path = folder / EXPORT
    if not path.is_file():
        raise HistotuneError(
            f"{folder} is no export: it has no {EXPORT}. `histotune ensemble STUDY --export FOLDER` writes one"
        )
    info = json.loads(path.read_text(encoding="utf-8"))
    if info.get("format") != FORMAT:
        raise HistotuneError(
            f"{path} has format {info.get('format')!r}, this histotune reads {FORMAT}: export it again"
        )
    if content_digest(folder, info) != info["digest"] or not _onnx_fits(folder, info):
        raise HistotuneError(
            f"{folder} was changed after it was exported: its files do not fit its digest; export it again"
        )
    members = tuple(
        Member(member["trial"], member["temperature"], load_model(folder / member["folder"], device))
        for member in info["members"]
    )
    ensemble = ENSEMBLES.build(info["strategy"], **info["params"])
    ensemble.load_state(info["state"])
    return Export(folder, info, members, ensemble)


def content_digest(folder: Path, info: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits over all that decides the probabilities and labels of an export."""
    decisive = ("strategy", "params", "state", "members", "classes", "positive", "threshold", "resize")
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


def _onnx_fits(folder: Path, info: Mapping[str, Any]) -> bool:
    """Whether an ONNX graph beside the members is the one that was checked; who took it away may."""
    path = folder / ONNX
    return not path.exists() or file_digest(path) == info.get("onnx", {}).get("sha256")


def image_paths(images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """List the image files that are meant, as text.

    Raises:
        DataError: there are none.
    """
    if not isinstance(images, (str, os.PathLike)):
        if not len(images):
            raise DataError("the list of images is empty")
        return [os.fspath(path) for path in images]
    root = Path(images)
    if root.is_dir():
        found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise DataError(f"{root} and its subfolders hold no image files ({', '.join(sorted(SUFFIXES))})")
        return [str(path) for path in found]
    if not root.exists():
        raise DataError(f"{root} does not exist: name an image, a folder of images, or a CSV with a column 'path'")
    return _listed(root) if root.suffix.lower() == ".csv" else [str(root)]


def _listed(file: Path) -> list[str]:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{file} is no CSV file: {error}") from error
    if "path" not in table:
        raise DataError(f"{file} has no column 'path'; it has: {', '.join(map(str, table.columns))}")
    if table.empty:
        raise DataError(f"{file} lists no images")
    return [str(file.parent / path) for path in table["path"]]


def _stacked(sized: Sequence[Mapping[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Turn a list of {size: [S, S, 3]} into {size: [n, S, S, 3]}."""
    return {size: np.stack([image[size] for image in sized]) for size in (sized[0] if sized else ())}


def _words(problem: Mapping[str, str]) -> str:
    return f"{problem['path']}: {problem['kind']}: {problem['reason']}"
