"""Every command, option and Python keyword of version 0.1.0 is still there."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import histotune
from histotune.cli.app import app

PAST = json.loads((Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "options.json").read_text(encoding="utf-8"))
GROUP: Any = get_command(app)


@pytest.mark.parametrize("name", PAST["options"])
def test_every_option_of_a_command_is_there(name: str) -> None:
    options = {option for param in GROUP.commands[name].params for option in (*param.opts, *param.secondary_opts)}
    assert not set(PAST["options"][name]) - options


@pytest.mark.parametrize("name", PAST["parameters"])
def test_every_keyword_of_a_public_function_is_there(name: str) -> None:
    owner, _, method = name.partition(".")
    function = getattr(histotune, owner)
    known = inspect.signature(getattr(function, method) if method else function).parameters
    keywords = set(known)
    if name == "nested_search":  # it takes those of `search`
        keywords |= set(inspect.signature(histotune.search).parameters)
    assert not set(PAST["parameters"][name]) - keywords - {"how", "searching"}  # a **keyword, and a hook of the program
