"""README and manual: where they lie, and their commands as a user runs them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the README in `folder`, as the installed program."""
    program = str(Path(sys.executable).with_name("histotune"))
    words = [program if word == "histotune" else word for word in shlex.split(command)]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("HISTOTUNE_")} | environment
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False)
