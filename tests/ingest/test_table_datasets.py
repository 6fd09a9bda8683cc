"""Tables joined on a case id: who misses what is said, what cannot be read is refused by file, row and column."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotune.data.cohort import read_labels
from histotune.data.modalities.table import TableColumn
from histotune.errors import ConfigError, DataError
from histotune.ingest.datasets import DATASETS, Listing
from histotune.ingest.datasets._description import describe
from histotune.ingest.datasets._join import Join, Target
from histotune.ingest.datasets.tcga_brca import RECEPTORS
from histotune.ingest.prepare import prepare
from histotune.ingest.tables import TableFile, read_rows

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Factory of a folder with labels.csv (a, b, c, d; classes x, y) and genes.csv, each with the given text."""

    def build(genes: str = "id,g1,g2\na,1,2\nb,2,3\nc,3,4\n", labels: str = "id,y\na,x\nb,y\nc,x\nd,y\n") -> Path:
        (tmp_path / "labels.csv").write_text(labels)
        (tmp_path / "genes.csv").write_text(genes)
        return tmp_path

    return build


def joined(root: Path, **options: object) -> Listing:
    target = Target("labels.csv", "y", id="id")
    return Join(target, {"genes": TableFile("genes.csv", id="id", **options)}, "Download it.").listing(root)  # type: ignore[arg-type]


def columns_of(root: Path, text: str, **options: object) -> dict[str, tuple[TableColumn, list[float]]]:
    (root / "t.csv").write_text(text)
    table = read_rows(root, TableFile("t.csv", id="id", **options), "").table  # type: ignore[arg-type]
    return {column.name: (column, table.values[:, at].tolist()) for at, column in enumerate(table.columns)}


# one file


def test_numbers_and_categories_are_told_apart(tmp_path: Path) -> None:
    text = "id;age;stage;empty;flag\n1;50;II;;True\n2;;I;;False\n03;6e1; II ;NA;True\n"
    result = columns_of(tmp_path, text)
    assert {name: column.categories for name, (column, _) in result.items()} == {
        "age": None,
        "stage": ("I", "II"),
        "empty": None,
        "flag": None,
    }
    assert result["stage"][1] == [1, 0, 1]
    assert np.array_equal(result["age"][1], [50, np.nan, 60], equal_nan=True)
    assert result["flag"][1] == [1, 0, 1]
    assert np.isnan(result["empty"][1]).all()


def test_a_column_may_be_said_to_be_of_categories(tmp_path: Path) -> None:
    result = columns_of(tmp_path, "id,grade,er\na,01,1\nb,2,0\nc,,1\n", categories=("gra*",))
    assert result["grade"][0].categories == ("01", "2")
    assert result["er"][0].categories is None


def test_a_feature_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('case,id,"a[2]",a1\nx,1,2,3\ny,2,3,5\n')
    for file, left in (
        (TableFile("t.csv", id="case", exclude={"a[2]": "a reason"}), ["id", "a1"]),
        (TableFile("t.csv", id="case", include=("a[12]", "i?")), ["id", "a1"]),
    ):
        rows = read_rows(tmp_path, file, "")
        assert (rows.ids, [column.name for column in rows.table.columns]) == (["x", "y"], left)


