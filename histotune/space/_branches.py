"""The options of a conditional space: all of them, and those that a configuration took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from histotune.space._nodes import Choice, Condition, Constant, Group, Node, Range, Switch
from histotune.space._yaml import is_component


class Share(NamedTuple):
    """How often one option of a switch was taken.

    Attributes:
        path: the switch, such as `loss`.
        option: one of its names.
        trials: how many took the option.
        share: of the trials that came to the switch; 0 where none did.
    """

    path: str
    option: str
    trials: int
    share: float


def switches(plain: Any, path: str = "") -> Node:
    """Return the switches of a space's plain data, which a study keeps, and nothing else of it.

    It needs neither torch nor the components, which may be registered no more.
    """
    options = plain.get("choice") if isinstance(plain, Mapping) else None
    if isinstance(options, Mapping) or (options and is_component(path)):
        names = [option if isinstance(option, str) else option["name"] for option in options]
        return Switch(path, {name: Group({}) for name in names}, names[0], "")
    if not isinstance(plain, Mapping) or options:
        return Constant(path, plain)
    return Group({key: switches(inner, f"{path}.{key}" if path else key) for key, inner in plain.items()})


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
    """Yield the branches in which a configuration lies; an option that is not in the space is in none."""
    if not isinstance(config, Mapping):
        return
    if isinstance(node, Group):
        for key, child in node.children.items():
            yield from taken(child, config.get(key), condition)
    elif isinstance(node, Switch) and config.get("name") in node.options:
        branch = (*condition, (node.path, config["name"]))
        yield branch
        yield from taken(node.options[config["name"]], config, branch)


def drawn(node: Node, config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of every parameter that a configuration has; nothing is checked."""
    if isinstance(node, (Range, Choice)):
        yield node.path, config
    elif not isinstance(config, Mapping):
        return
    elif isinstance(node, Group):
        for key, child in node.children.items():
            if key in config:
                yield from drawn(child, config[key])
    elif isinstance(node, Switch) and config.get("name") in node.options:
        yield node.path, config["name"]
        yield from drawn(node.options[config["name"]], config)


def shares(node: Node, configs: Iterable[Any]) -> list[Share]:
    """Count the configurations on every branch."""
    counts = Counter(branch for config in configs for branch in taken(node, config))
    came = Counter[Condition]()
    for branch, count in counts.items():
        came[switch_of(branch)] += count
    return [
        Share(*branch[-1], counts[branch], counts[branch] / came[switch_of(branch)] if counts[branch] else 0.0)
        for branch in branches(node)
    ]


def switch_of(branch: Condition) -> Condition:
    """Return what the options of one switch have in common."""
    return (*branch[:-1], (branch[-1][0], ""))
