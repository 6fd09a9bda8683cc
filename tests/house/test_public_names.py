"""The public names are few, lazy, documented, and stay what they are after first use."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import histotune


@pytest.mark.parametrize("name", [name for name in histotune.__all__ if not name.startswith("_")])
def test_every_public_name_is_documented_and_stays_itself(name: str) -> None:
    first, second = getattr(histotune, name), getattr(histotune, name)
    assert first is second
    assert callable(first)
    assert inspect.getdoc(first)


def test_functions_win_over_modules_of_the_same_name() -> None:
    code = """
import histotune.tuning.run, histotune.training.loop, histotune.evaluation.sealed
from histotune.training.loop import run_trial
import histotune
assert callable(histotune.search) and callable(histotune.train) and callable(histotune.evaluate)
assert histotune.train is not run_trial
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="serch"):
        getattr(histotune, "".join(["ser", "ch"]))
