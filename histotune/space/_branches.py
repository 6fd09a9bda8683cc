"""The options of a conditional space: all there are, and those that a configuration took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from histotune.space._nodes import Condition, Group, Node, Switch


def branches(node: Node, condition: Condition = ()) -> Iterator[Condition]:
    """Yield every option of every switch as the draws that lead to it, outer ones first."""
    if isinstance(node, Group):
        for child in node.children.values():
            yield from branches(child, condition)
    elif isinstance(node, Switch):
        for name, group in node.options.items():
            branch = (*condition, (node.path, name))
            yield branch
            yield from branches(group, branch)


def taken(node: Node, config: Any, condition: Condition = ()) -> Iterator[Condition]:
    """Yield the branches in which a configuration lies; what the space does not know is in none."""
    if not isinstance(config, Mapping):
        return
    if isinstance(node, Group):
        for key, child in node.children.items():
            yield from taken(child, config.get(key), condition)
    elif isinstance(node, Switch) and config.get("name") in node.options:
        branch = (*condition, (node.path, config["name"]))
        yield branch
        yield from taken(node.options[config["name"]], config, branch)
