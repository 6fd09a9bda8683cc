"""One class and one patient have one spelling, a missing cell is no class, and the user's own split is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histotune.core.runtime import Places
from histotune.data.cohort import Cohort, read_labels
from histotune.errors import DataError
from histotune.ingest.datasets import DATASETS
from histotune.ingest.prepare import prepare
from histotune.ingest.spellings import is_missing, refuse_spellings, spelling
from histotune.space import read_space
from histotune.studies.create import StudyRequest, begin


def manifest(folder: Path, **columns: list[str]) -> Path:
    """Write as many different images as a column is long, and a manifest of them."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    rng = np.random.default_rng(count)
    for number in range(count):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    pd.DataFrame({"path": [f"{number}.png" for number in range(count)], **columns}).to_csv(
        folder / "m.csv", index=False
    )
    return folder / "m.csv"


def prepared(file: Path, **options: Any) -> Cohort:
    return prepare(DATASETS.build("image_folder", **options), file, image_size=16, cache=file.parent / "cache")


@given(st.text(min_size=1, max_size=12))
def test_case_and_blanks_make_no_other_spelling(name: str) -> None:
    assert spelling(f" {name} ") == spelling(name)
    assert spelling(spelling(name)) == spelling(name)


@given(st.integers(0, 10**6), st.integers(0, 4))
def test_zeros_make_no_other_number(number: int, zeros: int) -> None:
    for written in (f"{number:0{zeros + 7}}", f"{number}.0", f"{number}.", f"+{number}"):
        assert spelling(written) == spelling(str(number))
    assert spelling(str(number + 1)) != spelling(str(number))


OTHERS = [("p1", "p11"), ("1.5", "1"), ("-1", "1"), ("a", "b"), ("A2", "A-2"), ("1", "1,000")]
OTHERS += [("HER2", "HER2-"), ("HER2+", "HER2-"), ("+", "-")]


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_other_names_are_other_names(one: str, other: str) -> None:
    refuse_spellings([one, other], "the classes", "")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Tumor", "tumor"), ("benign", "benign "), ("0", "0.0"), ("not tumor", "Not-Tumor"), ("7", "007")],
)
def test_two_spellings_of_a_class_are_refused(one: str, other: str, tmp_path: Path) -> None:
    labels = [one, other, "x"] * 4
    if one.strip() == other.strip():  # a manifest's cells are stripped; folders' names are not
        for number, name in enumerate(labels):
            (tmp_path / "img" / name).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "img" / name / f"{number}.png")
        file = tmp_path / "img"
    else:
        file = manifest(tmp_path / "img", label=labels)
    with pytest.raises(DataError, match=r"the classes .* differ only in how they are written"):
        prepared(file)


@pytest.mark.parametrize(
    ("one", "other"), [("7", "7.0"), ("TCGA-A2-0001", "tcga-a2-0001"), ("007", "7"), ("P 1", "P_1")]
)
def test_two_spellings_of_a_patient_are_refused(one: str, other: str, tmp_path: Path) -> None:
    patients = [one, other, "q"] * 4
    with pytest.raises(DataError, match=r"the patients .* differ only in how they are written"):
        prepared(manifest(tmp_path / "img", label=["a", "b"] * 6, patient=patients))


@pytest.mark.parametrize("cell", ["NA", "n/a", "[Not Available]", "[Unknown]", "unknown", "nan", "--", "?", "missing"])
def test_a_missing_cell_is_neither_a_class_nor_a_patient(cell: str, tmp_path: Path) -> None:
    assert is_missing(cell)
    labels = [*["a", "b"] * 6, cell, "a"]
    patients = [*(f"p{number // 2}" for number in range(12)), "p9", cell]
    cohort = prepared(manifest(tmp_path / "img", label=labels, patient=patients))
    assert (cohort.classes, len(cohort)) == (("a", "b"), 12)
    assert np.bincount(read_labels(cohort)).tolist() == [6, 6]
    assert cohort.facts["left_out"] == {"no_label": 1, "no_patient": 1}


def test_a_column_of_patients_that_are_all_missing_tells_none(tmp_path: Path) -> None:
    cohort = prepared(manifest(tmp_path / "img", label=["a", "b"] * 6, patient=["NA"] * 12))
    assert not cohort.facts["patients_known"]
    assert len(cohort) == 12


def test_the_positive_class_stays_when_a_class_is_missing(tmp_path: Path) -> None:
    file = manifest(tmp_path / "img", label=["?", *["b", "a", "c"] * 4])
    assert prepared(file, positive="c").positive == 2


@pytest.mark.parametrize("own", [True, False])
def test_the_split_that_the_data_bring_is_used(own: bool, tmp_path: Path) -> None:
    patients = [f"p{number // 4}" for number in range(96)]
    columns = {"label": ["a", "b"] * 48, "patient": patients}
    parts = ["test" if number >= 72 else "val" if number >= 48 else "train" for number in range(96)]
    file = manifest(tmp_path / "img", **columns, **({"split": parts} if own else {}))
    space = read_space({"dataset": "image_folder", "image_size": 16}, "own")
    places = Places(tmp_path / "runs", tmp_path / "cache")
    store, _ = begin(StudyRequest(space, str(file)), "one", places)
    assert store.settings.protocol == ("given" if own else "patient")
    if own:
        split = store.split.set_index("patient")["part"]
        assert {split[f"p{number}"].iloc[0] for number in range(18, 24)} == {"test"}
        other, _ = begin(StudyRequest(space, str(file), protocol="patient"), "two", places)
        assert other.settings.protocol == "patient"
