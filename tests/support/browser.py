"""A headless Chromium for tests: opens a page, clicks, types, hovers, and tells what it asked the network for.

The browser is spoken to in its own DevTools protocol through a pipe (`--remote-debugging-pipe`), which needs neither a
port nor a package; Selenium and Playwright bring a driver or a browser of their own, and tests need little of
them.

with browser.open_page("file:///.../report.html", width=360) as page:
    page.click("th button")
    assert page.evaluate("document.querySelectorAll('tr').length") == 8
    assert not page.requests and not page.errors
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROME = os.environ.get("BROWSER_PATH") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
needs_browser = pytest.mark.skipif(CHROME is None, reason="no Chrome or Chromium (on the path, or $BROWSER_PATH)")
PATIENCE = 90.0  # seconds for an answer, or until something shows: a guard against hanging, no measure of speed
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
    "about:blank",
)
_EXEC = "import os, sys; [os.dup2(int(sys.argv[k]), k + 2) for k in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
_KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    " ": 32,
}


class Page:
    """One tab.

    Attributes:
        requests: addresses that the page asked for, `data:` and `blob:` left out, itself included.
        errors: what went to the console as an error, and every uncaught exception.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._rest, self._last = commands, answers, b"", 0
        self._session: str | None = None
        self._loaded = False
        self.requests: list[str] = []
        self.errors: list[str] = []

    def attach(self, width: int, height: int) -> None:
        """Make a tab of this size, pixels, and listen to it."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, pixels; up to 500 wide it is a phone."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width <= 500
        )

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its answer."""
        self._last += 1
        command = {"id": self._last, "method": method, "params": params}
        command |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            message = self._next(until, method)
            if message.get("id") == self._last:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def open(self, address: str) -> None:
        """Go to an address and wait until it has loaded."""
        self._loaded = False
        self.send("Page.navigate", url=address)
        until = time.monotonic() + PATIENCE
        while not self._loaded:
            self._next(until, address)

    def evaluate(self, script: str) -> Any:
        """Return what a JavaScript expression is, awaited if it is a promise."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str, *, doing: Callable[[], None] | None = None) -> None:
        """Wait until a JavaScript expression is true, doing something before every further look at it."""
        until = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({script})"):
            if doing:
                doing()
            assert time.monotonic() < until, f"waited {PATIENCE:g} s in vain for {script}"
            time.sleep(0.03)

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of the first element of a CSS selector."""
        at = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)

    def hover(self, selector: str, shows: str) -> None:
        """Move the mouse about the middle of the first element of a CSS selector until an element of the other shows.

        One move is not enough: a page that still draws may clear what it showed, and tells again at the next move.
        """

        def move() -> None:
            at = self._middle(selector)
            for aside in (3, 0):
                self.send("Input.dispatchMouseEvent", type="mouseMoved", x=at["x"] - aside, y=at["y"])

        self.wait_for(f"document.querySelector({json.dumps(shows)})", doing=move)

    def press(self, key: str) -> None:
        """Press a key by its name (`Tab`, `Enter`, `ArrowDown`, ...)."""
        code = {"key": key, "windowsVirtualKeyCode": _KEYS[key], "text": {"Enter": "\r", " ": " "}.get(key, "")}
        self.send("Input.dispatchKeyEvent", type="keyDown" if code["text"] else "rawKeyDown", **code)
        self.send("Input.dispatchKeyEvent", type="keyUp", **code)

    def type(self, text: str) -> None:
        """Write text into what has the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Write what is seen, or the whole page, as a PNG."""
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def _middle(self, selector: str) -> dict[str, float]:
        box = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            "return {x: b.x + b.width / 2, y: b.y + b.height / 2}; })()"
        )
        assert box, f"nothing is {selector}"
        return box

    def _next(self, until: float, doing: str) -> dict[str, Any]:
        """Return the next message; events are noted on the way."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser did not answer within {PATIENCE:g} s: {doing}"
            read = os.read(self._answers, 1 << 20)
            assert read, f"the browser ended: {doing}"
            self._rest += read
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, text: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            address = text["request"]["url"]
            self.requests += [] if address.startswith(("data:", "blob:")) else [address]
        elif event == "Runtime.exceptionThrown":
            self.errors.append(str(text["exceptionDetails"].get("exception", text["exceptionDetails"])))
        elif event == "Runtime.consoleAPICalled" and text["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in text["args"]))
        elif event == "Log.entryAdded" and text["entry"]["level"] == "error":
            self.errors.append(f"{text['entry']['text']} {text['entry'].get('url', '')}".strip())


@contextlib.contextmanager
def open_page(address: str = "", *, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """Start a browser with a profile of its own, open an address in a tab of it, and end it afterwards."""
    assert CHROME
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        line = [sys.executable, "-c", _EXEC, str(theirs_in), str(theirs_out), CHROME, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [*line, *_FLAGS], pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            page = Page(ours_out, ours_in)
            page.attach(width, height)
            if address:
                page.open(address)
            yield page
        finally:
            os.close(ours_out)
            os.close(ours_in)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
