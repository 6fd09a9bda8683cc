"""From a space file's items to typed nodes: every name, type and range is checked before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from histotune.core.config import Spec
from histotune.core.registry import Registry
from histotune.errors import ConfigError, suggest
from histotune.space._nodes import Choice, Constant, Group, Node, Range, Switch
from histotune.space._yaml import Item

SCALARS: Mapping[str, type] = {"float": float, "int": int, "bool": bool, "str": str}
MISSING = object()


def compile_group(kind: type, item: Item, path: str, skip: tuple[str, ...] = ()) -> Group:
    """Compile the mapping that describes the dataclass `kind`.

    Args:
        skip: keys that belong to the space itself, not to a trial.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible range; with file, line and path.
    """
    if not isinstance(item.value, dict):
        raise item.error(path, f"expected a mapping, got {item.plain()!r}")
    hints = get_type_hints(kind)
    defaults = {field.name: _default(field) for field in dataclasses.fields(kind)}
    children: dict[str, Node] = {}
    for key, inner in item.value.items():
        if key in skip:
            continue
        if key not in defaults:
            raise inner.error(_join(path, key), f"unknown key. {suggest(key, [*defaults, *skip])}")
        children[key] = _compile(hints[key], inner, _join(path, key), defaults[key])
    return Group(children)


def registry_of(path: str) -> Registry[Any]:
    """Return the registry that names the component at `path`."""
    from histotune.models.backbones import BACKBONES
    from histotune.models.fusions import FUSIONS
    from histotune.models.losses import LOSSES
    from histotune.models.redundancies import REDUNDANCIES

    fixed: Mapping[str, Registry[Any]] = {"loss": LOSSES, "model.fusion": FUSIONS, "model.redundancy": REDUNDANCIES}
    return fixed.get(path, BACKBONES)


def _compile(hint: Any, item: Item, path: str, default: Any) -> Node:
    if hint is Spec:
        return _component(item, path, default)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if isinstance(item.value, dict) and "choice" in item.value and isinstance(item.value["choice"].value, dict):
            return _variants(hint, item, path, default)
        return compile_group(hint, item, path)
    if get_origin(hint) is not None and issubclass(get_origin(hint), Mapping):
        if not isinstance(item.value, dict):
            raise item.error(path, f"expected a mapping of names, got {item.plain()!r}")
        kind = get_args(hint)[1]
        return Group({name: _compile(kind, inner, _join(path, name), MISSING) for name, inner in item.value.items()})
    return _scalar(hint if isinstance(hint, type) and hint is not Any else None, item, path, default)


def _variants(kind: type, item: Item, path: str, default: Any) -> Switch:
    """Compile `{choice: {adamw: {...}, sgd: {...}}}` for a dataclass with a `name`."""
    _only(item, path, ("choice", "default"))
    if "name" not in {field.name for field in dataclasses.fields(kind)}:
        raise item.error(path, "only something with a 'name' can be a choice between mappings")
    options = {}
    for name, inner in item.value["choice"].value.items():
        given = inner if inner.value is not None else Item({}, inner.where)
        options[name] = compile_group(kind, given, _join(path, name), skip=("name",))
    return _switch(item, path, options, getattr(default, "name", None))


def _component(item: Item, path: str, default: Any) -> Node:
    """Compile a registered component: a name, a mapping with `name`, or a choice between components."""
    fallback = default.name if isinstance(default, Spec) else None
    if isinstance(item.value, str):
        return _named(item.value, item, {}, path)
    if isinstance(item.value, dict) and "choice" in item.value:
        _only(item, path, ("choice", "default"))
        listed = item.value["choice"]
        if isinstance(listed.value, dict):
            options = {name: _named(name, inner, _params(inner, path), path) for name, inner in listed.value.items()}
        elif isinstance(listed.value, list):
            options = {_name(inner, path): _named(_name(inner, path), inner, {}, path) for inner in listed.value}
        else:
            raise listed.error(path, f"'choice' takes a list of names or a mapping, got {listed.plain()!r}")
        return _switch(item, path, options, fallback)
    if isinstance(item.value, dict) and "name" in item.value:
        name = _name(item.value["name"], path)
        return _named(name, item, {key: inner for key, inner in item.value.items() if key != "name"}, path)
    raise item.error(path, f"expected a name, a mapping with 'name', or a 'choice', got {item.plain()!r}")


def _named(name: str, item: Item, params: Mapping[str, Item], path: str) -> Group:
    try:
        known = {p.name: p for p in registry_of(path).entry(name).parameters}
    except ConfigError as error:
        raise item.error(path, str(error)) from error
    children: dict[str, Node] = {"name": Constant(path, name, item.where)}
    for key, inner in params.items():
        inside = _join(_join(path, name), key)
        if key not in known:
            kind = registry_of(path).kind
            raise inner.error(inside, f"{kind} {name!r} has no parameter {key!r}. {suggest(key, known)}")
        children[key] = _scalar(_annotated(known[key].annotation), inner, inside, known[key].default)
    return Group(children)


def _params(item: Item, path: str) -> Mapping[str, Item]:
    if item.value is None:
        return {}
    if not isinstance(item.value, dict):
        raise item.error(path, f"an option of 'choice' takes a mapping of parameters, got {item.plain()!r}")
    return item.value


def _switch(item: Item, path: str, options: dict[str, Group], fallback: str | None) -> Switch:
    if not options:
        raise item.error(path, "'choice' is empty")
    default = item.value["default"].value if "default" in item.value else fallback
    if "default" in item.value and default not in options:
        raise item.value["default"].error(path, f"default {default!r} is no option. {suggest(str(default), options)}")
    return Switch(path, options, default if default in options else next(iter(options)), item.where)


def _scalar(kind: type | None, item: Item, path: str, default: Any) -> Node:
    if isinstance(item.value, dict) and {"low", "high"} & set(item.value):
        return _range(kind, item, path, default)
    if isinstance(item.value, dict) and "choice" in item.value:
        return _choice(kind, item, path, default)
    if isinstance(item.value, dict):
        raise item.error(path, f"expected a value, {{low, high}} or {{choice: [...]}}, got {item.plain()!r}")
    return Constant(path, _typed(kind, item, path), item.where)


def _choice(kind: type | None, item: Item, path: str, default: Any) -> Choice:
    _only(item, path, ("choice", "default"))
    listed = item.value["choice"]
    if not isinstance(listed.value, list) or not listed.value:
        raise listed.error(path, f"'choice' takes a list of at least one value, got {listed.plain()!r}")
    options: list[Any] = []
    for inner in listed.value:
        value = _typed(kind, inner, path)
        if not isinstance(value, (bool, int, float, str)) and value is not None:
            raise inner.error(path, f"an option is a plain value, got {inner.plain()!r}")
        if any(value == other and type(value) is type(other) for other in options):
            raise inner.error(path, f"the option {value!r} is listed twice")
        options.append(value)
    node = Choice(path, tuple(options), options[0], item.where)
    return dataclasses.replace(node, default=_chosen_default(node, kind, item, default, options[0]))


def _range(kind: type | None, item: Item, path: str, default: Any) -> Range:
    _only(item, path, ("low", "high", "step", "log", "default"))
    if kind in (bool, str):
        raise item.error(path, f"takes {kind.__name__}, which has no range; use 'choice'")
    low, high, step = (_number(item, key, path, needed=key != "step") for key in ("low", "high", "step"))
    assert low is not None
    assert high is not None
    log = item.value["log"].value if "log" in item.value else False
    if not isinstance(log, bool):
        raise item.value["log"].error(path, f"'log' is true or false, got {log!r}")
    given = (low, high) if step is None else (low, high, step)
    whole = kind is int or (kind is None and all(isinstance(number, int) for number in given))
    _check_range(item, path, low, high, step, log=log, whole=whole)
    node = Range(path, low, high, step, log, whole, low, item.where)
    return dataclasses.replace(node, default=_chosen_default(node, kind, item, default, node.middle()))


def _check_range(item: Item, path: str, low: float, high: float, step: float | None, *, log: bool, whole: bool) -> None:
    numbers = (low, high) if step is None else (low, high, step)
    if whole and any(float(number) != int(number) for number in numbers):
        raise item.error(path, f"takes whole numbers, got {low=}, {high=}" + (f", {step=}" if step is not None else ""))
    if not low < high:
        raise item.error(path, f"'low' must be below 'high', got {low=}, {high=}")
    if log and low <= 0:
        raise item.error(path, f"a logarithmic range needs 'low' above 0, got {low=}")
    if log and step is not None:
        raise item.error(path, f"'log' and 'step' exclude each other, got {step=}")
    if step is not None and (step <= 0 or abs(round((high - low) / step) - (high - low) / step) > 1e-9):
        last = low + int((high - low) / step) * step if step > 0 else high
        raise item.error(path, f"'step' must divide the range: {low=}, {high=}, {step=}; try high={last:g}")


def _chosen_default(node: Range | Choice, kind: type | None, item: Item, fallback: Any, otherwise: Any) -> Any:
    """Return the `default:` of the file, else the component's own default, else `otherwise`."""
    if "default" in item.value:
        value = _typed(kind, item.value["default"], path=node.path)
        if not node.contains(value):
            raise item.value["default"].error(node.path, f"default {value!r} is not in {node.describe()[1]}")
        return value
    return fallback if fallback is not MISSING and node.contains(fallback) else otherwise


