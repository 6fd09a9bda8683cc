"""The README tells the truth: its commands run, its tables are what is registered."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KINDS = ("losses", "modalities", "backbones", "fusions", "redundancies", "datasets", "ensembles", "figures", "audits")


def commands(heading: str) -> list[str]:
    """Return the lines of the bash blocks under a heading of the README."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the README in `folder`, as the installed program."""
    program = str(Path(sys.executable).with_name("histotune"))
    words = [program if word == "histotune" else word for word in shlex.split(command)]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("HISTOTUNE_")} | environment
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False)


def table(kind: str) -> str:
    """Write the README's table of one kind from what is registered, in a process that other tests added nothing to."""
    listed = json.loads(run(f"histotune list {kind} --json", Path.cwd()).stdout)
    rows = [f"| `{entry['name']}` | {entry['summary']} |" for entry in listed]
    return "\n".join([f"| {kind} | what it is |", "|---|---|", *rows])


def test_the_tour_without_data_runs(tmp_path: Path) -> None:
    for command in commands("A tour without data"):
        answer = run(command, tmp_path, HISTOTUNE_CACHE=str(tmp_path / "cache"))
        assert answer.returncode == 0, f"{command}\n{answer.stdout}\n{answer.stderr}"
    assert (tmp_path / "exports" / "demo" / "README.md").exists()


@pytest.mark.slow
def test_the_tour_on_real_images_runs(tmp_path: Path, idc_patches: Path) -> None:
    (tmp_path / "idc_patches").symlink_to(idc_patches)
    for command in commands("Real images"):
        if command == "histotune ui":
            continue  # a server that does not end; tests/tracking/test_tracker.py asks it
        answer = run(command.replace("--trials 20", "--trials 4"), tmp_path, HISTOTUNE_CACHE=str(tmp_path / "cache"))
        assert answer.returncode == 0, f"{command}\n{answer.stdout}\n{answer.stderr}"
    assert (tmp_path / "predictions.csv").exists()


def test_the_example_of_an_own_loss_works_in_a_search(tmp_path: Path) -> None:
    (tmp_path / "my_parts").mkdir()
    example = re.search(r"```python\n# my_parts/confident.py\n(.*?)```", README, flags=re.DOTALL)
    assert example
    (tmp_path / "my_parts" / "confident.py").write_text(example[1])
    command = next(line for line in README.splitlines() if line.startswith("histotune --plugins"))
    answer = run(f"{command} --fix epochs=1 --trials 1", tmp_path, HISTOTUNE_CACHE=str(tmp_path / "cache"))
    assert answer.returncode == 0, answer.stderr
    assert "confidence_penalty" in answer.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_tables_list_what_is_registered(kind: str) -> None:
    assert table(kind) in README, f"README.md needs this table:\n{table(kind)}"


def test_the_start_is_two_commands() -> None:
    start = commands("Start")
    assert start == ["pip install . && histotune search demo --trials 8", "pip install '.[test]' && pytest -n auto"]
