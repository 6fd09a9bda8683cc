"""The manual tells the truth: it builds, its commands exist and run, and every registered name is in it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from documented import README, ROOT, run

from histotune.cli.app import app
from histotune.cli.catalogue import catalogue

PARTS = ("losses", "backbones", "fusions", "redundancies", "modalities", "datasets", "ensembles", "figures", "audits")
KINDS = (*PARTS, "metrics", "spaces", "presets", "reproductions")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GROUP: Any = typer.main.get_command(app)


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page that are in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def commands(page: Path, *languages: str) -> list[list[str]]:
    """Return the words of every line of such blocks that calls histotune, without what follows a `#`."""
    lines = [line for block in blocks(page, *languages) for line in block.splitlines()]
    calls = [re.split(r"\s&&\s", line)[-1] for line in lines if "histotune " in line]
    return [shlex.split(line, comments=True) for line in calls if line.startswith("histotune ")]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manual, built as `.ci/run` builds it; skips where the extra `docs` is not installed."""
    pytest.importorskip("mkdocs", reason="the manual is built by the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_has_every_registered_name(kind: str, site: Path) -> None:
    text = (site / "reference" / f"{kind}.html").read_text(encoding="utf-8")
    assert not [entry["name"] for entry in catalogue(kind) if f"<code>{entry['name']}</code>" not in text]


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_the_reference_has_every_command_with_its_options(name: str, site: Path) -> None:
    text = (site / "reference" / "cli" / f"{name}.html").read_text(encoding="utf-8")
    options = [one for param in GROUP.commands[name].params for one in param.opts if one.startswith("--")]
    assert not [option for option in options if option not in text]


def test_no_page_asks_for_anything_from_a_network(site: Path) -> None:
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html") if path.name != "sample-report.html"]
    assert len(pages) > 60
    assert not [link for page in pages for link in re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]+)"', page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for words in commands(page, "bash", "sh", "text"):
        rest = words[3:] if words[1] == "--plugins" else words[1:]
        if rest[0].startswith("-"):
            continue
        assert rest[0] in GROUP.commands, words
        known = {one for param in GROUP.commands[rest[0]].params for one in (*param.opts, *param.secondary_opts)}
        given = {word.partition("=")[0] for word in rest[1:] if re.match(r"--?[a-z]", word)}
        assert given <= known | {"--help", "-h"}, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_that_is_shown_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_the_first_tutorial_is_the_tour_of_the_readme() -> None:
    (tour,) = blocks(ROOT / "docs" / "tutorials" / "index.md", "bash")
    assert tour in README, "the README's tour is run by test_readme.py"


def test_the_tutorial_on_own_images_runs(tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    patients = {f"p{number}": {"benign": 3, "malignant": 3} for number in range(12)}
    (tmp_path / "my_images").symlink_to(tiny_folder(patients, side=32))
    calls = commands(ROOT / "docs" / "tutorials" / "own-images.md", "bash")
    assert len(calls) >= 2
    for words in calls:
        answer = run(shlex.join(words), tmp_path, HISTOTUNE_CACHE=str(tmp_path / "cache"))
        assert answer.returncode == 0, f"{words}\n{answer.stdout}\n{answer.stderr}"


def test_the_tutorial_on_several_modalities_begins_well(tmp_path: Path) -> None:
    first, *_ = commands(ROOT / "docs" / "tutorials" / "several-modalities.md", "bash")
    few = re.sub(r"--trials \d+", "--trials 1", re.sub(r"epochs=\d+", "epochs=1", shlex.join(first)))
    answer = run(few, tmp_path, HISTOTUNE_CACHE=str(tmp_path / "cache"))
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_the_tutorial_on_several_modalities_runs(tmp_path: Path) -> None:
    for words in commands(ROOT / "docs" / "tutorials" / "several-modalities.md", "bash"):
        answer = run(shlex.join(words), tmp_path, HISTOTUNE_CACHE=str(tmp_path / "cache"))
        assert answer.returncode == 0, f"{words}\n{answer.stdout}\n{answer.stderr}"
