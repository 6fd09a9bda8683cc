"""The errors of the best model with the highest predicted probability; look at them before you trust a score."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from markupsafe import Markup

from histotune.errors import HistotuneError, StudyError
from histotune.metrics import scores as metrics
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings
from histotune.storage.records import Predictions

MOST = 24  # cases that are listed, shared evenly by the true classes
SIDE = 96  # pixels of a picture, at most


@dataclass(frozen=True)
class Mistake:
    """A misclassified case and the probability of the predicted class."""

    id: str
    patient: str
    truth: str
    predicted: str
    probability: float


@SECTIONS.register("mistakes")
class Mistakes(Section):
    """The errors of the best model with the highest predicted probability."""

    title = "Confident errors"
    order = 100
    figures: ClassVar = (SectionRequest("confidence"),)

    def build(self, findings: Findings) -> Content:
        """List the cases, with their images if requested."""
        if not findings.models:
            return Content(html.paragraph("No trial is complete yet, so there are no errors to show."))
        best = findings.models[0]
        result = mistakes(best.record.predictions(), findings.settings.classes)
        if not result:
            return Content(html.paragraph(f"{best.title.capitalize()} classifies every validation case correctly."))
        text = (
            f"Errors of {best.title} on the validation set. Wrong labels, artefacts and cases that are also "
            "difficult for people are often found here."
        )
        rows = [[html.code(one.id), one.patient, one.truth, one.predicted, one.probability] for one in result]
        head = ["case", "patient", "true class", "predicted class", "probability"]
        caption = f"The {len(result)} most confident errors, by true class."
        pictures = _gallery(findings, result) if findings.images else _offered(findings)
        return Content(html.joined([html.paragraph(text), pictures, html.table(caption, head, rows)]))


def mistakes(saved: Predictions, classes: list[str], *, most: int = MOST) -> list[Mistake]:
    """Return the errors of highest probability, the most confident first, at most `most`, shared by the classes."""
    probabilities = metrics.softmax(saved.logits)
    predicted = metrics.decide(probabilities)
    sure = probabilities[np.arange(len(predicted)), predicted]
    result = []
    for label in range(len(classes)):
        wrong = np.flatnonzero((saved.labels == label) & (predicted != label))
        chosen = wrong[np.argsort(-sure[wrong], kind="stable")][: max(1, most // len(classes))]
        result += [
            Mistake(str(saved.ids[k]), str(saved.patients[k]), classes[label], classes[predicted[k]], float(sure[k]))
            for k in chosen
        ]
    return result[:most]


def _offered(findings: Findings) -> Markup:
    return html.paragraph(
        f"`histotune report {findings.settings.name} --with-images` adds their images, which may be confidential."
    )


def _gallery(findings: Findings, result: list[Mistake]) -> Markup:
    try:
        pictures = _pictures(findings, [one.id for one in result])
    except HistotuneError as error:
        return html.paragraph(f"There are no images: {error}", kind="absent")
    shown = [
        (pictures[one.id], f"case {one.id}", f"{one.truth}, predicted {one.predicted} ({one.probability:.0%})")
        for one in result
        if one.id in pictures
    ]
    return html.piece("gallery", shown, SIDE)


def _pictures(findings: Findings, ids: list[str]) -> dict[str, str]:
    """Return small pictures of cases as `data:` addresses, by id."""
    cohort = findings.source.cohort(max(map(int, findings.settings.digests)))
    names = [name for name in cohort.arrays if cohort.kinds.get(name, "image") == "image"]
    if not names:
        raise StudyError(f"the cases of study {findings.settings.name!r} are not images")
    rows = {case: row for row, case in enumerate(cohort.table["id"])}
    return {case: _picture(cohort.arrays[names[0]][rows[case]]) for case in ids if case in rows}


def _picture(pixels: Any) -> str:
    """Write uint8 pixels [H, W, 3] as a JPEG of at most 96 pixels a side."""
    from PIL import Image

    image = Image.fromarray(np.asarray(pixels))
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
