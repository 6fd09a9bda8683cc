"""`histotune.extend`: its list is what it says, every name is documented, lazy, and known to type checkers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from histotune import extend
from histotune.core.registry import Registry

SOURCE = ast.parse(Path(extend.__file__).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", extend.__all__)
def test_every_name_is_documented_and_stays_itself(name: str) -> None:
    first, second = getattr(extend, name), getattr(extend, name)
    assert first is second
    if inspect.isclass(first) or inspect.isfunction(first):
        assert inspect.getdoc(first)
        assert first.__module__.startswith("histotune.")


def test_type_checkers_and_python_know_the_same_names() -> None:
    imported = {
        (node.module or "", alias.name)
        for top in SOURCE.body
        if isinstance(top, ast.If)
        for node in top.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {(f"histotune.{module}", name) for name, module in extend._MODULES.items()}
    assert sorted(extend.__all__) == sorted(extend._MODULES)


def test_every_registry_is_there() -> None:
    root = Path(extend.__file__).parent
    made = {
        target.id
        for path in root.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign) and "Registry[" in ast.unparse(node.annotation)
        for target in [node.target]
        if isinstance(target, ast.Name)
    }
    assert made == {name for name in extend.__all__ if isinstance(getattr(extend, name), Registry)}


def test_a_loss_is_imported_without_the_rest_of_the_house() -> None:
    code = """
import sys
from histotune.extend import LOSSES, Interval, LinearObjective, ObjectiveInput
heavy = ("histotune.reporting", "histotune.ingest", "histotune.ensembles", "ray", "mlflow", "optuna", "plotly", "timm")
print([name for name in heavy if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="LOSES"):
        getattr(extend, "".join(["LOS", "ES"]))
