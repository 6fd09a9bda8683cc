"""The browser of the tests sees what it is there to see: a request, an error, a click. Else its tests cannot fail."""

from __future__ import annotations

from pathlib import Path

from browser import needs_browser, open_page

_PAGE = """<!doctype html><title>before</title><button onclick="document.title = 'clicked'">press</button>
<script>console.error("bad")</script><script>throw new Error("worse")</script><img src="https://localhost:7/x.png">"""


@needs_browser
def test_requests_errors_and_clicks_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(_PAGE, encoding="utf-8")
    with open_page(file.as_uri()) as page:
        page.click("button")
        assert page.evaluate("document.title") == "clicked"
        assert page.requests == [file.as_uri(), "https://localhost:7/x.png"]
        assert any("bad" in error for error in page.errors)
        assert any("worse" in error for error in page.errors)
        assert page.screenshot(tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
