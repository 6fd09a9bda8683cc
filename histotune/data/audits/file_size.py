"""How well the size of the files in bytes alone tells the label."""

from __future__ import annotations

import numpy as np

from histotune.data.audits import _predict
from histotune.data.audits._base import AUDITS, NOTE, OK, Finding, Subject
from histotune.data.cohort import read_properties


@AUDITS.register("file_size")
def file_size(subject: Subject) -> Finding:
    """How well bytes alone tell the label; a note, because a compressed file is as large as its texture is rich."""
    table = read_properties(subject.cohort)
    if table is None:
        return subject.skipped("file_size", "the images come from no files")
    rows = _predict.sample(subject.known)
    features = table[["bytes"]].to_numpy(np.float64)[rows]
    if len(np.unique(features)) < 2:
        return Finding("file_size", OK, 0, len(rows), "all files have the same number of bytes")
    text = _predict.tell(_predict.smooth(), features, subject.labels[rows], subject.patients[rows])
    advice = (
        "dense tissue compresses badly, so this need be no fault; it is one where classes were saved by different "
        "programs: see file_properties"
    )
    return _predict.judge("file_size", subject, rows, text, "the files' size in bytes", NOTE, advice)
