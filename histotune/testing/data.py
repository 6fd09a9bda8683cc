"""The laws of a dataset, on the author's own small folder, and of an audit check, on a made-up or own cohort."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune.data.audits import AUDITS, LEAK, SEVERITIES, Finding, Subject
from histotune.data.cohort import UNKNOWN, Cohort, read_labels
from histotune.data.modalities import MODALITIES
from histotune.data.splits import split
from histotune.ingest.datasets import DATASETS, Dataset, Picture
from histotune.ingest.prepare import prepare
from histotune.testing._contract import Contract, documented, require

DATASET = Contract("dataset")
AUDIT = Contract("check")


def check_dataset(name: str, root: Path | None, *, without: Iterable[str] = (), **options: Any) -> None:
    """Check every law of a dataset on a folder of at least three patients.

    Args:
        name: as registered.
        root: a small folder in its layout; it is only read. None for a made-up dataset, which takes no folder.
        without: names of laws that it breaks by design.
        options: of the dataset; its defaults where none are given.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such dataset, option or law.
    """
    DATASET.check(name, DATASETS.build(name, **options), root, without=without)


@DATASET.law
def a_dataset_is_documented(dataset: Dataset, root: Path | None) -> None:
    """A summary is there, and a dataset that needs data says from where, how large, under which terms and how laid."""
    documented(DATASETS, dataset.name)
    if dataset.needs_data:
        for field in ("title", "source", "size", "licence", "layout"):
            require(getattr(dataset.info, field), f"its info has no {field}")


@DATASET.law
def ids_are_unique_sorted_and_stable(dataset: Dataset, root: Path | None) -> None:
    """Every case has one id, the same at every scan."""
    ids = list(dataset.scan(root).table["id"])
    require(ids == sorted(set(ids)), "ids are not unique, or not sorted")
    require(ids == list(dataset.scan(root).table["id"]), "a second scan finds other ids")


@DATASET.law
def ids_do_not_contain_the_label(dataset: Dataset, root: Path | None) -> None:
    """An id contains neither the name of its class nor the word class."""
    listing = dataset.scan(root)
    for name, label in zip(listing.table["id"], listing.table["label"], strict=True):
        require(listing.classes[label] not in name and "class" not in name, f"id {name!r} contains its label")


@DATASET.law
def labels_fit_the_classes(dataset: Dataset, root: Path | None) -> None:
    """Labels are int64 and number the classes, of which every one occurs."""
    listing = dataset.scan(root)
    labels = listing.table["label"]
    require(labels.dtype == np.int64, f"labels are {labels.dtype}")
    require(set(labels) == set(range(len(listing.classes))), f"labels {sorted(set(labels))} of {listing.classes}")
    require(0 <= listing.positive < len(listing.classes), f"the positive class is number {listing.positive}")


@DATASET.law
def every_case_has_a_patient(dataset: Dataset, root: Path | None) -> None:
    """No patient is empty, and there are three of them, which a split needs."""
    patients = dataset.scan(root).table["patient"]
    require((patients != "").all(), "a case has no patient")
    require(patients.nunique() >= 3, f"the folder holds {patients.nunique()} patients, and the laws need three")


@DATASET.law
def every_image_can_be_read(dataset: Dataset, root: Path | None) -> None:
    """`read` gives the same pixels, uint8 [H, W, 3], every time."""
    if dataset.images:
        for case in dataset.scan(root).table.to_dict("records"):
            picture, again = dataset.read(case, root), dataset.read(case, root)
            require(isinstance(picture, Picture), f"`read` returns {type(picture).__name__}")
            pixels = picture.pixels
            right = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            require(right, f"{case['id']}: pixels are {pixels.dtype} {pixels.shape}")
            require(np.array_equal(pixels, again.pixels), f"{case['id']}: a second reading gives other pixels")


@DATASET.law
def columns_have_a_row_per_case_and_stay_the_same(dataset: Dataset, root: Path | None) -> None:
    """Every modality beside images has a row per case, somebody has it, and it is the same at every call."""
    listing = dataset.scan(root)
    with tempfile.TemporaryDirectory() as cache:
        first, again = (dataset.columns(listing, root, Path(cache)) for _ in range(2))
        require(first or dataset.images, "it has neither images nor columns")
        for name, column in first.items():
            kind = MODALITIES.build(column.kind)
            counts = {kind.cases(column.stored), len(column.present), len(listing.table)}
            require(len(counts) == 1, f"modality {name!r}: {sorted(counts)} cases")
            require(column.present.any(), f"modality {name!r} is missing in every case")
            require(kind.digests(column.stored) == kind.digests(again[name].stored), f"modality {name!r} changes")


@DATASET.law
def it_prepares_into_a_cohort(dataset: Dataset, root: Path | None) -> None:
    """The cohort has all cases, a title, and says whether it is made up."""
    with tempfile.TemporaryDirectory() as cache:
        cohort = prepare(dataset, root, image_size=16, cache=Path(cache))
        count, listed = len(cohort), len(dataset.scan(root).table)
        require(count == listed, f"{listed} cases become {count}: {cohort.facts.get('left_out')}")
        require(cohort.facts["title"], "the cohort has no title")
        require(cohort.facts["synthetic"] == (not dataset.needs_data), "the cohort does not say that it is made up")


def check_audit(
    name: str,
    cohort: Cohort | None = None,
    labels: np.ndarray | None = None,
    *,
    without: Iterable[str] = (),
    **params: Any,
) -> None:
    """Check every law of an audit check, with these parameters.

    Args:
        name: as registered.
        cohort: of several patients; None makes one up.
        labels: of its cases, int64 [N]; None reads them.
        without: names of laws that it breaks by design.
        params: parameters of the check; its defaults where none are given.

    Raises:
        AssertionError: a law does not hold; says which, and the value.
        ConfigError: no such check, parameter or law.
    """
    AUDITS.check(name, params)
    with tempfile.TemporaryDirectory() as cache:
        if cohort is None:
            cohort = prepare(DATASETS.build("synthetic", cases=60, patients=12), None, image_size=16, cache=Path(cache))
        known = read_labels(cohort) if labels is None else labels
        AUDIT.check(name, name, params, cohort, known, without=without)


def checked_finding(name: str, subject: Subject, params: dict[str, Any]) -> Finding:
    """Return what a check finds, and require that it is well formed."""
    result = AUDITS.build(name, subject, **params)
    require(result.name == name, f"its finding is called {result.name!r}")
    require(result.severity in SEVERITIES, f"its severity is {result.severity!r}")
    require(0 <= result.count <= result.of, f"it finds {result.count} of {result.of}")
    require(result.sentence, "it says nothing")
    require(json.loads(json.dumps(asdict(result)))["sentence"] == result.sentence, "its finding is no plain value")
    whole = result.severity != LEAK or (result.count > 0 and result.examples and result.advice)
    require(whole, "a leak needs a count, examples and advice")
    return result


@AUDIT.law
def a_check_is_documented(name: str, params: dict[str, Any], cohort: Cohort, labels: np.ndarray) -> None:
    """A summary is there, and every default lies in the range of its parameter."""
    documented(AUDITS, name)


@AUDIT.law
def labels_of_the_test_part_change_nothing(
    name: str, params: dict[str, Any], cohort: Cohort, labels: np.ndarray
) -> None:
    """A finding is well formed, and the sealed test labels have no influence on it."""
    parts, other = split(cohort, labels), labels.copy()
    other[parts.test] = labels.max() - other[parts.test]
    subject = Subject.of(cohort, parts, labels)
    require((subject.labels[parts.test] == UNKNOWN).all(), "the subject holds labels of the test part")
    first, second = (checked_finding(name, Subject.of(cohort, parts, some), params) for some in (labels, other))
    require(first == second, f"with other test labels {first.sentence!r} becomes {second.sentence!r}")


@AUDIT.law
def what_is_not_known_is_no_error(name: str, params: dict[str, Any], cohort: Cohort, labels: np.ndarray) -> None:
    """A cohort without sites, places and saved files is no leak of the check's making, and no error."""
    table = cohort.table.assign(site="", x=-1, y=-1)
    bare = replace(cohort, table=table, folder=cohort.folder / "none")
    checked_finding(name, Subject.of(bare, split(cohort, labels), labels), params)


@AUDIT.law
def cases_in_no_part_are_not_reported(name: str, params: dict[str, Any], cohort: Cohort, labels: np.ndarray) -> None:
    """Where only training cases stand in a part, nothing leaks."""
    subject = Subject.of(cohort, split(cohort, labels), labels)
    sides = np.where(subject.sides == 1, 1, 0)
    alike_all = replace(cohort, table=cohort.table.assign(content="same", patient="same", x=0, y=0))
    result = checked_finding(name, replace(subject, cohort=alike_all, sides=sides), params)
    require(result.severity != LEAK, f"it finds a leak between training cases: {result.sentence}")
