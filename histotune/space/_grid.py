"""Every combination of a space's choices and steps, by its index: nothing is listed in advance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from histotune.errors import ConfigError
from histotune.space._nodes import Choice, Constant, Group, Node, Range


def size(node: Node) -> int:
    """Count the combinations; of a switch, those of its options one after another.

    Raises:
        ConfigError: a range without a step, which has no end of values.
    """
    if isinstance(node, Constant):
        return 1
    if isinstance(node, Choice):
        return len(node.options)
    if isinstance(node, Range):
        if node.step is None:
            raise ConfigError(
                f"{node.where}: {node.path}: a grid needs every value; give the range {node.describe()[1]} a 'step', "
                f"or list values: --choices {node.path}={node.low:g},{node.middle():g},{node.high:g}"
            )
        return round((node.high - node.low) / node.step) + 1
    if isinstance(node, Group):
        return math.prod(size(child) for child in node.children.values())
    return sum(size(group) for group in node.options.values())


def at(node: Node, index: int) -> dict[str, Any]:
    """Return {parameter name: value} of the combination at `index`, from 0 to size - 1."""
    if isinstance(node, Constant):
        return {}
    if isinstance(node, Choice):
        return {node.path: node.options[index]}
    if isinstance(node, Range):
        assert node.step is not None
        value = node.low + index * node.step
        return {node.path: int(value) if node.whole else round(value, 12)}
    values: dict[str, Any] = {}
    if isinstance(node, Group):
        for child in node.children.values():
            index, inner = divmod(index, size(child))
            values |= at(child, inner)
        return values
    for name, group in node.options.items():
        if index < size(group):
            return {node.path: name} | at(group, index)
        index -= size(group)
    raise IndexError(node.path)


def spread(count: int) -> Iterator[int]:
    """Yield 0 to count - 1 so that every beginning of the sequence is spread over the whole.

    >>> list(spread(8))
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    stride = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, count) > 1:
        stride += 1
    yield from (turn * stride % count for turn in range(count))