def test_tabs_parquet_and_compression_are_read_alike(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "n": [1.5, np.nan], "w": ["u", "v"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.assign(w=frame["w"].astype("category")).to_parquet(tmp_path / "c.parquet")
    names = ["t.csv", "t.tsv", "t.csv.gz", "t.parquet", "c.parquet"]
    first, *others = (read_rows(tmp_path, TableFile(name, id="id"), "") for name in names)
    for other in others:
        assert other.ids == first.ids == ["a", "b"]
        assert other.table.columns == first.table.columns
        assert np.array_equal(other.table.values, first.table.values, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,age\na,50\nb,fifty\nc,51\nd,52\n", "row 'b', column 'age': 'fifty' is no number"),
        ("id,age\na,50\nb,1e40\n", "row 'b', column 'age': 1e[+]40 is infinite"),
        ("id,age\na,-inf\nb,1\n", "row 'a', column 'age': -inf is infinite"),
        ("id,age,sex,age\na,1,m,2\n", "1 column names stand more than once: age"),
        ("id,age\n", "is an empty table: it has 2 columns and no row"),
        ("id,age\n,3\n", "is an empty table: no row has an id"),
        ("", "is an empty table: it has 0 columns and no row"),
        ("case,age\na,3\n", "has no column 'id'"),
        ("id,age\na,3\na,4\nb,1\n", "1 ids in column 'id' stand in several rows that differ: a"),
        ("id,age\na,3,9\nb,1\n", "is no table that can be read"),
        ("id\na\n", "no column is left|has no column that matches"),
    ],
)
def test_what_cannot_be_read_is_named(write: Write, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        joined(write(genes=text))
    assert "genes.csv" in str(caught.value)


def test_a_damaged_file_is_no_table(tmp_path: Path) -> None:
    for name, content in (
        ("t.csv.gz", b"no gzip"),
        ("u.csv.gz", gzip.compress(b"id,a\n1,2\n" * 99)[:30]),
        ("t.parquet", b"PAR1"),
        ("t.csv", b"id,a\n\x001,2\n"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is no table that can be read"):
            read_rows(tmp_path, TableFile(name, id="id"), "")


def test_names_are_no_categories(tmp_path: Path) -> None:
    text = "id,barcode\n" + "\n".join(f"{at},x{at}" for at in range(60))
    with pytest.raises(DataError, match="'barcode' holds 60 different words in 60 cases, such as 'x0'"):
        columns_of(tmp_path, text)
    result = columns_of(tmp_path, text, categories=("barcode",))
    assert len(result["barcode"][0].categories or ()) == 60


def test_patterns_that_match_nothing_are_refused(write: Write) -> None:
    for options in ({"include": ("h*",)}, {"exclude": {"G1": ""}}, {"numbers": ("g3",)}, {"categories": ("x",)}):
        with pytest.raises(DataError, match=r"genes\.csv has no column that matches"):
            joined(write(), **options)


def test_rows_that_repeat_and_columns_without_a_name_leave_with_a_note(write: Write) -> None:
    root = write(genes=",id,g1\n0,a,1\n1,b,2\n2,b,2\n3,,5\n")
    report = joined(root).facts["report"]
    assert "genes: 1 column without a name is left out" in report
    assert "genes: 1 rows without an id left out" in report
    assert "genes: 1 rows that repeat another left out" in report


# the join


def test_who_misses_what_is_said(write: Write) -> None:
    root = write(genes="id,g1,g2\na,1,2\nb,2,3\nc,,\nq,3,4\n", labels="id,y\na,x\nb,y\nc,x\nd,y\ne,\n")
    listing = joined(root)
    assert listing.table["id"].tolist() == ["a", "b"]
    assert [(p.path, p.kind) for p in listing.problems] == [
        ("labels.csv: e", "no_label"),
        ("labels.csv: c", "no_modality"),  # a row without any value is no modality
        ("labels.csv: d", "no_modality"),
    ]
    assert listing.facts["report"] == [
        "2 cases with a label and a modality; 2 have every modality",
        "genes: 1 ids of genes.csv are no case with a label (q)",
        "2 cases with a label have no modality and are left out (c, d)",
    ]
    assert [path for path, _, _ in listing.sources] == ["genes.csv", "labels.csv"]


def test_ids_that_do_not_match_are_shown_from_both_sides(write: Write) -> None:
    root = write(genes="id,g1\nA1,1\nA2,2\nA3,3\nA4,5\n")
    with pytest.raises(DataError, match=r"absent for everybody.*A1, A2, A3, \.\.\..*a, b, c, \.\.\."):
        joined(root)


def test_a_modality_without_values_is_absent_for_everybody(write: Write) -> None:
    with pytest.raises(DataError, match=r"'genes' is absent for everybody: genes\.csv has 2 empty rows"):
        joined(write(genes="id,g1\na,\nb,\nq,1\n"))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("id,y\na,x\nb,x\nd,y\n", "2 are 'x', 0 are 'y': that is one class"),
        ("id,y\na,x\nb,y\nd,z\n", "none is 'z': leave that class out"),
        ("id,z\na,x\n", "has no column 'y'. Did you mean|has no column 'y'. Known: id, z"),
        ("id,y\na,x\na,y\n", "1 ids stand in several rows that differ: a"),
        ("id,y\n", "is an empty table"),
    ],
)
def test_labels_that_make_no_target_are_refused(write: Write, labels: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        joined(write(labels=labels))


def test_a_missing_file_says_what_to_download(write: Write) -> None:
    root = write()
    (root / "genes.csv").unlink()
    with pytest.raises(DataError, match=r"genes\.csv does not exist\. Download it\."):
        joined(root)


# table


def test_own_tables_are_joined_as_described(own_tables: Path, tmp_path: Path) -> None:
    cohort = prepare(DATASETS.build("table"), own_tables, image_size=16, cache=tmp_path / "cache")
    assert cohort.kinds == {"genes": "table", "clinic": "table"}
    assert cohort.classes == ("high", "low")
    assert cohort.table["patient"].nunique() == 15
    assert set(cohort.table["site"]) == {"X"}
    assert (cohort.present["genes"].sum(), cohort.present["clinic"].sum()) == (25, 25)
    assert [column.name for column in cohort.arrays["genes"].columns] == ["TP53", "PTEN"]
    clinic = cohort.arrays["clinic"]
    assert {column.name: column.categories for column in clinic.columns} == {
        "age": None,
        "stage": ("0", "1", "2"),
        "sex": ("f", "m"),
    }
    assert np.isnan(clinic.values[:5]).all()  # 000 to 004 have no row in the Parquet file
    assert np.array_equal(clinic.values[5:, 0], np.arange(25.0))
    assert read_labels(cohort).tolist() == [1, 0] * 15
    assert "genes: left out batch: cohort.yaml says so" in cohort.facts["report"]


def test_the_example_of_the_manual_is_a_description(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorials" / "own-images.md").read_text(encoding="utf-8")
    example = "#" + page.split("```yaml\n# cohort.yaml")[1].split("```")[0]
    (tmp_path / "cohort.yaml").write_text(example)
    join = describe(tmp_path / "cohort.yaml")
    assert join.tables["clinical"].categories == ("grade",)
    assert list(join.tables["genes"].exclude) == ["*_batch"]
    assert (join.target.column, join.target.patient, join.tables["genes"].id) == ("subtype", "patient", "case")


@pytest.mark.parametrize("written", ["all.csv", "./all.csv"])
def test_the_label_in_the_same_file_is_no_input(tmp_path: Path, written: str) -> None:
    """One CSV with everything: the label, and what names patient, site and part, are left out of its modality."""
    rows = [f"P{at:02};{at % 7},5;{at};{'ab'[at % 2]};{'XY'[at % 2]};train" for at in range(20)]
    (tmp_path / "all.csv").write_text("\n".join(["case;age;marker[1];grade[A];hospital;part", *rows]))
    (tmp_path / "cohort.yaml").write_text(
        "id: case\ntarget: {file: all.csv, column: 'grade[A]', patient: case, site: hospital, part: part}\n"
        f"modalities: {{clinical: {{file: {written}}}}}\n"
    )
    cohort = prepare(DATASETS.build("table"), tmp_path / "cohort.yaml", image_size=16, cache=tmp_path / "cache")
    assert [column.name for column in cohort.arrays["clinical"].columns] == ["age", "marker[1]"]
    assert "clinical: left out grade[A]: it is the label" in cohort.facts["report"]


def test_a_table_in_place_of_its_description_is_refused_in_few_words(own_tables: Path) -> None:
    with pytest.raises(ConfigError, match=r"labels\.csv is a table, and a YAML file is needed .* column: LABEL_COLUMN"):
        DATASETS.build("table").scan(own_tables.parent / "labels.csv")
    long = own_tables.parent / "long.yaml"
    long.write_text("word " * 5000)
    with pytest.raises(ConfigError, match="must be a mapping of id, target, modalities, got") as caught:
        DATASETS.build("table").scan(long)
    assert len(str(caught.value)) < 400


def test_a_changed_table_is_another_cohort(own_tables: Path, tmp_path: Path) -> None:
    first = prepare(DATASETS.build("table"), own_tables, image_size=16, cache=tmp_path / "cache")
    genes = pd.read_csv(own_tables.parent / "genes.csv", dtype={"case": str})
    genes.loc[3, "TP53"] = 9.0
    genes.to_csv(own_tables.parent / "genes.csv", index=False)
    second = prepare(DATASETS.build("table"), own_tables.parent, image_size=16, cache=tmp_path / "cache")
    assert second.folder != first.folder
    changed = second.table["content"] != first.table["content"]
    assert np.flatnonzero(changed).tolist() == [3]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("target:", "targets:", "has no key 'targets'. Did you mean 'target'"),
        ("column: grade, ", "", "target needs the key 'column'"),
        ("exclude: [batch]", "exclude: batch", "modalities.genes.exclude must be a list"),
        ("exclude:", "exlude:", "modalities.genes has no key 'exlude'. Did you mean 'exclude'"),
        ("  genes:", "  my genes:", "a modality's name is letters"),
        ("id: case", "id: 2.5", "id must be a word, got 2.5"),
        ("target: {", "target: {{", "is no YAML"),
    ],
)
def test_a_description_is_strict(own_tables: Path, old: str, new: str, said: str) -> None:
    own_tables.write_text(own_tables.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=said) as caught:
        DATASETS.build("table").scan(own_tables)
    assert "cohort.yaml" in str(caught.value)


def test_classes_positive_and_part_can_be_given(own_tables: Path) -> None:
    labels = own_tables.parent / "labels.csv"
    frame = pd.read_csv(labels, dtype=str).assign(set=["train", "Validation", "test"] * 10)
    frame.loc[7, "grade"] = "middle"
    frame.to_csv(labels, index=False)
    text = own_tables.read_text()
    more = "column: grade, part: set, classes: [low, high], positive: low"
    own_tables.write_text(text.replace("column: grade", more))
    listing = DATASETS.build("table").scan(own_tables)
    assert (listing.classes, listing.positive) == (("low", "high"), 0)
    assert listing.table["part"].tolist()[:3] == ["train", "val", "test"]
    assert [(p.path, p.kind) for p in listing.problems] == [("labels.csv: 007", "other_class")]
    own_tables.write_text(text.replace("column: grade", "column: grade, classes: [low, hihg]"))
    with pytest.raises(DataError, match=r"no case has the class 'hihg' in column 'grade'\. Did you mean 'high'"):
        DATASETS.build("table").scan(own_tables)
    own_tables.write_text(text.replace("column: grade", "column: grade, part: hospital"))
    with pytest.raises(DataError, match="column 'hospital' holds 'X'"):
        DATASETS.build("table").scan(own_tables)


def test_patients_that_are_not_named_are_said_to_be_unknown(own_tables: Path) -> None:
    own_tables.write_text(own_tables.read_text().replace("patient: who, ", ""))
    assert not DATASETS.build("table").scan(own_tables).facts["patients_known"]


# tcga_brca


def test_receptors_outcomes_and_copies_are_no_inputs(tcga_folder: Path, tmp_path: Path) -> None:
    for target in ("pam50", "ihc"):
        for asked in (False, True):
            reader = DATASETS.build("tcga_brca", target=target, include_receptor_status=asked)
            listing = reader.scan(tcga_folder)
            clinical = reader.columns(listing, tcga_folder, tmp_path)["clinical"].stored
            names = {column.name for column in clinical.columns}
            assert names == {"age_dx", "ajcc_t", *(RECEPTORS if asked else ())}
            message = "\n".join(listing.facts["report"])
            assert ("er_ihc, pr_ihc, her2_ihc, her2_fish: receptor status nearly is" in message) != asked
            assert "os_months, os_status, porpoise_survival_months, porpoise_censorship: what became" in message


def test_an_arm_that_reads_rna_reads_its_own_label(tcga_folder: Path) -> None:
    for options, expected in (({}, ["rna"]), ({"target": "ihc"}, None), ({"modalities": "image, cnv"}, None)):
        facts = DATASETS.build("tcga_brca", **options).scan(tcga_folder).facts
        assert facts.get("reads_label") == expected
        assert ("computed from gene expression" in facts["report"][-1]) == bool(expected)


def test_tcga_patients_and_sites_are_read_off_the_barcode(tcga_folder: Path) -> None:
    listing = DATASETS.build("tcga_brca", target="ihc").scan(tcga_folder)
    assert listing.classes == ("HR+/HER2-", "HER2+", "TNBC")
    assert (listing.table["site"] == listing.table["id"].str[5:7]).all()
    assert (listing.table["patient"] == listing.table["id"]).all()
    assert listing.facts["patients_known"]
    assert "rna: absent in 2 cases (TCGA-A2-0001, TCGA-BH-0002)" in listing.facts["report"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "PAM50"}, "unknown target 'PAM50'"),
        ({"modalities": "image,cvn"}, "unknown modality 'cvn'. Did you mean 'cnv'"),
        ({"include_receptor_status": "yes"}, "is true or false"),
    ],
)
def test_tcga_options_are_strict(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DATASETS.build("tcga_brca", **options)


def test_a_missing_table_of_tcga_says_where_to_get_it(tcga_folder: Path) -> None:
    (tcga_folder / "cnv.csv.gz").unlink()
    with pytest.raises(DataError, match=r"cnv\.csv\.gz does not exist\. Download it from .*PORPOISE"):
        DATASETS.build("tcga_brca").scan(tcga_folder)
    assert len(DATASETS.build("tcga_brca", modalities="image").scan(tcga_folder).table)


def test_tcga_real(tcga_brca: Path, tmp_path: Path) -> None:
    cohort = prepare(DATASETS.build("tcga_brca"), tcga_brca, image_size=16, cache=tmp_path)
    assert np.bincount(read_labels(cohort)).tolist() == [325, 107, 106, 37, 25]
    assert cohort.facts["modalities"] == {"image": 486, "rna": 517, "cnv": 517, "mutations": 517, "clinical": 599}
    assert (cohort.present["image"] & cohort.present["cnv"] & cohort.present["clinical"]).sum() == 480
    assert cohort.table["site"].nunique() > 20
    assert cohort.facts["left_out"] == {"no_label": 269, "no_modality": 1}
    for name, width in {"image": 607, "rna": 1558, "cnv": 1333, "mutations": 21, "clinical": 12}.items():
        assert cohort.arrays[name].values.shape == (600, width)
        assert not np.isnan(cohort.arrays[name].values[cohort.present[name]][:, 0]).all()


# multimodal_demo


def test_made_up_tables_are_a_seed_of_their_own_and_miss_modalities(tmp_path: Path) -> None:
    cohorts = [
        prepare(DATASETS.build("multimodal_demo", seed=seed), None, image_size=16, cache=tmp_path / str(at))
        for at, seed in enumerate((0, 0, 1))
    ]
    assert cohorts[0].digest == cohorts[1].digest != cohorts[2].digest
    present = np.stack(list(cohorts[0].present.values()))
    assert present.any(axis=0).all()
    assert (present.all(axis=0).mean() > 0.6) & (present.mean(axis=1) < 1).all()
    assert np.bincount(read_labels(cohorts[0])).tolist() == [165, 60, 75]
    with pytest.raises(ConfigError, match="cases >= 30"):
        DATASETS.build("multimodal_demo", cases=10)
