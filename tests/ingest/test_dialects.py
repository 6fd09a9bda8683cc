"""A table is read alike however it was written: separators, decimal signs, encodings, blank lines, missing cells."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from histotune.errors import DataError
from histotune.ingest.datasets._manifest import read_manifest
from histotune.ingest.tables import TableFile, known_columns, read_known, read_rows

MISSING = ("", "NA", "n/a", "[Not Available]", "[Unknown]", "nan", "null", "--", "?")


def write(
    path: Path,
    rows: list[list[str]],
    *,
    separator: str = ",",
    encoding: str = "utf-8",
    blank: int = 0,
    trailing: bool = False,
    newline: str = "\n",
) -> None:
    ending = separator if trailing else ""
    text = newline * blank + "".join(separator.join(row) + ending + newline for row in rows)
    path.write_bytes(text.encode(encoding))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    blank=st.integers(0, 2),
    trailing=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
    missing=st.sampled_from(MISSING),
    comma=st.booleans(),
)
def test_every_dialect_gives_the_same_table(
    separator: str, encoding: str, blank: int, trailing: bool, newline: str, missing: str, comma: bool, tmp_path: Path
) -> None:
    values = [0.5, 12.25, -3.0, None, 1e3, 7.0]
    decimal = "," if comma and separator != "," else "."
    cells = [missing if value is None else f"{value:.2f}".replace(".", decimal) for value in values]
    words = ["Größe", "klein", "klein", missing, "Größe", "klein"]
    rows = [["id", "size", "word"], *([f"c{at}", cells[at], words[at]] for at in range(6))]
    write(
        tmp_path / "t.csv",
        rows,
        separator=separator,
        encoding=encoding,
        blank=blank,
        trailing=trailing,
        newline=newline,
    )
    read = read_rows(tmp_path, TableFile("t.csv", id="id"), "")
    assert [column.name for column in read.table.columns] == ["size", "word"]
    assert [column.categories for column in read.table.columns] == [None, ("Größe", "klein")]
    np.testing.assert_array_equal(read.table.values[:, 0], np.array([0.5, 12.25, -3, np.nan, 1e3, 7], np.float32))
    np.testing.assert_array_equal(read.table.values[:, 1], np.array([0, 1, 1, np.nan, 0, 1], np.float32))


@pytest.mark.parametrize("truth", [("TRUE", "FALSE"), ("true", "false"), ("True", "False")])
@pytest.mark.parametrize("gap", [True, False])
def test_truth_values_are_known_again(truth: tuple[str, str], gap: bool, tmp_path: Path) -> None:
    """They are numbers, with a gap words; a model that learned either knows them in a file with or without a gap."""
    cells = [truth[at % 2] for at in range(6)]
    if gap:
        cells[3] = ""
    write(tmp_path / "t.csv", [["id", "er"], *([f"c{at}", cell] for at, cell in enumerate(cells))])
    table = read_rows(tmp_path, TableFile("t.csv", id="id"), "").table
    assert table.columns[0].categories == (("False", "True") if gap else None)
    expected = np.array([1, 0, 1, np.nan if gap else 0, 1, 0], np.float32)
    np.testing.assert_array_equal(table.values[:, 0], expected)
    for kind in ("numbers", "categories"):
        known = read_known(tmp_path / "t.csv", {"er": kind}, ["er"]).table
        np.testing.assert_array_equal(known.values[:, 0], expected)
        assert known.columns[0].categories == (("False", "True") if kind == "categories" else None)


def test_a_receptor_of_plus_and_minus_is_no_gap(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [["id", "er"], *([f"c{at}", "+-"[at % 2]] for at in range(6))])
    assert read_rows(tmp_path, TableFile("t.csv", id="id"), "").table.columns[0].categories == ("+", "-")


def test_a_thousands_comma_is_no_decimal_comma(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [["id", "n"], *([f"c{at}", f'"1,{at}00"'] for at in range(4))])
    assert read_rows(tmp_path, TableFile("t.csv", id="id"), "").table.columns[0].categories is not None


def test_numbers_that_become_words_are_named(tmp_path: Path) -> None:
    cells = ["5", "10", "low", "low", "high", "high", "high"]
    write(tmp_path / "t.csv", [["id", "ki67"], *([f"c{at}", cell] for at, cell in enumerate(cells))])
    notes = read_rows(tmp_path, TableFile("t.csv", id="id"), "").notes
    assert notes == [
        "t.csv, column 'ki67': 2 cells are numbers and 5 are words such as 'low'; it is read as categories"
    ]
    assert not read_rows(tmp_path, TableFile("t.csv", id="id", categories=("ki67",)), "").notes


def test_words_that_a_model_does_not_know_are_counted() -> None:
    frame = pd.DataFrame({"stage": ["I", "iii", "iii", None]}, index=list("abcd"))
    with pytest.warns(UserWarning, match=r"column 'stage': 2 of 3 cells .* such as 'iii'; it knows I, II, III"):
        known_columns(Path("new"), frame, {"stage": "categories"}, ["stage"], {"stage": {"I", "II", "III"}})
    with pytest.warns(UserWarning, match="column 'stage': all of 2 cells"):
        known_columns(Path("new"), frame.iloc[1:], {"stage": "categories"}, ["stage"], {"stage": {"I"}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known_columns(Path("new"), frame, {"stage": "categories"}, ["stage"], {"stage": {"I", "iii"}})


def test_the_column_of_ids_is_that_of_training(tmp_path: Path) -> None:
    rows = [["block", "case", "age"], *([f"B{at}", f"C{at}", str(at)] for at in range(4))]
    write(tmp_path / "t.csv", rows)
    assert read_known(tmp_path / "t.csv", {"age": "numbers"}, ["age"], own="case").ids == ["C0", "C1", "C2", "C3"]
    assert read_known(tmp_path / "t.csv", {"age": "numbers"}, ["age"]).ids == ["B0", "B1", "B2", "B3"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("trailing", [True, False])
def test_manifests_are_read_in_the_same_dialects(separator: str, encoding: str, trailing: bool, tmp_path: Path) -> None:
    (tmp_path / "Größe").mkdir()
    for at in range(3):
        Image.new("RGB", (8, 8), (at, 0, 0)).save(tmp_path / "Größe" / f"{at}.png")
    rows = [["path", "label"], *([f"Größe\\{at}.png", "ab"[at % 2]] for at in range(3))]
    write(tmp_path / "m.csv", rows, separator=separator, encoding=encoding, blank=1, trailing=trailing, newline="\r\n")
    read, problems = read_manifest(tmp_path / "m.csv")
    assert [row["path"] for row in read] == [f"Größe/{at}.png" for at in range(3)]
    assert not problems


def test_a_manifest_with_cells_that_have_no_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "m.csv", [["path", "label"], ["a.png", "a", "p1"], ["b.png", "b", "p2"]])
    with pytest.raises(DataError, match="its rows have 3 cells, and its header has 2"):
        read_manifest(tmp_path / "m.csv")
