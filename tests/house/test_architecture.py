"""The house stands as drawn: imports point one way, engines have one owner, files stay readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "histotune"
FILES = sorted(PACKAGE.rglob("*.py"))

# What stands in a row may import what stands in an earlier row, and its own row.
LAYERS = [
    {"errors", "_version"},
    {"core"},
    {"metrics"},
    {"data"},
    {"storage"},
    {"models", "tracking"},
    {"ingest", "space", "training"},
    {"ensembles", "tuning"},
    {"exports", "studies"},
    {"evaluation", "explanation"},
    {"reporting"},
    {"study"},
    {"api", "reproductions"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

OWNERS = {
    "ray": {"tuning"},
    "mlflow": {"tracking", "exports"},
    "optuna": {"tuning", "space"},
    "timm": {"models"},
    "torchvision": {"models", "core"},
    "typer": {"cli"},
    "fsspec": {"tuning"},
    "rich": {"cli"},
    "sklearn": {"data", "metrics", "studies", "reporting", "training", "evaluation"},
    "scipy": {"data", "metrics", "training", "ensembles", "evaluation"},
    "onnxruntime": {"exports"},
    "openslide": {"ingest"},
    "plotly": {"reporting"},
    "kaleido": {"reporting"},
    "markupsafe": {"reporting"},
}
TRAINING = {"torch", "timm", "torchvision", "numpy", "pandas", "safetensors", "yaml", "PIL", "histotune"}


def part(path: Path) -> str:
    """Name the part of the house that a file belongs to: its folder, or its own name."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Return the full names that a file imports: at the top level, or everywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "histotune":
                found |= {f"histotune.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return  # the front door opens every room, lazily
    used = {name.split(".")[1] for name in imports(path, everywhere=True) if name.startswith("histotune.")}
    known = {name for name in used if name in RANK}
    upwards = {name for name in known if RANK[name] > RANK.get(own, len(LAYERS)) and name != own}
    assert own in RANK or own.startswith("_"), f"{own} has no place in LAYERS"
    assert not upwards, f"{own} may not import {upwards}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_engines_stay_with_their_owner(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path, everywhere=True)}
    strangers = {root for root in roots & OWNERS.keys() if part(path) not in OWNERS[root]}
    assert not strangers, f"{path.name} may not import {strangers}"


def test_every_file_stays_readable() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert lengths[-1] <= 300
    assert lengths[len(lengths) // 2] <= 120


def test_functions_stay_short() -> None:
    lengths = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                code = node.body[1:] if ast.get_docstring(node) else node.body  # parameters and docstring are free
                lengths[f"{path.name}:{node.name}"] = (node.end_lineno or 0) - code[0].lineno + 1 if code else 0
    longest = max(lengths, key=lengths.__getitem__)
    assert lengths[longest] <= 50, longest


def test_imports_have_no_cycle() -> None:
    graph = {part(path): set[str]() for path in FILES}
    for path in FILES:
        names = {n.split(".")[1] for n in imports(path, everywhere=False) if n.startswith("histotune.")}
        graph[part(path)] |= (names & graph.keys()) - {part(path)}
    done: set[str] = set()
    while len(done) < len(graph):
        free = {name for name, used in graph.items() if name not in done and used <= done}
        assert free, f"cycle among {sorted(set(graph) - done)}"
        done |= free


HEAVY = ["torch", "ray", "mlflow", "optuna", "timm", "plotly"]


@pytest.mark.parametrize(
    ("room", "heavy"),
    [("cli.app", ["pandas", "numpy", "sklearn", *HEAVY]), ("studies.leaderboard, histotune.cli.tables", HEAVY)],
)
def test_the_front_door_and_the_ranking_are_light(room: str, heavy: list[str]) -> None:
    code = f"import sys, histotune.{room}; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
