"""What is known of images besides their pixels: patient, place and class, and where they stand in an export's study."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.data.splits import TEST, TRAIN, VAL
from histotune.errors import DataError, suggest
from histotune.exports.model import Export
from histotune.ingest.datasets.idc import CLASSES, read_name
from histotune.ingest.new_cases import ImageFiles, image_paths
from histotune.ingest.walk import summary
from histotune.storage.study_folder import StudyFolder

_MEANING = {
    TRAIN: "the model was fitted to them, so they say nothing of how it does on new patients",
    VAL: "the best epoch, temperature and threshold were chosen on them, so they flatter the model",
    TEST: "the model has seen nothing of them",
}
PASSED_OVER = "passed_over"  # of a table's `attrs`: what else a folder of images holds
_NOTHING: Mapping[str, Any] = {"path": "", "name": "", "patient": "", "x": np.nan, "y": np.nan, "truth": ""}


def listed(images: ImageFiles, classes: Sequence[str]) -> pd.DataFrame:
    """List images with what their file names, or the columns of a CSV, tell.

    File names of the Kaggle layout (`PATIENT_idx5_xX_yY_classC.png`) tell patient, place and class. A CSV with a column
    `path` may tell `patient`, `x`, `y` (pixels in the slide) and `label` (a class name), too, and then decides.

    Returns:
        One row per image: `path` ("" for an array), `name` (silent about the class where that is possible), `patient`
        ("" where unknown), `x` and `y` (NaN where unknown), `truth` (a class name, "" where unknown).
        `attrs` says of a folder what else it holds.

    Raises:
        DataError: there are no images; a place that is no number; a label that is no class of the model.
    """
    if isinstance(images, np.ndarray):
        return pd.DataFrame([{**_NOTHING, "name": f"image {number}"} for number in range(len(images))])
    paths, passed_over = image_paths(images)
    root = Path(images) if isinstance(images, (str, os.PathLike)) and Path(images).is_dir() else None
    table = pd.DataFrame([{**_NOTHING, "path": path, **_from_name(path, root, classes)} for path in paths])
    table = table.astype({"x": float, "y": float})
    table.attrs[PASSED_OVER] = summary(passed_over)
    if isinstance(images, (str, os.PathLike)) and Path(images).suffix.lower() == ".csv":
        _take_columns(table, Path(images), classes)
    return table


def _from_name(path: str, root: Path | None, classes: Sequence[str]) -> dict[str, Any]:
    text = read_name(Path(path).name)
    if text is None:
        return {"name": str(Path(path).relative_to(root)) if root else Path(path).name}
    label = CLASSES[text["label"]]
    known = {"name": text["id"], "patient": text["patient"], "x": text["x"], "y": text["y"]}
    return {**known, "truth": label if label in classes else ""}


def _take_columns(table: pd.DataFrame, file: Path, classes: Sequence[str]) -> None:
    given = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    for column, target in (("patient", "patient"), ("label", "truth")):
        if column in given:
            table[target] = given[column].where(given[column] != "", table[target])
    unknown = sorted(set(table["truth"]) - {"", *classes})
    if unknown:
        raise DataError(f"{file}: label {unknown[0]!r} is no class of the model. {suggest(unknown[0], classes)}")
    for column in {"x", "y"} & set(given):
        numbers = pd.to_numeric(given[column], errors="coerce")
        wrong = given.index[numbers.isna() & (given[column] != "")]
        if len(wrong):
            value = given[column][wrong[0]]
            raise DataError(f"{file}, line {wrong[0] + 2}: {column} {value!r} is no place in pixels")
        table[column] = numbers.where(numbers.notna(), table[column])


@dataclass(frozen=True)
class Standing:
    """Where images stand in the study that made an export.

    Attributes:
        store: the study; None where its folder is gone, and then nothing else is known.
        ids: name of each image in the study, "" for one that is not in it.
        parts: `train`, `val` or `test`, "" for an image that is not in the study.
    """

    store: StudyFolder | None
    ids: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def sealed(self) -> np.ndarray:
        """Which images are of the sealed test set, bool [n]."""
        return np.array([part == TEST for part in self.parts], bool)


def standing(model: Export, contents: Sequence[str], patients: Sequence[str]) -> Standing:
    """Find images in the study of an export by their pixels.

    An image that is not found there, such as a cut-off one that the study completed, stands where the others of its
    patient stand, and in the test part if any of them does.

    Args:
        model: the export.
        contents: digest of each image's pixels, as `content_digest` returns it.
        patients: as `listed` knows them, "" where unknown.
    """
    store, made_in = StudyFolder(model.study_folder), model.info["study"]
    nothing = ("",) * len(contents)
    if not store.exists() or store.settings.created != made_in["created"]:
        return Standing(None, nothing, nothing)
    table = store.split.drop_duplicates("content").set_index("content")
    if store.settings.folds:  # of the models that are averaged all but one trained on it
        table["part"] = table["part"].replace(VAL, TRAIN)
    known: Mapping[str, Mapping[str, str]] = table[["id", "part"]].to_dict("index")  # type: ignore[assignment]
    result = [known.get(content, {"id": "", "part": ""}) for content in contents]
    of_patient: dict[str, str] = {}
    for row, patient in zip(result, patients, strict=True):
        if patient and row["part"] and of_patient.get(patient) != TEST:
            of_patient[patient] = row["part"]
    parts = tuple(row["part"] or of_patient.get(patient, "") for row, patient in zip(result, patients, strict=True))
    return Standing(store, tuple(row["id"] for row in result), parts)


def with_truth(
    model: Export, table: pd.DataFrame, stands: Standing, seal: str | None
) -> tuple[pd.DataFrame, list[str]]:
    """Name images as their study does, leave sealed truth out or have it on record, and say what a reader must know.

    Args:
        model: the export.
        table: as `listed` returns it.
        stands: where its rows stand.
        seal: what the record shall say was called, if sealed truth may be shown.
    """
    named = table.assign(name=[known or name for known, name in zip(stands.ids, table["name"], strict=True)])
    if stands.store is None:
        return named, [
            f"The study {model.study!r} that made this model is not at {model.study_folder}: whether the model was "
            "trained on these images is not known."
        ]
    notes = []
    count = len(table)
    for part, meaning in _MEANING.items():
        if number := stands.parts.count(part):
            notes.append(f"{number} of {count} images stand in the {part} part of study {model.study!r}: {meaning}.")
    if number := stands.parts.count(""):
        notes.append(f"{number} of {count} images stand in no part of study {model.study!r}.")
    if model.info["split"]["leaky"] and number < count:
        notes.append("The split is leaky: patients stand on both sides of it.")
    hidden = stands.sealed & (named["truth"] != "").to_numpy()
    if hidden.any() and seal is None:
        named.loc[hidden, "truth"] = ""
        notes.append(
            f"The test part is sealed: the true classes of {hidden.sum()} images are left out. `--open-seal` shows "
            "them, and has it written down in the study's record."
        )
    elif hidden.any() and seal is not None:
        before = stands.store.record_opening(seal, model.digest, f"true classes of {hidden.sum()} images")
        notes.append(
            f"The true classes of {hidden.sum()} images of the sealed test set are shown; that is opening "
            f"{before + 1} in the study's record. To choose a model by what is seen here makes its test result "
            "optimistic."
        )
    return named, notes
