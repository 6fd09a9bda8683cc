"""The report in a real browser: draws, sorts, filters, turns dark, fits a phone, asks the network for nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, needs_browser, open_page

from histotune.core.runtime import Places
from histotune.reporting.page import write_pdf, write_report
from histotune.storage.study_folder import StudyFolder

pytestmark = needs_browser
_ROWS = "[...document.querySelectorAll('#board-table tbody tr')]"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, new_study: object, trained_trials: Path) -> str:
    """Where the report of a study of three trials lies."""
    assert callable(new_study)
    home = tmp_path_factory.mktemp("browser")
    store: StudyFolder = new_study(home / "runs" / "shown")
    shutil.copytree(trained_trials, store.folder / "trials")
    return write_report(store, home / "shown.html", places=Places(home / "runs", home / "cache")).path.as_uri()


@pytest.fixture(scope="module")
def opened(address: str) -> Iterator[Page]:
    """The report in a browser; every test leaves it as it was."""
    with open_page(address) as page:
        yield page


def names(page: Page) -> list[str]:
    """Return the names in the leaderboard as they stand."""
    result: list[str] = page.evaluate(f"{_ROWS}.map((row) => row.querySelector('button').textContent)")
    return result


def test_a_column_sorts_by_mouse_and_by_keyboard(opened: Page) -> None:
    column = "#board-table th:nth-child(3)"
    before = names(opened)
    opened.click(f"{column} button")
    assert opened.evaluate(f"document.querySelector('{column}').getAttribute('aria-sort')") == "ascending"
    assert names(opened) == ["0", "1", "2"]
    opened.press("Enter")  # the button kept the focus
    assert opened.evaluate(f"document.querySelector('{column}').getAttribute('aria-sort')") == "descending"
    assert names(opened) == ["2", "1", "0"]
    opened.click("#board-table th:first-child button")
    if opened.evaluate("document.querySelector('#board-table th').getAttribute('aria-sort')") == "descending":
        opened.press("Enter")
    assert names(opened) == before


def test_words_filter_the_lines(opened: Page) -> None:
    opened.click("#board-filter")
    opened.type("alexnet complete")
    assert opened.evaluate("document.getElementById('board-count').textContent") == "3 of 3 lines"
    opened.type(" nonsense")
    assert opened.evaluate(f"{_ROWS}.length") == 0
    opened.evaluate("document.getElementById('board-filter').value = ''")
    opened.evaluate("document.getElementById('board-filter').dispatchEvent(new Event('input'))")
    assert len(names(opened)) == 3


def test_a_line_opens_to_its_parameters_and_its_curve(opened: Page) -> None:
    opened.click("#board-table tbody button")
    assert opened.evaluate("document.querySelector('.more svg polyline').getAttribute('points').split(' ').length") == 2
    opened.press("Enter")
    assert opened.evaluate("document.querySelector('.more')") is None


def test_a_drawing_answers_to_the_mouse(opened: Page) -> None:
    opened.evaluate("document.getElementById('figure-confusion_matrix').scrollIntoView()")
    opened.wait_for("document.querySelector('#figure-confusion_matrix .nsewdrag')")
    opened.hover("#figure-confusion_matrix .nsewdrag", shows="#figure-confusion_matrix .hoverlayer text")
    text = opened.evaluate("document.querySelector('#figure-confusion_matrix .hoverlayer').textContent")
    assert "predicted" in text


def test_the_theme_turns_page_and_drawings(opened: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('#figure-confusion_matrix .xtick text').style.fill"
    light = opened.evaluate(paper), opened.evaluate(ink)
    opened.click("#theme")
    assert opened.evaluate(paper) == "rgb(21, 24, 28)"
    opened.wait_for(f"{ink} !== '{light[1]}'")
    opened.click("#theme")
    opened.wait_for(f"{ink} === '{light[1]}'")
    assert opened.evaluate(paper) == light[0]


def test_a_phone_need_not_scroll_sideways(opened: Page) -> None:
    opened.resize(360, 740)
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    opened.resize(1280, 900)


def test_the_focus_goes_through_the_page(opened: Page) -> None:
    opened.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(4):
        opened.press("Tab")
        seen.append(opened.evaluate("document.activeElement.className || document.activeElement.id"))
        assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert len(seen) == 4


def test_everything_is_drawn_for_paper(opened: Page) -> None:
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate("places.every((place) => place.querySelector('svg.main-svg'))")
    opened.evaluate("dispatchEvent(new Event('afterprint'))")


def test_a_pdf_is_printed(address: str) -> None:
    page = Path(address.removeprefix("file://"))
    printed = write_pdf(page)
    assert printed == page.with_suffix(".pdf")
    assert printed.read_bytes().startswith(b"%PDF")


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened: Page, address: str) -> None:
    assert opened.requests == [address]
    assert opened.errors == []
