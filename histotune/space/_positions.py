"""Where in a space a configuration lies: the draw that would have proposed it, or what keeps it outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from histotune.core.config import TrialConfig
from histotune.space._compile import compile_group
from histotune.space._nodes import Constant, Fixed, Group, Node, Switch
from histotune.space._spelled import is_past
from histotune.space._yaml import Item


def locate(tree: Group, given: Item, *, whole: bool) -> dict[str, Any]:
    """Return {parameter name: value} of the draw from `tree` that gives this configuration.

    Args:
        tree: the compiled space.
        given: a configuration, or a part of one.
        whole: refuse a configuration without a value that the space searches, instead of taking the default.

    Raises:
        ConfigError: an unknown key, a value outside the space, or another one than the space fixes; file, line, path.
    """
    own = compile_group(TrialConfig, given, "")
    for parameter, _ in own.parameters():
        message = "a configuration to start with takes one value, not a range or choice"
        raise Item(None, parameter.where).error(parameter.path, message)
    values: dict[str, Any] = {}
    _walk(tree, own, given.where if whole else "", values)
    drawn = TrialConfig.from_dict(tree.draw(Fixed(values))).to_dict()
    if whole and is_past(given.plain()) != is_past(drawn):
        raise given.error("model.fusion", "the `late` of an earlier version is not that of the space: `mean_embedding`")
    for keys, constant in _leaves(own, ()):
        result: Any = drawn
        for key in keys:
            result = result.get(key) if isinstance(result, dict) else None
        if result != constant.value:
            there = f"fixes {result!r} here" if result is not None else "has no such parameter here"
            raise Item(None, constant.where).error(".".join(keys), f"the search space {there}, not {constant.value!r}")
    return values


def _walk(node: Node, own: Node | None, whole: str, values: dict[str, Any]) -> None:
    """Collect the values of everything that is searched below `node`; an error about a missing value names `whole`."""
    children = own.children if isinstance(own, Group) else {}
    if isinstance(node, Constant):
        return
    if isinstance(node, Group):
        for key, child in node.children.items():
            _walk(child, children.get(key), whole, values)
        return
    named = children.get("name") if isinstance(node, Switch) else own
    if named is None and whole:
        raise Item(None, whole).error(node.path, "missing, and the space searches it")
    value = named.value if isinstance(named, Constant) else node.default
    if isinstance(named, Constant) and not node.contains(value):
        raise Item(None, named.where).error(node.path, f"{value!r} lies outside the search space: {node.describe()[1]}")
    values[node.path] = value
    if isinstance(node, Switch):
        _walk(node.options[str(value)], own, whole, values)


def _leaves(node: Node, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Constant]]:
    if isinstance(node, Constant):
        yield keys, node
    elif isinstance(node, Group):
        for key, child in node.children.items():
            yield from _leaves(child, (*keys, key))
