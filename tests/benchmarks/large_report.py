"""How long the report of a study of five thousand trials takes, and how large it is.

Writes such a study as tests/benchmarks/large_study.py does, then calls `histotune report` as a user does: the first
time, which reads every trial folder, and after. Exits with 1 when the second takes longer, or the page is larger, than
its goal.

    python tests/benchmarks/large_report.py --trials 5000
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from large_study import build

SECONDS, BYTES = 10.0, 8e6


def command(home: Path, page: Path) -> tuple[float, float]:
    """Return seconds of `histotune report`, as a user waits for it and of the processor."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-c", "from histotune.cli.app import main; main()", "report", "demo", "-o", str(page)]
    subprocess.run([*line, "--runs", str(home), "--cache", str(home)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--keep", type=Path, help="Folder for the study, kept; used again when it is there.")
    given = parser.parse_args()
    home = given.keep or Path(tempfile.mkdtemp())
    if not (home / "demo" / "journal.log").exists():
        build(home, given.trials)
    (home / "demo" / "trials.json").unlink(missing_ok=True)
    page, load = home / "demo.html", f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    for when in ("first, which reads every folder", "after"):
        waited, computed = command(home, page)
        print(f"{when}: {waited:.2f} s, of the processor {computed:.2f} s (goal {SECONDS:g}); {load}")
    size = page.stat().st_size
    print(f"page: {size / 1e6:.2f} MB (goal {BYTES / 1e6:g})")
    if given.keep is None:
        shutil.rmtree(home)
    if computed > SECONDS or size > BYTES:
        sys.exit(1)


if __name__ == "__main__":
    main()
