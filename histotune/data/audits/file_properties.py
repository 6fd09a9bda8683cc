"""How well properties of the files alone tell the label: pixels wide and high, format, JPEG quantisation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histotune.data.audits import _predict
from histotune.data.audits._base import AUDITS, WARNING, Finding, Subject
from histotune.data.cohort import read_properties


@AUDITS.register("file_properties")
def file_properties(subject: Subject) -> Finding:
    """How well width, height, format and JPEG quantisation of the files alone tell the label.

    None of them is biology: where they tell the label, classes were collected or saved in different ways.
    """
    table = read_properties(subject.cohort)
    if table is None:
        return subject.skipped("file_properties", "the images come from no files")
    table = table[["width", "height", "format", "quantisation"]]
    rows = _predict.sample(subject.known)
    features = np.column_stack(
        [pd.factorize(table["format"], sort=True)[0], table[["width", "height", "quantisation"]]]
    )
    if len(np.unique(np.nan_to_num(features[rows], nan=-1.0), axis=0)) < 2:
        return Finding("file_properties", "ok", 0, len(rows), "all files are of one size, format and quantisation")
    text = _predict.tell(_predict.tree(), features[rows], subject.labels[rows], subject.patients[rows])
    advice = "find out why classes differ in how they were saved; bring all to one size, format and quality"
    result = _predict.judge("file_properties", subject, rows, text, "how files were saved", WARNING, advice)
    return _predict.with_examples(
        result, _examples(subject, table.iloc[rows], rows) if result.severity == WARNING else []
    )


def _examples(subject: Subject, table: pd.DataFrame, rows: np.ndarray) -> list[str]:
    """Describe the three most frequent ways to save a file: the share of each class that was saved so."""
    examples, classes = [], subject.cohort.classes
    ways = table.groupby(list(table.columns), dropna=False).indices
    for same in sorted(ways.values(), key=len, reverse=True)[:3]:
        saved = table.iloc[same[0]]
        shares = np.bincount(subject.labels[rows[same]], minlength=len(classes)) / len(same)
        message = ", ".join(f"{share:.0%} {name}" for name, share in zip(classes, shares, strict=True) if share)
        quantised = "" if np.isnan(saved["quantisation"]) else f", quantisation {saved['quantisation']:.1f}"
        examples.append(
            f"{len(same):,} {saved['format']} of {saved['width']} x {saved['height']} px{quantised}: {message}"
        )
    return examples
