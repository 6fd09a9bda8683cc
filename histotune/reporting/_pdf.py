"""A page -> PDF, printed by a headless Chrome or Chromium, which is not a package."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from histotune.core import files
from histotune.errors import HistotuneError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_NEEDED = "install Chrome or Chromium (`apt-get install chromium`), name it in $BROWSER_PATH or print the page yourself"
_PATIENCE = 120  # seconds


def print_page(page: Path, path: Path) -> Path:
    """Print a page to the PDF `path`; no network is asked for.

    Raises:
        HistotuneError: there is no browser, or it does not print.
    """
    browser = _browser(path)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        printed = Path(folder) / "page.pdf"
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chrome's sandbox refuses to start as root
        line = [
            browser,
            "--headless",
            *root,
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={folder}/profile",
            "--no-pdf-header-footer",
            f"--print-to-pdf={printed}",
            f"{page.absolute().as_uri()}#print",
        ]
        try:
            text = subprocess.run(line, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HistotuneError(f"cannot write {path}: {browser} did not print it ({error}); {_NEEDED}") from error
        if not printed.exists():
            last = (text.stderr.strip().splitlines() or [f"exit code {text.returncode}"])[-1]
            raise HistotuneError(f"cannot write {path}: {browser} did not print it ({last}); {_NEEDED}")
        files.write_bytes(path, printed.read_bytes())
    return path


def _browser(path: Path) -> str:
    named = os.environ.get("BROWSER_PATH")
    result = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if not result:
        raise HistotuneError(f"cannot write {path}: no Chrome or Chromium was found; {_NEEDED}")
    return result
