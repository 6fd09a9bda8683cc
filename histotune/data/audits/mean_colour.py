"""How well an image's mean colour alone tells the label."""

from __future__ import annotations

import numpy as np

from histotune.data.audits import _predict
from histotune.data.audits._base import AUDITS, NOTE, Finding, Subject

CHUNK = 4096  # images in memory at once


@AUDITS.register("mean_colour")
def mean_colour(subject: Subject) -> Finding:
    """How well mean red, green and blue alone tell the label; a note, because stain is partly biology."""
    image = next(subject.images(), None)
    if image is None:
        return subject.skipped("mean_colour", "there are no images")
    rows = _predict.sample(subject.known[image[1].present[subject.known]])
    features = colours(image[1].stored, rows)
    text = _predict.tell(_predict.smooth(), features, subject.labels[rows], subject.patients[rows])
    advice = (
        "stain is partly biology (dense nuclei are blue), so this need be no fault: a model must beat the baseline "
        "color_histogram; where laboratories differ, jitter the stain (augment.stain_jitter)"
    )
    return _predict.judge("mean_colour", subject, rows, text, "mean colour", NOTE, advice)


def colours(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean of every channel of uint8 [N, H, W, 3] at `rows`, float64 [n, 3]."""
    result = [
        images[rows[start : start + CHUNK]].reshape(len(rows[start : start + CHUNK]), -1, 3).mean(axis=1)
        for start in range(0, len(rows), CHUNK)
    ]
    return np.concatenate([np.empty((0, 3)), *result])
