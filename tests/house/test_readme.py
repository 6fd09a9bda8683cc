"""The README tells the truth: its commands run, its tree is that of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from documented import README, ROOT, run


def commands(heading: str) -> list[str]:
    """Return the lines of the bash blocks under a heading of the README."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


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


def test_the_tree_is_that_of_the_packages() -> None:
    block = re.search(r"```text\n(histotune/\n.*?)```", README, flags=re.DOTALL)
    assert block
    shown = dict(re.findall(r"^  (\w+)/ +(\S.*)$", block[1], flags=re.MULTILINE))
    trees = {
        path.parent.name: ast.parse(path.read_text("utf-8")) for path in (ROOT / "histotune").glob("*/__init__.py")
    }
    assert shown == {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in trees.items()}


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.encode()) < 14_000, "the manual is docs/"


def test_the_start_is_two_commands() -> None:
    start = commands("Start")
    assert start == ["pip install . && histotune search demo --trials 8", "pip install '.[test]' && pytest -n auto"]
