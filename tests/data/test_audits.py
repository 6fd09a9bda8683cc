"""Checks of the audit: every planted leak is found, a clean cohort gives none, and all checks keep their contract."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up_audit import by_patient, clean_cohort, moved, on, with_column, with_images
from PIL import Image

from histotune.data.audits import AUDITS, LEAK, NOTE, OK, WARNING, Finding, Subject, _hashes, _predict
from histotune.data.cohort import PROPERTIES, UNKNOWN, Cohort, read_labels
from histotune.data.modalities.table import Table, TableColumn
from histotune.data.splits import Split, split
from histotune.errors import ConfigError
from histotune.studies.audit import AuditReport
from histotune.testing.data import AUDIT, checked_finding


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, np.ndarray]:
    return clean_cohort(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def clean(made_up: tuple[Cohort, np.ndarray]) -> Subject:
    return by_patient(*made_up)


def find(name: str, subject: Subject) -> Finding:
    return checked_finding(name, subject, {})


@pytest.mark.parametrize("name", AUDITS.names())
@pytest.mark.parametrize("law", AUDIT.laws)
def test_every_check_keeps_the_law(name: str, law: str, made_up: tuple[Cohort, np.ndarray]) -> None:
    AUDIT.check_one(law, AUDIT.laws[law], name, name, {}, *made_up)


@pytest.mark.parametrize("name", AUDITS.names())
def test_a_clean_cohort_gives_no_alarm(clean: Subject, name: str) -> None:
    expected = {NOTE, OK} if name in ("sites", "site_in_images") else {OK}
    assert find(name, clean).severity in expected


@pytest.mark.parametrize("name", AUDITS.names())
def test_tables_without_images_places_files_and_sites_are_no_error(name: str, tmp_path: Path) -> None:
    subject, rng = by_patient(*clean_cohort(tmp_path / "images")), np.random.default_rng(0)
    n = len(subject.labels)
    stored = Table(rng.normal(size=(n, 4)).astype(np.float32), tuple(TableColumn(f"c{k}") for k in range(4)))
    table = subject.cohort.table.assign(site="", x=-1, y=-1)
    own: dict[str, Any] = {
        "arrays": {"genes": stored},
        "kinds": {"genes": "table"},
        "present": {"genes": np.ones(n, bool)},
    }
    cohort = replace(subject.cohort, table=table, folder=tmp_path / "none", **own)
    result = find(name, replace(subject, cohort=cohort))
    assert result.severity in (OK, NOTE)
    if name not in ("patients", "identical", "small_parts", "column_is_label"):
        assert result.sentence.startswith("not checked")


@pytest.mark.parametrize("name", AUDITS.names())
def test_cases_in_no_part_are_not_reported(clean: Subject, name: str) -> None:
    train, test = on(clean, 1), on(clean, 3)
    planted = with_column(moved(clean, test, 0), content="same", patient="same", x=0, y=0)
    rows = np.zeros(len(clean.labels), bool)
    rows[train[:10]] = True
    nobody = replace(planted, sides=np.where(rows, planted.sides, 0))
    assert find(name, nobody).severity != LEAK


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def scaled(pixels: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "saved again at quality 90": lambda pixels: jpeg(pixels, 90),
    "saved again at quality 60": lambda pixels: jpeg(pixels, 60),
    "scaled down and up": lambda pixels: scaled(pixels, 24),
    "brighter": lambda pixels: np.clip(pixels * 1.1, 0, 255).astype(np.uint8),
    "mirrored": lambda pixels: pixels[::-1],
    "turned and saved again": lambda pixels: jpeg(np.ascontiguousarray(np.rot90(pixels)), 85),
    "transposed": lambda pixels: pixels.swapaxes(0, 1),
}


@pytest.mark.parametrize("how", CHANGES)
def test_copies_that_were_changed_are_found_across_the_split(clean: Subject, how: str) -> None:
    images = clean.cohort.arrays["image"].copy()
    train, test = on(clean, 1)[:40], on(clean, 3)[:40]
    for source, target in zip(train, test, strict=True):
        images[target] = CHANGES[how](images[source])
    result = find("near_identical", with_images(clean, images))
    assert result.severity == LEAK
    assert 72 <= result.count <= 80
    assert f"{clean.ids[train[0]]} (train)" in result.examples[0]


def test_pairs_that_were_too_many_to_compare_are_told(clean: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    images = clean.cohort.arrays["image"].copy()
    for source, target in zip(on(clean, 1)[:3], on(clean, 3)[:3], strict=True):
        images[target] = images[source][::-1]
    monkeypatch.setattr("histotune.data.audits.near_identical.MOST", 0)
    result = find("near_identical", with_images(clean, images))
    assert result.severity == NOTE
    assert "pairs of like hashes only 0 were compared" in result.sentence


def test_a_check_that_could_not_be_made_does_not_count_as_one() -> None:
    checks = [Finding("sites", NOTE, 0, 0, "not checked: no site is known"), Finding("patients", OK, 0, 9, "apart")]
    assert str(AuditReport("", "", checks, 0.0)) == "Audit: no leak in 1 check, 1 could not be made, no warning"


def test_blank_images_and_padded_edges_are_no_copies(clean: Subject) -> None:
    rng, images = np.random.default_rng(1), clean.cohort.arrays["image"].copy()
    third = len(images) // 3
    images[:third] = 240 + rng.normal(0, 1.0, images[:third].shape)  # glass
    images[third : 2 * third, 20:] = 255  # completed with white
    images[2 * third :, :, 14:] = 242
    images[2 * third :, 20:22] = 60  # a line on glass, nearly all of it alike
    assert find("near_identical", with_images(clean, images)).severity == OK


@pytest.mark.parametrize("orientation", range(8))
def test_hashes_of_an_orientation_are_those_of_the_turned_image(clean: Subject, orientation: int) -> None:
    images, rows = clean.cohort.arrays["image"][:50], np.arange(50)
    turned = np.ascontiguousarray(_hashes.turned(images, orientation))
    expected = _hashes.hashes(_hashes.coefficients(turned, rows))
    assert np.bitwise_count(expected ^ _hashes.hashes(_hashes.coefficients(images, rows), orientation)).max() <= 2


def test_near_hashes_are_those_that_a_comparison_of_all_finds() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, 300, dtype=np.uint64)
    second = np.concatenate([first[:200], rng.integers(0, 2**64, 300, dtype=np.uint64)])
    for row in range(200):
        for bit in rng.choice(64, row % 5, replace=False):
            second[row] ^= np.uint64(1) << np.uint64(bit)
    result = {
        (int(a), int(b)) for one, other in _hashes.near(first, second, 4) for a, b in zip(one, other, strict=True)
    }
    rows, columns = np.nonzero(np.bitwise_count(first[:, None] ^ second) <= 4)
    assert result == {(int(a), int(b)) for a, b in zip(rows, columns, strict=True)}
    assert len(result) >= 200


def test_patients_on_both_sides_are_found(clean: Subject) -> None:
    row = on(clean, 1)[0]
    result = find("patients", moved(clean, np.array([row]), 3))
    assert (result.severity, result.count, result.of) == (LEAK, 1, 90)
    assert result.examples == (f"{clean.patients[row]} (5 train, 1 test)",)


def test_patients_who_are_not_known_are_a_warning(clean: Subject) -> None:
    cohort = replace(clean.cohort, facts={"patients_known": False})
    assert find("patients", replace(clean, cohort=cohort)).severity == WARNING


def test_sites_on_both_sides_are_a_leak_only_where_the_split_promises_none(clean: Subject) -> None:
    assert find("sites", clean).severity == NOTE
    whole = by_patient(clean.cohort, (np.arange(len(clean.labels)) % 2), "site")
    assert find("sites", whole).severity == OK
    result = find("sites", moved(whole, on(whole, 1)[:1], 3))
    assert (result.severity, result.count) == (LEAK, 1)


def test_identical_images_across_the_split_are_found(clean: Subject) -> None:
    content = clean.cohort.table["content"].to_numpy(str).copy()
    train, test = on(clean, 1), on(clean, 3)
    content[test[:2]] = content[train[:2]]
    content[train[5]] = content[train[6]]  # on one side: no leak
    result = find("identical", with_column(clean, content=content))
    assert (result.severity, result.count) == (LEAK, 4)
    assert result.examples[0] == f"{clean.ids[train[0]]} (train) and {clean.ids[test[0]]} (test)"


@pytest.mark.parametrize(("columns", "levels", "severity"), [(20, 0, LEAK), (3, 3, WARNING)])
def test_identical_rows_of_a_table_are_found_and_called_chance_where_they_may_be(
    clean: Subject, columns: int, levels: int, severity: str
) -> None:
    rng, n = np.random.default_rng(0), len(clean.labels)
    drawn = rng.integers(0, levels, (n, columns)) if levels else rng.normal(size=(n, columns))
    values: np.ndarray = drawn.astype(np.float32)
    values[on(clean, 3)[0]] = values[on(clean, 1)[0]]
    kinds, stored = {"genes": "table"}, Table(values, tuple(TableColumn(f"c{k}") for k in range(columns)))
    contents = [row.tobytes().hex() for row in values]
    own: dict[str, Any] = {"arrays": {"genes": stored}, "kinds": kinds, "present": {"genes": np.ones(n, bool)}}
    cohort = replace(clean.cohort, table=clean.cohort.table.assign(content=contents), **own)
    result = find("identical", replace(clean, cohort=cohort))
    assert result.severity == severity
    assert result.count == 2 or levels


def test_one_modality_with_identical_rows_is_enough(clean: Subject) -> None:
    rng, n = np.random.default_rng(0), len(clean.labels)
    values = rng.normal(size=(n, 9)).astype(np.float32)
    values[on(clean, 3)[0]] = values[on(clean, 1)[0]]
    stored = Table(values, tuple(TableColumn(f"c{k}") for k in range(9)))
    arrays, present = {**clean.cohort.arrays, "genes": stored}, {**clean.cohort.present, "genes": np.ones(n, bool)}
    both = replace(clean.cohort, arrays=arrays, present=present, kinds={"image": "image", "genes": "table"})
    result = find("identical", replace(clean, cohort=both))
    assert (result.severity, result.count) == (LEAK, 2)
    assert "'genes'" in result.sentence


def test_neighbours_across_the_split_are_found_and_strangers_at_the_same_place_are_not(clean: Subject) -> None:
    row = on(clean, 1)[0]  # the corner of a grid of 3 x 2
    result = find("neighbours", moved(clean, np.array([row]), 3))
    assert (result.severity, result.count) == (LEAK, 4)
    parts = split(clean.cohort, np.arange(len(clean.labels)) % 2, "patch_random_70_30")
    torn = find("neighbours", Subject.of(clean.cohort, parts, clean.labels))
    assert torn.severity == LEAK
    assert torn.count > 400
    assert find("neighbours", clean).severity == OK  # patients have the same places, each in a slide of its own


def test_folds_are_sides(clean: Subject) -> None:
    folds = np.zeros((2, len(clean.labels)), np.int64)
    folds[:] = 1 + np.unique(clean.patients, return_inverse=True)[1] % 3
    parts = Split("patient", np.arange(0), np.arange(0), np.arange(0), folds=folds)
    assert find("patients", Subject.of(clean.cohort, parts, clean.labels)).severity == OK
    folds[1, 0] = 1 + folds[1, 0] % 3  # in the second deal only
    result = find("patients", Subject.of(clean.cohort, replace(parts, folds=folds), clean.labels))
    assert (result.severity, result.count) == (LEAK, 1)


def test_a_site_that_tells_the_label_and_its_signature_are_found(tmp_path: Path) -> None:
    cohort, _ = clean_cohort(tmp_path)
    rng, site = np.random.default_rng(0), cohort.table["site"].str[1:].to_numpy(int)
    labels = (rng.random(len(site)) < np.array([0.1, 0.3, 0.5, 0.7, 0.9])[site]).astype(np.int64)
    tint = np.array([[0, 0, 0], [25, 0, 0], [0, 25, 0], [0, 0, 25], [20, 20, 0]])[site][:, None, None]
    tinted = replace(cohort, arrays={"image": (cohort.arrays["image"] * 0.8 + tint).astype(np.uint8)})
    subject = by_patient(tinted, labels)
    result = find("site_label", subject)
    assert result.severity == WARNING
    assert result.examples
    assert find("site_in_images", subject).severity == NOTE
    assert "AUROC" in find("site_in_images", subject).sentence
    assert find("mean_colour", subject).severity == NOTE  # what the site tells, its stain tells


@pytest.mark.parametrize("column", ["width", "format", "quantisation", "bytes"])
def test_files_that_were_saved_apart_by_class_are_found(tmp_path: Path, column: str) -> None:
    cohort, labels = clean_cohort(tmp_path)
    saved, odd = pd.read_csv(tmp_path / PROPERTIES), (labels == 1) & (np.arange(len(labels)) % 3 > 0)
    planted: Any = {"width": 60, "format": "JPEG", "quantisation": 12.5, "bytes": saved["bytes"] + 900}[column]
    saved[column] = np.where(odd, planted, saved[column])
    saved.to_csv(tmp_path / PROPERTIES, index=False)
    subject = by_patient(cohort, labels)
    name, severity = ("file_size", NOTE) if column == "bytes" else ("file_properties", WARNING)
    result = find(name, subject)
    assert result.severity == severity
    assert bool(result.examples) == (severity == WARNING)


def test_what_says_nothing_is_seldom_said_to_tell_the_label(tmp_path: Path) -> None:
    alarms = 0
    for seed in range(4):
        cohort, labels = clean_cohort(tmp_path / str(seed), seed)
        subject = by_patient(cohort, labels)
        alarms += sum(find(name, subject).severity != OK for name in ("site_label", "mean_colour", "file_size"))
    assert alarms <= 1  # of 12


def test_classes_with_few_patients_are_found(clean: Subject) -> None:
    labels = np.where(clean.labels == UNKNOWN, UNKNOWN, 0)
    labels[on(clean, 1)], labels[on(clean, 2)[:6]] = 1, 1  # one patient of the validation part
    result = find("small_parts", replace(clean, labels=labels))
    assert result.severity == WARNING
    assert "malignant in val rests on 1 patient (6 cases)" in result.sentence


def test_a_wrong_option_of_a_check_is_refused(clean: Subject) -> None:
    with pytest.raises(ConfigError, match="correlation"):
        AUDITS.build("near_identical", clean, correlaton=0.5)
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        AUDITS.build("near_identical", clean, correlation=2)


def test_many_cases_are_sampled() -> None:
    rows = _predict.sample(np.arange(3 * _predict.CASES))
    assert len(rows) == len(set(rows)) == _predict.CASES


def test_real_patches_by_patient_give_no_alarm(idc_cohort: Cohort) -> None:
    labels = read_labels(idc_cohort)
    subject = Subject.of(idc_cohort, split(idc_cohort, labels), labels)
    result = {name: find(name, subject) for name in AUDITS.names()}
    assert {finding.severity for finding in result.values()} <= {OK, NOTE}
    assert result["near_identical"].severity == result["identical"].severity == result["neighbours"].severity == OK
    torn = Subject.of(idc_cohort, split(idc_cohort, labels, "patch_random_70_30"), labels)
    leaks = {name for name in ("patients", "neighbours", "near_identical") if find(name, torn).severity == LEAK}
    assert leaks == {"patients", "neighbours"}


def test_no_two_real_patches_are_taken_for_copies(idc_cohort: Cohort) -> None:
    n = len(idc_cohort)
    names = ("", *map(str, range(1, n + 1)))
    everyone_apart = Subject(idc_cohort, np.arange(1, n + 1)[None], names, np.zeros(n, np.int64), "x")
    assert find("near_identical", everyone_apart).severity == OK


def tables(columns: dict[str, tuple[np.ndarray, tuple[str, ...] | None]], labels: np.ndarray) -> Subject:
    """A cohort of one table, every case a patient of its own; the last quarter is sealed."""
    count = len(labels)
    values = np.column_stack([np.asarray(one, np.float32) for one, _ in columns.values()])
    table = Table(values, tuple(TableColumn(name, words) for name, (_, words) in columns.items()))
    names = [f"c{at}" for at in range(count)]
    cohort = Cohort(
        name="table",
        classes=("a", "b"),
        table=pd.DataFrame({"id": names, "patient": names, "site": "", "content": names, "part": ""}),
        arrays={"clinical": table},
        present={"clinical": np.ones(count, bool)},
        kinds={"clinical": "table"},
        digest="",
        facts={},
        folder=Path(),
    )
    known = np.arange(count) < count * 3 // 4
    sides = np.where(known, 1, 3)[None]
    return Subject(cohort, sides, ("", "train", "val", "test"), np.where(known, labels, UNKNOWN), "patient")


@pytest.mark.parametrize("kind", ["words", "numbers", "reversed", "nearly"])
def test_a_column_that_is_the_label_is_found(kind: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    told = {"words": 1 - labels, "numbers": labels + rng.random(200) / 2, "reversed": -labels, "nearly": labels.copy()}[
        kind
    ]
    if kind == "nearly":
        told[3] = 1 - told[3]
    words = None if kind in ("numbers", "reversed") else ("no", "yes")
    columns = {
        "age": (rng.normal(60, 9, 200), None),
        "treated": (told, words),
        "id": (np.arange(200), tuple(map(str, range(200)))),
    }
    result = find("column_is_label", tables(columns, labels))
    assert (result.severity, result.count, result.of) == (WARNING, 1, 3)
    assert "clinical.treated" in result.sentence


def test_columns_that_tell_much_or_nothing_are_not_the_label() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 200)
        columns: dict[str, tuple[np.ndarray, tuple[str, ...] | None]] = {
            "marker": (labels * 2 + rng.normal(size=200), None),
            "grade": (np.where(rng.random(200) < 0.9, labels, 1 - labels), ("1", "2")),
            **{f"g{at}": (rng.normal(size=200), None) for at in range(50)},
        }
        assert find("column_is_label", tables(columns, labels)).severity == OK
    few = np.arange(12) % 2
    assert find("column_is_label", tables({"age": (few, None)}, few)).severity == OK  # told apart by chance


def test_without_tables_no_column_is_checked(clean: Subject) -> None:
    assert "there are no tables" in find("column_is_label", clean).sentence
