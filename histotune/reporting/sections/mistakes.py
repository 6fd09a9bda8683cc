"""The cases that the best model is most surely wrong about; look at them before you trust a number."""

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
    """A case that was taken for another class, and how surely."""

    id: str
    patient: str
    truth: str
    predicted: str
    probability: float


@SECTIONS.register("mistakes")
class Mistakes(Section):
    """The cases that the best model is most surely wrong about."""

    title = "Confident mistakes"
    order = 100
    figures: ClassVar = (SectionRequest("confidence"),)

    def build(self, findings: Findings) -> Content:
        """List the cases, with their pictures where they were asked for."""
        if not findings.models:
            return Content(html.paragraph("Nothing is complete yet, so nothing was mistaken."))
        best = findings.models[0]
        result = mistakes(best.record.predictions(), findings.settings.classes)
        if not result:
            return Content(html.paragraph(f"{best.kind} {best.name} is wrong about no validation case."))
        text = (
            f"Of {best.kind} {best.name} on the validation part. Wrong labels, artefacts and cases that are hard for "
            "people, too, tend to stand here."
        )
        rows = [[html.code(one.id), one.patient, one.truth, one.predicted, one.probability] for one in result]
        head = ["case", "patient", "true class", "taken for", "probability of that"]
        caption = f"The {len(result)} surest mistakes, by true class."
        pictures = _gallery(findings, result) if findings.images else _offered(findings)
        return Content(html.joined([html.paragraph(text), pictures, html.table(caption, head, rows)]))


def mistakes(saved: Predictions, classes: list[str], *, most: int = MOST) -> list[Mistake]:
    """Return the cases whose predicted class is wrong, the surest first, classes sharing `most` places evenly."""
    probabilities = metrics.softmax(saved.logits)
    predicted = metrics.decide(probabilities)
    surest = probabilities[np.arange(len(predicted)), predicted]
    result = []
    for label in range(len(classes)):
        wrong = np.flatnonzero((saved.labels == label) & (predicted != label))
        chosen = wrong[np.argsort(-surest[wrong], kind="stable")][: max(1, most // len(classes))]
        result += [
            Mistake(str(saved.ids[k]), str(saved.patients[k]), classes[label], classes[predicted[k]], float(surest[k]))
            for k in chosen
        ]
    return result[:most]


def _offered(findings: Findings) -> Markup:
    return html.paragraph(
        f"`histotune report {findings.settings.name} --with-images` shows their pictures, which may be confidential."
    )


def _gallery(findings: Findings, result: list[Mistake]) -> Markup:
    try:
        pictures = _pictures(findings, [one.id for one in result])
    except HistotuneError as error:
        return html.paragraph(f"There are no pictures: {error}", kind="absent")
    shown = '<figure><img src="{}" alt="{}" width="{}" height="{}"><figcaption>{}</figcaption></figure>'
    pieces = []
    for one in result:
        if one.id in pictures:
            text = f"{one.truth}, taken for {one.predicted} ({one.probability:.0%})"
            pieces.append(Markup(shown).format(pictures[one.id], f"case {one.id}", SIDE, SIDE, text))
    return Markup('<div class="gallery">{}</div>').format(html.joined(pieces))


def _pictures(findings: Findings, ids: list[str]) -> dict[str, str]:
    """Return small pictures of cases as `data:` addresses, by id."""
    cohort = findings.source.cohort(max(map(int, findings.settings.digests)))
    names = [name for name in cohort.arrays if cohort.kinds.get(name, "image") == "image"]
    if not names:
        raise StudyError(f"the cases of study {findings.settings.name!r} are no images")
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