def _number(item: Item, key: str, path: str, *, needed: bool) -> float | None:
    if key not in item.value:
        if needed:
            raise item.error(path, f"a range needs both 'low' and 'high', got {item.plain()!r}")
        return None
    number = item.value[key].value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or abs(number) == float("inf"):
        raise item.value[key].error(path, f"{key!r} must be a number, got {number!r}")
    return number


def _typed(kind: type | None, item: Item, path: str) -> Any:
    value = item.plain()
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = kind in (int, float, str, bool) and (not isinstance(value, kind) or (kind is int and value is True))
    if wrong or (kind is int and isinstance(value, bool)):
        assert kind is not None
        raise item.error(path, f"expected {kind.__name__}, got {value!r}")
    return value


def _annotated(annotation: str) -> type | None:
    return SCALARS.get(annotation)  # "float | None", "Sequence[float]" and the like are the builder's to check


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else MISSING


def _name(item: Item, path: str) -> str:
    if isinstance(item.value, dict) and set(item.value) == {"name"}:
        item = item.value["name"]
    if not isinstance(item.value, str):
        raise item.error(
            path, f"expected a name, got {item.plain()!r}; give parameters as {{choice: {{name: {{...}}}}}}"
        )
    return item.value


def _only(item: Item, path: str, known: tuple[str, ...]) -> None:
    for key, inner in item.value.items():
        if key not in known:
            raise inner.error(path, f"unknown key {key!r}. {suggest(key, known)}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
