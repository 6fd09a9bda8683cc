"""A study -> one page that opens offline: sections in words, figures by an inlined plotly, data as escaped JSON."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from histotune._version import __version__
from histotune.core import files
from histotune.core.runtime import Places
from histotune.errors import ConfigError, HistotuneError
from histotune.reporting import figures
from histotune.reporting._pdf import print_page
from histotune.reporting.figure_page import inline, plotly_script
from histotune.reporting.figures import FIGURES, FigureSource
from histotune.reporting.html import words
from histotune.reporting.sections import SECTIONS, Content, Findings, Section, SectionRequest
from histotune.reporting.sections.summary import lead
from histotune.storage.study_folder import StudyFolder

_HERE = Path(__file__).parent / "templates"


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
    missing: dict[str, str] = {}
    drawn: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    sections = []
    for key in ordered():
        section = SECTIONS.build(key)
        content = _content(section, findings)
        plain |= content.data
        pieces = [_figure(wanted, findings.source, drawn, missing) for wanted in section.figures if known(wanted)]
        body = Markup("\n").join([content.html, *pieces])
        sections.append((key, section.title, body))
    page = _page(f"{name}: histotune report", sections, {**plain, "figures": drawn})
    files.write_text(target, page)
    return ReportPage(target, lead(findings), missing)


def write_pdf(page: Path) -> Path:
    """Print a written report beside itself as PDF and return its path.

    Raises:
        HistotuneError: there is no Chrome or Chromium, or it does not print; the page stands.
    """
    return print_page(page, page.with_suffix(".pdf"))


def ordered() -> list[str]:
    """Return the names of all sections in the order in which they stand on the page."""
    return sorted(SECTIONS.names(), key=lambda name: SECTIONS.build(name).order)


def known(wanted: SectionRequest) -> bool:
    """Say whether a wanted figure is registered."""
    return wanted.name in FIGURES.names()


def _content(section: Section, findings: Findings) -> Content:
    try:
        return section.build(findings)
    except HistotuneError as error:
        return Content(Markup('<p class="absent">This cannot be said: {}</p>').format(error))


def _figure(wanted: SectionRequest, source: FigureSource, drawn: dict[str, Any], missing: dict[str, str]) -> Markup:
    """Set the place of a figure, or say why there is none."""
    try:
        numbers = FIGURES.build(wanted.name, **wanted.options).compute(source)
    except HistotuneError as error:
        missing[wanted.key] = str(error)
        name = wanted.name.replace("_", " ")
        return Markup('<p class="absent"><b>{}</b> is not drawn: {}</p>').format(name[0].upper() + name[1:], error)
    result = inline(figures.draw(wanted.name, numbers))
    drawn[wanted.key] = result.plain
    return Markup(
        '<figure class="drawing" id="figure-{key}"><figcaption><h3>{title}</h3><p>{caption}</p></figcaption>'
        '<div class="plot" data-figure="{key}" role="img" aria-label="{title}" '
        'style="height:{height}px;min-width:{width}px"></div></figure>'
    ).format(
        key=wanted.key, title=result.title, caption=words(result.caption), height=result.height, width=wanted.width
    )


def script_json(value: Any) -> str:
    r"""Write plain values as JSON that may stand in a script element: nothing in it can end the element.

    >>> script_json({"patient": "</script>"})
    '{"patient":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(files.without_nan(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page(title: str, sections: list[tuple[str, str, Markup]], plain: Mapping[str, Any]) -> str:
    """Fill the shell; pieces are put in at once, so that none is searched for the marks of another."""
    links = Markup("\n").join(Markup('<li><a href="#{}">{}</a></li>').format(key, name) for key, name, _ in sections)
    bodies = Markup("\n").join(
        Markup('<section id="{}" aria-labelledby="{}-title"><h2 id="{}-title">{}</h2>\n{}</section>').format(
            key, key, key, name, body
        )
        for key, name, body in sections
    )
    text = f"histotune {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    pieces = {
        "title": html.escape(title),
        "heading": html.escape(title.rpartition(":")[0]),
        "made": html.escape(text),
        "links": links,
        "sections": bodies,
        "style": _asset("page.css"),
        "data": script_json(plain),
        "plotly": plotly_script() if plain["figures"] else "",
        "script": "\n".join(_asset(name) for name in ("board.js", "page.js")),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: str(pieces[mark[1]]), _asset("page.html"))


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
