"""Narrow or widen a space from the command line: --fix, --range, --choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histotune.errors import ConfigError, suggest
from histotune.space._compile import registry_of
from histotune.space._yaml import Item, is_component, item_of, parse_yaml

Edit = tuple[list[str], Item]


def apply_edits(
    root: Item, fix: Sequence[str], ranges: Sequence[str] = (), choices: Sequence[str] = (), *, option: str = "--fix"
) -> Item:
    """Return the space with the edits applied, as if they were written in its file.

    Args:
        fix: `PATH=VALUE`.
        ranges: `PATH=low:high`, `PATH=low:high:log` or `PATH=low:high:step=0.1`.
        choices: `PATH=a,b,c`.
        option: what the user wrote before `fix`, as errors name it.

    Raises:
        ConfigError: an edit that is not written so, or whose path leads nowhere.
    """
    edits = [_parse(option, text, _value) for text in fix]
    edits += [_parse("--range", text, _range) for text in ranges]
    edits += [_parse("--choices", text, _choices) for text in choices]
    resolved = [(_expand(root, path, item), item) for path, item in edits]
    # the components are chosen first, their parameters set after: the order of options has no meaning
    resolved.sort(key=lambda edit: not _names_component(edit[0]))
    for path, item in resolved:
        root = _apply(root, path, item, ".".join(path))
    return root


def _apply(root: Item, path: list[str], item: Item, full: str) -> Item:
    for depth in range(1, len(path) + 1):
        prefix = ".".join(path[:depth])
        if is_component(prefix):
            current = _get(root, path[:depth]) or item_of({"choice": {}}, item.where)
            return _put(root, path[:depth], _edit_component(current, prefix, path[depth:], item))
        if prefix == "optimizer" and _variants(root):
            return _put(root, path[:1], _edit_component(_variants(root) or item, prefix, path[1:], item))
    return _put(root, path, item)


def _edit_component(current: Item, path: str, rest: list[str], item: Item) -> Item:
    options, default = _options(current)
    if rest in ([], ["name"]):
        return _select(options, default, path, item)
    wanted = {rest[0]} if len(rest) == 2 and rest[0] in options else set(options) if len(rest) == 1 else set()
    reached = {name for name in wanted if rest[-1] in options[name] or rest[-1] in _known(path, name)}
    if not reached:
        known = {key for name in options for key in (*options[name], *_known(path, name))}
        raise item.error(".".join([path, *rest]), f"no option here has it. {suggest(rest[-1], known)}")
    edited = {name: params | {rest[-1]: item} if name in reached else params for name, params in options.items()}
    return _component(edited, default, current.where)


def _select(options: dict[str, dict[str, Item]], default: Item | None, path: str, item: Item) -> Item:
    """Keep the named options, with their parameters as the space has them."""
    if isinstance(item.value, dict) and "choice" not in item.value:
        return item
    listed = item.value["choice"].value if isinstance(item.value, dict) else [item]
    names = [inner.value for inner in listed]
    if not all(isinstance(name, str) for name in names):
        raise item.error(path, f"expected a name, got {item.plain()!r}")
    kept = {name: options.get(name, {}) for name in names}
    return _component(kept, default if default and default.value in kept else None, item.where)


def _options(item: Item) -> tuple[dict[str, dict[str, Item]], Item | None]:
    """Read any way of writing a component as {option: parameters} and its default."""
    if isinstance(item.value, str):
        return {item.value: {}}, None
    if "choice" not in item.value:
        return {item.value["name"].value: {k: v for k, v in item.value.items() if k != "name"}}, None
    listed = item.value["choice"].value
    if isinstance(listed, list):
        return {inner.value: {} for inner in listed}, item.value.get("default")
    return {name: dict(inner.value or {}) for name, inner in listed.items()}, item.value.get("default")


def _component(options: dict[str, dict[str, Item]], default: Item | None, where: str) -> Item:
    if len(options) == 1:
        name, params = next(iter(options.items()))
        return Item({"name": Item(name, where), **params}, where)
    listed = {name: Item(params, where) for name, params in options.items()}
    return Item({"choice": Item(listed, where)} | ({"default": default} if default else {}), where)


def _known(path: str, name: str) -> list[str]:
    if path == "optimizer":
        return []
    try:
        return [parameter.name for parameter in registry_of(path).entry(name).parameters]
    except ConfigError:
        return []  # an unknown name is reported where the space is compiled, with file and line


def _names_component(path: list[str]) -> bool:
    return is_component(".".join(path)) or (path[-1] == "name" and is_component(".".join(path[:-1])))


def _variants(root: Item) -> Item | None:
    item = root.value.get("optimizer")
    return item if item and isinstance(item.value, dict) and "choice" in item.value else None


def _expand(root: Item, path: list[str], item: Item) -> list[str]:
    """Spell out `model.backbone` as the path of the only branch's backbone."""
    if path[:2] != ["model", "backbone"]:
        return path
    branches = _get(root, ["model", "branches"])
    names = list(branches.value) if branches else ["image"]
    if len(names) != 1:
        longer = f"model.branches.{names[0]}.backbone"
        raise item.error(".".join(path), f"the model has the branches {', '.join(names)}; write {longer}")
    return ["model", "branches", names[0], "backbone", *path[2:]]


def _get(root: Item, path: list[str]) -> Item | None:
    for key in path:
        if not isinstance(root.value, dict) or key not in root.value:
            return None
        root = root.value[key]
    return root


def _put(root: Item, path: list[str], item: Item) -> Item:
    if not path:
        return item
    inside = root.value if isinstance(root.value, dict) else {}
    below = inside.get(path[0], Item({}, item.where))
    return Item(inside | {path[0]: _put(below, path[1:], item)}, root.where)


def read_values(assignments: Sequence[str], *, option: str) -> dict[str, Any]:
    """Read `NAME=VALUE` texts, values as YAML reads them.

    >>> read_values(["method=tsne", "cases=500"], option="--set")
    {'method': 'tsne', 'cases': 500}

    Raises:
        ConfigError: a text without a name or a value.
    """
    return {".".join(path): item.plain() for path, item in (_parse(option, text, _value) for text in assignments)}


def _parse(option: str, text: str, read: Any) -> Edit:
    path, equals, value = text.partition("=")
    where = f"{option} {text}"
    if not equals or not path.strip() or not value.strip():
        raise ConfigError(f"{where}: expected PATH=VALUE, such as loss.name=focal")
    return path.strip().split("."), read(value.strip(), where)


def _value(text: str, where: str) -> Item:
    return item_of(parse_yaml(text, where).plain(), where)


def _choices(text: str, where: str) -> Item:
    return item_of({"choice": [_value(part.strip(), where).plain() for part in text.split(",")]}, where)


def _range(text: str, where: str) -> Item:
    low, *others = text.split(":")
    if not 1 <= len(others) <= 2:
        raise ConfigError(f"{where}: expected low:high, low:high:log or low:high:step=0.1")
    described: dict[str, Any] = {"low": _value(low, where).plain(), "high": _value(others[0], where).plain()}
    if len(others) == 2:
        key, _, amount = others[1].partition("=")
        if key not in ("log", "step") or (key == "step") != bool(amount):
            raise ConfigError(f"{where}: low:high may be followed by 'log' or 'step=NUMBER', got {others[1]!r}")
        described[key] = True if key == "log" else _value(amount, where).plain()
    return item_of(described, where)
