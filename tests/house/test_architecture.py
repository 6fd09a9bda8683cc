"""The house stands as drawn: imports point one way, engines have one owner, a name has one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "histotune"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# What stands in a row may import what stands in an earlier row, and its own row.
LAYERS = [
    {"errors", "_version", "predict"},
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
    {"extend", "testing"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

OWNERS = {
    "ray": {"tuning"},
    "mlflow": {"tracking", "exports"},
    "optuna": {"tuning", "space"},
    "timm": {"models"},
    "torchvision": {"models"},
    "typer": {"cli"},
    "fsspec": {"tuning"},
    "rich": {"cli"},
    "sklearn": {"data", "metrics", "studies", "reporting", "training", "evaluation"},
    "scipy": {"data", "metrics", "training", "ensembles", "evaluation"},
    "onnxruntime": {"exports"},
    "openslide": {"ingest"},
    "h5py": {"ingest"},
    "plotly": {"reporting"},
    "kaleido": {"reporting"},
    "jinja2": {"reporting", "exports", "reproductions"},
    "markupsafe": {"reporting"},
}
TRAINING = {"torch", "timm", "torchvision", "numpy", "pandas", "safetensors", "yaml", "PIL", "sklearn", "scipy"}
SMALL = {"threadpoolctl", "filelock", "platformdirs", "psutil"}  # without dependencies of their own
# Folders where a file is a thing that can be added; beside the things stand contracts and helpers, whose names begin
# with an underscore.
PLUGINS = {
    "data/audits", "data/modalities", "ensembles/strategies", "ingest/datasets", "models/backbones", "models/fusions",
    "models/losses", "models/redundancies", "reporting/figures", "reporting/sections", "reproductions/papers",
}  # fmt: skip
MOST_PARAMETERS = 10


def name_of(path: Path) -> str:
    """Return the full name of the module in a file."""
    return ".".join(["histotune", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def part(name: str) -> str:
    """Return the package, or the module of the root, that a full name belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Return the full names that a file imports, below `if TYPE_CHECKING` too: at the top, or everywhere in it."""
    nodes = ast.walk(TREES[path]) if everywhere else _at_the_top(TREES[path])
    result: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            result |= {f"{node.module}.{alias.name}" for alias in node.names}
    return result


def _at_the_top(tree: ast.Module) -> Iterator[ast.AST]:
    for node in tree.body:
        yield from ast.walk(node) if isinstance(node, ast.If) else [node]


def module_of(name: str) -> str:
    """Return the module that an imported name is, or is taken from."""
    return name if name in MODULES else name.rpartition(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = part(name_of(path))
    if own == "__init__":
        return  # the front door opens every room, lazily
    used = {part(module_of(name)) for name in imports(path, everywhere=True) if name.startswith("histotune.")}
    strangers = used - RANK.keys() - {"__version__"}
    assert own in RANK, f"{own} has no row in LAYERS"
    assert not strangers, f"{strangers} have no row in LAYERS"
    upwards = {name for name in used if RANK[name] > RANK[own]}
    assert not upwards, f"{own} may not import {upwards}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_engines_stay_with_their_owner(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path, everywhere=True)}
    strangers = {root for root in roots & OWNERS.keys() if part(name_of(path)) not in OWNERS[root]}
    assert not strangers, f"{path.name} may not import {strangers}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_private_names_are_imported_inside_their_package_only(path: Path) -> None:
    own = part(name_of(path))
    for name in imports(path, everywhere=True):
        parts = name.split(".")
        if parts[0] == "histotune" and len(parts) > 1 and parts[1] not in (own, "_version"):
            private = [one for one in parts[1:] if one.startswith("_") and not one.startswith("__")]
            assert not private, f"{path.name} may not import {name}: {private[0]} is private to {parts[1]}"


def test_imports_have_no_cycle() -> None:
    def runs(name: str) -> set[str]:
        """Name what Python runs for an import: the module, and before it the packages that it lies in."""
        parts = name.split(".")
        return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}

    graph = {
        name: {one for used in imports(path, everywhere=False) for one in runs(module_of(used))}
        & MODULES.keys() - runs(name)
        for name, path in MODULES.items()
    }
    graph["histotune"] = set()  # its names are imported when they are asked for
    done: set[str] = set()
    while len(done) < len(graph):
        free = {name for name, used in graph.items() if name not in done and used - {"histotune"} <= done}
        assert free, f"cycle among {sorted(graph.keys() - done)}"
        done |= free


def test_no_two_public_classes_have_one_name() -> None:
    homes = defaultdict(list)
    for path, tree in TREES.items():
        for node in tree.body:
            alias = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id
            name = node.name if isinstance(node, ast.ClassDef) else alias or ""
            if name[:1].isupper() and not name.isupper():
                homes[name].append(name_of(path))
    assert not {name: where for name, where in homes.items() if len(where) > 1}


def test_plugin_folders_hold_plugins() -> None:
    for folder in sorted(PLUGINS):
        package = f"histotune.{folder.replace('/', '.')}"
        for path in (PACKAGE / folder).glob("[!_]*.py"):
            named = {module_of(name) for name in imports(path, everywhere=True)}
            bases = {name for name in named if name.rpartition(".")[0] == package and "._" in name} | {package} & named
            assert bases, f"{path} registers nothing: a helper's name begins with an underscore"


def test_every_package_has_one_sentence() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        first = (ast.get_docstring(TREES[path]) or "").partition("\n")[0]
        assert len(first.split()) > 2, path
        assert first.endswith((".", ":")), path


def test_every_module_begins_with_a_sentence() -> None:
    lacking = [str(path) for path, tree in TREES.items() if not (ast.get_docstring(tree) or "")[:1]]
    assert not lacking


def test_functions_take_few_parameters() -> None:
    """At most ten, or an options value; the public functions and the commands list what a user may say."""
    many = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
                if len([name for name in given if name not in ("self", "cls")]) > MOST_PARAMETERS:
                    many.add(f"{name_of(path)}.{node.name}")
    assert many == MANY_PARAMETERS, sorted(many ^ MANY_PARAMETERS)


# Public functions and commands, whose parameters are what a user may say, and a loss with its paper's parameters.
MANY_PARAMETERS = {
    "histotune.api.audit",
    "histotune.api.search",
    "histotune.api.train",
    "histotune.cli.audit.audit",
    "histotune.cli.confirm.confirm",
    "histotune.cli.ensemble.ensemble",
    "histotune.cli.prepare.prepare",
    "histotune.cli.reproduce.reproduce",
    "histotune.cli.search.search",
    "histotune.cli.search.train",
    "histotune.evaluation.confirm.confirm",
    "histotune.models.losses.cfal.cfal",
    "histotune.reproductions.run.reproduce",
    "histotune.study.ensemble",
}


def test_the_formatter_decides() -> None:
    kept = {path.name for path in FILES if "fmt: skip" in path.read_text(encoding="utf-8")}
    assert not kept, "only tables of constants may keep their form, and there is none"


HEAVY = ["torch", "ray", "mlflow", "optuna", "timm", "plotly"]


@pytest.mark.parametrize(
    ("room", "heavy"),
    [
        ("cli.app", ["pandas", "numpy", "sklearn", *HEAVY]),
        ("studies.leaderboard, histotune.cli.tables", HEAVY),
    ],
)
def test_the_front_door_and_the_ranking_are_light(room: str, heavy: list[str]) -> None:
    code = f"import sys, histotune.{room}; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["core", "metrics", "data", "storage", "models", "training"])
def test_a_trial_runs_where_the_training_packages_are(name: str) -> None:
    own = {"histotune", *sys.stdlib_module_names}
    for path in (PACKAGE / name).rglob("*.py"):
        roots = {used.split(".")[0] for used in imports(path, everywhere=True)}
        assert roots <= own | TRAINING | SMALL, path
