"""Published figures are the paper's: digit for digit those of a second transcription, each with its table and row, and
beside a row here or with the reason why not."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import pytest

from histotune.core.config import parse
from histotune.errors import ConfigError
from histotune.metrics.scores import METRICS
from histotune.reproductions import papers
from histotune.reproductions.papers import REPRODUCTIONS, PublishedTable, count, published_tables, seconds, unshown
from histotune.reproductions.papers._published import FIRST, SECONDS, SPREAD, published
from histotune.reproductions.papers.loose import STRATEGIES
from histotune.reproductions.papers.loose import row as joined
from histotune.reproductions.report import ResultLine, unpublished, without_a_row
from histotune.reproductions.train import candidates

FOLDER, FIXTURES = Path(papers.__file__).parent, Path(__file__).parents[1] / "fixtures" / "published"
PAPERS = sorted(path.stem for path in FIXTURES.glob("*.csv"))
CELLS = {name: [c for t in published_tables(FOLDER / f"{name}.yaml") for c in t.cells()] for name in PAPERS}


@pytest.mark.parametrize("name", PAPERS)
def test_every_cell_is_that_of_a_second_transcription(name: str) -> None:
    """The fixture was read out of the documents' text by a program, the YAML was written by hand."""
    with (FIXTURES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        read = [(row["table"], row["row"], row["column"], float(row["number"])) for row in csv.DictReader(file)]
    tables = published_tables(FOLDER / f"{name}.yaml")
    written = [(table.name, c.printed_row, c.column, c.number) for table in tables for c in table.cells()]
    assert sorted(written) == sorted(read)


def test_every_reproduction_has_a_second_transcription() -> None:
    assert REPRODUCTIONS.names() >= PAPERS
    assert [name for name in REPRODUCTIONS.names() if published_tables(FOLDER / f"{name}.yaml")] == PAPERS


def test_all_tables_of_cfal_are_there_and_none_is_said_to_be_unknown() -> None:
    names = " ".join(table.name for table in published_tables(FOLDER / "cfal.yaml")).replace(",", " ").split()
    assert {"IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV"} <= set(names)
    assert "not available" not in (FOLDER / "cfal.yaml").read_text(encoding="utf-8")


def test_cross_entropy_is_that_of_table_iv_and_figure_4_is_named_beside_it() -> None:
    row = REPRODUCTIONS.build("cfal").setting("idc").published["CCE"]
    assert row.values == {"macro_precision": 0.80, "macro_recall": 0.74, "macro_f1": 0.76, "accuracy": 0.847}
    assert row.source == ("CFAL Table IV, row Cross-entropy Loss [22]; but macro F1 0.77, accuracy 0.835 in Figure 4")


def shown(name: str, on: str) -> set[tuple[str, str]]:
    """Return (row, metric) of all that a reproduction measures and shows on a setting."""
    own = REPRODUCTIONS.build(name)
    setting = own.setting(on)
    if own.compare is not None:
        several = (one for n in range(2, 5) for one in itertools.combinations(setting.singles, n))
        rows = [*setting.singles, *(joined(one, way) for one in several for way in STRATEGIES)]
        return {(row, metric) for row in rows for metric in ("auroc", "accuracy")}
    rows = [*(setting.contenders or own.contenders), *own.ensembles]
    tables = own.written(elsewhere=bool(setting.external))
    result = {(row, metric) for table in tables for row in table.rows for metric in table.metrics if row in rows}
    return result | {(row, what) for row in own.contenders for what in (SECONDS, SPREAD, FIRST)}


@pytest.mark.parametrize("name", PAPERS)
def test_a_number_stands_beside_a_measured_row_or_says_why_not(name: str) -> None:
    for table in published_tables(FOLDER / f"{name}.yaml"):
        assert table.settings, table.name
        for cell in table.cells():
            for on in table.settings:
                assert ((cell.row, cell.metric) in shown(name, on)) is (not cell.why), (on, cell)


@pytest.mark.parametrize(("on", "space"), [("idc", "idc_losses"), ("crc", "crc_losses")])
def test_the_first_trials_have_the_values_of_table_ix(on: str, space: str) -> None:
    words = {"Beta": "beta", "Lambda": "lambda", "Sigma": "sigma", "Gamma": "gamma", "Scaling": "scale"}
    own = REPRODUCTIONS.build("cfal")
    first = [cell for table in own.setting(on).printed_tables for cell in table.cells() if cell.metric == FIRST]
    assert len(first) == 10
    for cell in first:
        loss = candidates(space, own.contenders[cell.row], 1)[0].to_dict()["loss"]
        what = cell.printed_row.partition(", ")[2]
        sphere = 1 if cell.row == "SphereFace" else 0  # its margin is read as 1 + m
        assert loss[words.get(what, "margin")] == pytest.approx(cell.number + (sphere if what not in words else 0))


def test_the_numbers_are_counted() -> None:
    counts = {name: count(published_tables(FOLDER / f"{name}.yaml")) for name in PAPERS}
    for name, (beside, apart) in counts.items():
        assert beside + sum(apart.values()) == len(CELLS[name])
    assert {name: beside for name, (beside, _) in counts.items()} == {
        "cfal": 177,
        "cmaf": 4,
        "loose": 18,
        "subtyping": 0,
    }
    assert sum(map(len, CELLS.values())) == 275


# --- what a table of a paper becomes


def table(name: str, rows: dict[str, list[float | None]], **further: Any) -> PublishedTable:
    values: dict[str, Any] = {
        "about": "",
        "columns": {"F1": "macro_f1", "Acc (%)": "accuracy"},
        "rows": rows,
        **further,
    }
    return parse(PublishedTable, values | {"paper": "P", "name": name, "same": {"a": "A", "b": "B"}}, name)


def test_the_first_number_counts_and_others_are_named() -> None:
    tables = [
        table("Table I", {"a": [0.76, None], "c": [0.5, 50]}, apart={"c": "unknown"}),
        table("Table II", {"a": [0.765, 84.7]}),
        table("Table III", {"a": [0.77, 84.68], "b": [None, 91]}),
    ]
    rows = published(tables, "nothing else")
    assert {row: dict(one.values) for row, one in rows.items()} == {
        "A": {"macro_f1": 0.76, "accuracy": 0.847},
        "B": {"accuracy": 0.91},
    }
    assert rows["A"].source == "P Table I, row a; P Table II, row a; but macro F1 0.77 in Table III"
    assert rows["B"].source == "P Table III, row b"
    assert unshown(tables) == [("P Table I, row c", "F1 0.5; Acc (%) 50", "unknown")]


def test_seconds_and_their_spread_stand_together() -> None:
    one = table("Table I", {"a": [53, 1.1]}, columns={"mean": SECONDS, "SD": SPREAD})
    assert seconds([one]) == {"A": ("53 ± 1.1", "P Table I, row a")}


def test_a_report_says_why_a_number_is_missing() -> None:
    own = REPRODUCTIONS.build("cfal")
    rows = own.setting("crc_long_tail").published
    lines = [ResultLine(one, 1, {}, rows.get(one), None, None) for one in ("CCE", "L_a")]
    said = unpublished(own.tables[2], lines)
    assert said.startswith(
        "Nothing is published of rows that say nowhere and in accuracy: CFAL prints of the long tail"
    )
    assert unpublished(own.tables[1], lines).startswith("No number of this table is published: CFAL prints")
    (section,) = without_a_row(own.setting("crc"))
    assert ["Cross entropy [13] 0.8; L_cfal 0.885; Ensemble: Voting Strategy 0.863"] in [
        row[:1] for row in section.rows
    ]
    assert all(all(row) for row in section.rows)


def test_the_summary_names_the_table_and_row_of_its_number() -> None:
    line = ResultLine("CCE", 1, {}, REPRODUCTIONS.build("cfal").setting("idc").published["CCE"], None, None)
    written = line.summary("macro_f1", "CCE")
    assert (written["published"], written["published in"]) == ("0.760", "CFAL Table IV, row Cross-entropy Loss [22]")
    assert line.summary("auroc", "CCE")["published in"] == ""


@pytest.mark.parametrize("name", PAPERS)
def test_a_setting_with_published_numbers_says_why_there_are_no_others(name: str) -> None:
    for on, setting in REPRODUCTIONS.build(name).settings.items():
        assert bool(setting.unpublished) or not setting.published, on
        assert setting.printed_tables or any("ublished" in remark for remark in setting.remarks()), on
        assert all(set(row.values) <= set(METRICS) for row in setting.published.values())


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"rows": {"a": [0.5]}}, "'a' has 1 numbers, and not 2"),
        ({"columns": {"F1": "f1", "Acc (%)": "accuracy"}}, "no row, column or metric 'f1'"),
        ({"apart": {"d": "why"}}, "no row, column or metric 'd'"),
        ({"read_as": {"a": ["accuracy"]}}, "'a' has 1 columns, and not 2"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(further: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table("Table I", **{"rows": {"a": [0.5, 50]}, **further})
