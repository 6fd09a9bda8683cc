"""A study -> one page that opens offline: sections in words, figures by an inlined plotly, data as escaped JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from histotune._version import __version__
from histotune.core import files
from histotune.core.runtime import Places
from histotune.errors import ConfigError, HistotuneError
from histotune.reporting import figures
from histotune.reporting._pdf import print_page
from histotune.reporting.figure_page import plotly_script, without_title
from histotune.reporting.figures import FIGURES, FigureSource
from histotune.reporting.html import paragraph, render
from histotune.reporting.sections import SECTIONS, Content, Findings, Section, SectionRequest
from histotune.reporting.sections.summary import lead
from histotune.storage.study_folder import StudyFolder


@dataclass(frozen=True)
class ReportPage:
    """A report as written.

    Attributes:
        path: of the page.
        first: what its summary begins with.
        missing: {figure: why it could not be drawn}.
    """

    path: Path
    first: str
    missing: Mapping[str, str]


def write_report(
    store: StudyFolder,
    path: str | os.PathLike[str] | None = None,
    *,
    places: Places | None = None,
    data: str | os.PathLike[str] | None = None,
    images: bool = False,
    watts: float | None = None,
    command: str = "",
) -> ReportPage:
    """Write everything that is known of a study as one self-contained page.

    It opens without a network and asks for none. What cannot be said or drawn of the study is a sentence in its place.

    Args:
        path: of the page; None takes `reports/<study>.html`.
        places: where prepared cohorts are kept; None takes the usual places.
        data: where the study's data are now; None looks where they were when it began.
        images: show pictures of cases.
        watts: power that a trial draws, for the estimate of energy; None takes a guess by device, which the page names.
        command: what the user typed, for the record.

    Raises:
        StudyError: there is no such study.
        ConfigError: the page would be named as its PDF.
        HistotuneError: the page cannot be written.
    """
    findings = Findings(FigureSource(store, places or Places.of(), data), command, watts, images)
    name = findings.settings.name
    target = Path(path) if path is not None else Path("reports") / f"{name}.html"
    if target.suffix.lower() == ".pdf":
        raise ConfigError(f"{target}: a report is a page, named .html; --pdf prints it beside itself")
    sections: list[PlacedSection] = []
    plain: dict[str, Any] = {}
    for key in ordered():
        section = SECTIONS.build(key)
        content = _content(section, findings)
        plain |= content.data
        placed = [_placed(request, findings.source) for request in section.figures if known(request)]
        sections.append(PlacedSection(key, section.title, content.html, placed))
    shown = [one for section in sections for one in section.figures]
    drawn = {one.key: one.plain for one in shown if not one.problem}
    page = render(
        "page.html.j2",
        study=name,
        version=__version__,
        time=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        sections=sections,
        data=script_json({**plain, "figures": drawn}),
        plotly=plotly_script() if drawn else "",
    )
    files.write_text(target, page)
    return ReportPage(target, lead(findings), {one.key: one.problem for one in shown if one.problem})


def write_pdf(page: Path) -> Path:
    """Print a written report beside itself as PDF and return its path.

    Raises:
        HistotuneError: there is no Chrome or Chromium, or it does not print; the page stands.
    """
    return print_page(page, page.with_suffix(".pdf"))


def ordered() -> list[str]:
    """Return the names of all sections in the order in which they stand on the page."""
    return sorted(SECTIONS.names(), key=lambda name: SECTIONS.build(name).order)


def known(request: SectionRequest) -> bool:
    """Return whether a requested figure is registered."""
    return request.name in FIGURES.names()


def script_json(value: Any) -> Markup:
    r"""Write plain values as JSON that may stand in a script element: nothing in it can end the element.

    >>> print(script_json({"patient": "</script>"}))
    {"patient":"\u003c/script\u003e"}
    """
    return htmlsafe_json_dumps(files.without_nan(value), separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class PlacedFigure:
    """A figure on the page, or why there is none.

    Attributes:
        key: unique on the page.
        title, caption: text.
        height, width: of the drawing, and the least width that it scrolls in, pixels.
        plain: `data` and `layout` as JSON may hold them.
        problem: why it cannot be drawn; "" where it is.
    """

    key: str
    title: str
    caption: str = ""
    height: int = 0
    width: int = 0
    plain: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class PlacedSection:
    """A section on the page; `key` is its anchor."""

    key: str
    title: str
    text: Markup
    figures: Sequence[PlacedFigure]


def _content(section: Section, findings: Findings) -> Content:
    try:
        return section.build(findings)
    except HistotuneError as error:
        return Content(paragraph(f"This section cannot be written: {error}", kind="absent"))


def _placed(request: SectionRequest, source: FigureSource) -> PlacedFigure:
    try:
        numbers = FIGURES.build(request.name, **request.options).compute(source)
    except HistotuneError as error:
        return PlacedFigure(request.key, request.name.replace("_", " ").capitalize(), problem=str(error))
    bare = without_title(figures.draw(request.name, numbers))
    plain, meta = json.loads(bare.to_json()), bare.layout.meta
    for name in ("title", "meta", "template"):
        plain["layout"].pop(name, None)
    return PlacedFigure(request.key, meta["title"], meta["caption"], int(bare.layout.height), request.width, plain)
