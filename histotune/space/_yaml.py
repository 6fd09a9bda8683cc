"""Search-space files: YAML whose every value keeps its line; looked up by name; merged along `extends`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from histotune.errors import ConfigError, suggest

PACKAGE = Path(__file__).parents[1]
SHIPPED = (PACKAGE / "search_spaces", PACKAGE.parent / "search_spaces")  # in the wheel; in a checkout


@dataclass(frozen=True)
class Item:
    """A value of a space file, with file and line.

    Args:
        value: a plain scalar, a dict of items or a list of items.
        where: "idc.yaml, line 7" or the command-line option that gave it.
    """

    value: Any
    where: str

    def plain(self) -> Any:
        """Return the value without files and lines."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def error(self, path: str, message: str) -> ConfigError:
        """Return an error that names file, line, path, and what is wrong."""
        return ConfigError(f"{self.where}: {path}: {message}" if path else f"{self.where}: {message}")


def item_of(value: Any, where: str) -> Item:
    """Wrap a plain value, all the way down, as if all of it stood at `where`."""
    if isinstance(value, Mapping):
        return Item({str(key): item_of(inner, where) for key, inner in value.items()}, where)
    if isinstance(value, (list, tuple)):
        return Item([item_of(inner, where) for inner in value], where)
    return Item(value, where)


def parse_yaml(text: str, source: str) -> Item:
    """Read YAML text; every value keeps its line in `source`.

    Raises:
        ConfigError: the text is not YAML, or a key is given twice in one mapping; with file and line.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return Item({}, source) if node is None else _item(loader, node, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    finally:
        loader.dispose()


def find_space(name_or_path: str | Path, beside: Path | None = None) -> Path:
    """Return the file of a space: a path, a name beside another space file, or a shipped name.

    Raises:
        ConfigError: there is none; the nearest shipped name is offered.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text).expanduser()
        path = beside / path if beside is not None and not path.is_absolute() else path
        if not path.is_file():
            raise ConfigError(f"search space {text!r} does not exist. {suggest(text, space_names())}")
        return path
    folders = ([beside] if beside is not None else []) + list(SHIPPED)
    for folder in folders:
        if (folder / f"{text}.yaml").is_file():
            return folder / f"{text}.yaml"
    raise ConfigError(f"unknown search space {text!r}. {suggest(text, space_names())}")


def read_configuration(path: Path) -> Item:
    """Read one configuration, or a part of one, such as the `config.yaml` of a trial.

    Raises:
        ConfigError: there is no such file, it is not YAML, or not a mapping.
    """
    try:
        result = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} cannot be read: {error}") from error
    if not isinstance(result.value, dict):
        raise result.error("", f"a configuration is a mapping of keys such as 'loss:', got {result.plain()!r}")
    return result


def space_names() -> list[str]:
    """Return the names of the spaces that come with histotune, sorted."""
    return sorted({path.stem for folder in SHIPPED for path in folder.glob("*.yaml")})


def read_file(path: Path, seen: tuple[Path, ...] = ()) -> Item:
    """Read a space file and everything that it extends.

    Raises:
        ConfigError: unreadable, not YAML, not a mapping, or spaces that extend one another in a circle.
    """
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"{path}: the space extends itself: {' -> '.join(p.stem for p in (*seen, path))}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"search space {path} cannot be read: {error}") from error
    own = parse_yaml(text, str(path))
    if not isinstance(own.value, dict):
        raise own.error("", f"a search space is a mapping of keys such as 'dataset:', got {own.plain()!r}")
    parent = own.value.pop("extends", None)
    if parent is None:
        return own
    if not isinstance(parent.value, str):
        raise parent.error("extends", f"expected the name or path of another space, got {parent.plain()!r}")
    try:
        base = read_file(find_space(parent.value, path.parent), (*seen, path))
    except ConfigError as error:
        raise error if str(path.parent) in str(error) else parent.error("extends", str(error)) from error
    return merge(base, own)


def merge(base: Item, own: Item) -> Item:
    """Lay `own` over `base`: groups merge key by key; ranges, choices, components and scalars replace."""
    return _merge(base, own, "")


def is_component(path: str) -> bool:
    """Whether `path` holds a registered component with parameters."""
    return path in ("loss", "model.fusion", "model.redundancy") or (
        path.startswith("model.branches.") and path.endswith(".backbone")
    )


def _merge(base: Item, own: Item, path: str) -> Item:
    groups = isinstance(base.value, dict) and isinstance(own.value, dict)
    if not groups or is_component(path) or _describes(base) or _describes(own):
        return own
    merged = dict(base.value)
    if path == "" and "dataset" in own.value and own.value["dataset"].value != merged.get("dataset", own).value:
        merged.pop("options", None)  # the options of another dataset mean nothing here
    for key, item in own.value.items():
        inner = f"{path}.{key}" if path else key
        merged[key] = _merge(merged[key], item, inner) if key in merged else item
    return Item(merged, own.where)


def _describes(item: Item) -> bool:
    return bool({"choice", "low", "high"} & set(item.value))


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number and 90:10 as text, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
for _digit in "0123456789":  # before the resolver that takes it for 90 minutes and 10 seconds
    _Loader.yaml_implicit_resolvers[_digit].insert(0, ("tag:yaml.org,2002:str", re.compile(r"^\d+:\d+$")))


def _item(loader: _Loader, node: yaml.Node, source: str) -> Item:
    where = f"{source}, line {node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Item] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node))
            if key in values:
                raise ConfigError(f"{source}, line {key_node.start_mark.line + 1}: the key {key!r} is given twice")
            inner = _item(loader, value_node, source)
            # a block mapping starts on the line after its key: the key's line is the one to look at
            values[key] = Item(inner.value, f"{source}, line {key_node.start_mark.line + 1}")
        return Item(values, where)
    if isinstance(node, yaml.SequenceNode):
        return Item([_item(loader, inner, source) for inner in node.value], where)
    return Item(loader.construct_object(node), where)
