"""Search spaces: YAML in, conditional draws out, every mistake found before anything starts.

A space lists what is searched; a key that it does not mention keeps the default of `TrialConfig`. A value
is a plain value, `{low, high}` with `step` or `log`, `{choice: [...]}`, or, where a component is named,
`{choice: {option: {parameter: ...}}}`, whose parameters exist only under their own option.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from histotune.core.config import TrialConfig
from histotune.errors import ConfigError
from histotune.space import _branches, _grid
from histotune.space._branches import Share
from histotune.space._check import check_config, check_sizes, check_values, samples
from histotune.space._compile import compile_group
from histotune.space._each import EACH, expand
from histotune.space._edit import apply_edits, read_values
from histotune.space._nodes import (
    Choice,
    Condition,
    Constant,
    Draws,
    Fixed,
    Group,
    Range,
    SearchParameter,
    Switch,
    constants,
)
from histotune.space._positions import locate
from histotune.space._spelled import sets_fusion, spell_out
from histotune.space._yaml import Item, find_space, item_of, read_configuration, read_file, space_names

__all__ = [
    "Choice",
    "Condition",
    "Draws",
    "Fixed",
    "Range",
    "SearchParameter",
    "Share",
    "Space",
    "SpaceRow",
    "as_begun",
    "check_config",
    "load_space",
    "option_shares",
    "read_configuration",
    "read_space",
    "read_values",
    "set_values",
    "space_names",
]

OWN_KEYS = ("description", "dataset", "options", "metric", "protocol", "resize", "imbalance", "folds", "repeats")
_KINDS = {"options": (dict, "a mapping"), "folds": (int, "a whole number"), "repeats": (int, "a whole number")}


class SpaceRow(NamedTuple):
    """One line of `histotune show-space`."""

    path: str
    kind: str
    range: str
    default: str
    condition: str


@dataclass(frozen=True)
class Space:
    """What a search may try.

    Attributes:
        name: the name of its file.
        dataset: registered dataset name.
        metric: validation metric that the search improves.
        protocol: split protocol, or None for the dataset's own.
        resize: how images come to the image size, `area` or `pad`.
        imbalance: what becomes of the training part, or None for nothing.
        folds: into how many the development part is split, or None for none; `repeats`: how often, or None for once.
        options: dataset options.
        description: one sentence for a person.
    """

    name: str
    dataset: str
    metric: str
    protocol: str | None
    resize: str
    imbalance: str | None
    folds: int | None
    repeats: int | None
    options: Mapping[str, Any]
    description: str
    _tree: Group = field(repr=False)
    _plain: Mapping[str, Any] = field(repr=False)

    def suggest(self, draws: Draws) -> dict[str, Any]:
        """Draw a configuration for `TrialConfig.from_dict` from an Optuna trial or an object with its methods."""
        return self._tree.draw(draws)

    def default(self) -> dict[str, Any]:
        """Return the default configuration: the first trial of every search."""
        return self.suggest(Fixed({p.path: p.default for p, _ in self._tree.parameters()}))

    def default_parameters(self) -> dict[str, Any]:
        """Return {parameter name: value} of the default configuration, active parameters only."""
        values = {p.path: p.default for p, _ in self._tree.parameters()}
        return {p.path: p.default for p, condition in self._tree.parameters() if _active(condition, values)}

    def parameters(self) -> list[SearchParameter]:
        """Return everything that is searched, in the order in which it is drawn."""
        return [parameter for parameter, _ in self._tree.parameters()]

    def accepts(self, values: Mapping[str, Any]) -> bool:
        """Whether {parameter name: value} is exactly what a draw from this space could have proposed."""
        active = {p.path: p for p, condition in self._tree.parameters() if _active(condition, values)}
        return active.keys() == values.keys() and all(p.contains(values[path]) for path, p in active.items())

    def branches(self) -> list[Condition]:
        """Return every option of every switch, each as the (path, option) pairs that lead to it.

        `(("loss", "focal"),)` is one; in a space without conditions there are none.
        """
        return list(_branches.branches(self._tree))

    def branches_of(self, config: Mapping[str, Any]) -> list[Condition]:
        """Return the branches in which a trial's configuration lies."""
        return list(_branches.taken(self._tree, config))

    def values_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return {parameter name: value} of a trial's whole configuration, as fast as thousands of them need.

        `locate` does the same for what a person wrote, and checks it.
        """
        return dict(_branches.drawn(self._tree, config))

    def size(self) -> float:
        """Return how many configurations the space holds; infinity when it has a range without a step."""
        try:
            return _grid.size(self._tree)
        except ConfigError:
            return math.inf

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Return {parameter name: value} of every combination, one at a time, so that early ones are far apart.

        Raises:
            ConfigError: a range without a step.
        """
        count = _grid.size(self._tree)
        return (_grid.at(self._tree, index) for index in _grid.spread(count))

    def locate(self, config: Item | Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
        """Return {parameter name: value} of the draw that gives a configuration, or a part of one over the default.

        Args:
            config: as `read_configuration` reads it, or plain.
            whole: refuse a configuration that lacks what the space searches, instead of taking the default.

        Raises:
            ConfigError: it lies outside the space; with file, line and path.
        """
        return locate(
            self._tree, config if isinstance(config, Item) else item_of(config, "its configuration"), whole=whole
        )

    def image_sizes(self) -> tuple[int, ...]:
        """Return every image size that can be drawn, pixels, sorted."""
        node = self._tree.children.get("image_size", Constant("image_size", TrialConfig.image_size))
        assert isinstance(node, (Constant, Choice))
        return tuple(sorted(node.options)) if isinstance(node, Choice) else (int(node.value),)

    def epochs(self) -> int:
        """Return the largest number of epochs that can be drawn."""
        return self._largest("epochs", TrialConfig.epochs)

    def patience(self) -> int:
        """Return the largest patience of a training that can be drawn."""
        return self._largest("patience", TrialConfig.patience)

    def _largest(self, key: str, default: int) -> int:
        node = self._tree.children.get(key, Constant(key, default))
        assert not isinstance(node, (Group, Switch))
        return int(node.value if isinstance(node, Constant) else max(node.values()))

    def samples(self) -> Iterator[dict[str, Any]]:
        """Yield a configuration for the default, for every option and for both ends of every range."""
        return (config for config, _ in samples(self._tree))

    def to_dict(self) -> dict[str, Any]:
        """Return the effective space as plain data, which `read_space` reads."""
        return dict(self._plain)

    def describe(self) -> list[SpaceRow]:
        """Return one row per searched parameter and per value that the space fixes."""
        rows = [
            SpaceRow(
                p.path, *p.describe(), str(p.default), " and ".join(f"{path}={option}" for path, option in condition)
            )
            for p, condition in self._tree.parameters()
        ]
        return rows + [SpaceRow(path, "fixed", str(value), str(value), "") for path, value in constants(self._tree, "")]


Kinds = Mapping[str, str] | Callable[[Space], Mapping[str, str]]


def load_space(
    name_or_path: str | Path,
    *,
    fix: Sequence[str] = (),
    ranges: Sequence[str] = (),
    choices: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    kinds: Kinds | None = None,
) -> Space:
    """Read a space by the name of a shipped file or by path, with edits as the command line writes them.

    Args:
        fix: `PATH=VALUE`; `loss.sigma=130` reaches `sigma` under every loss that has it, `model.backbone` is short
            for the backbone of the only branch.
        ranges: `PATH=low:high[:log|:step=..]`.
        choices: `PATH=a,b`.
        options: of the dataset, over those that the file names.
        kinds: {modality: kind} of the cohort, for a space that says what to try on `each`; or what returns it, which
            is called with such a space alone, as far as it can be read without. None reads it so far.

    Raises:
        ConfigError: anything that does not make sense, with file, line, path and the nearest valid name.
    """
    path = find_space(name_or_path)
    fixed = [*fix, *(f"options.{name}={json.dumps(value)}" for name, value in (options or {}).items())]
    root = read_file(path)
    if callable(kinds):
        kinds = kinds(_build(expand(root, None), path.stem)) if EACH in root.value else None
    return _build(spell_out(apply_edits(expand(root, kinds), fixed, ranges, choices)), path.stem)


def read_space(
    values: Mapping[str, Any],
    name: str,
    *,
    fix: Sequence[str] = (),
    ranges: Sequence[str] = (),
    choices: Sequence[str] = (),
) -> Space:
    """Read a space from plain data as `Space.to_dict` gave them, perhaps in an earlier version.

    Errors give `name` as the file.
    """
    return _build(apply_edits(item_of(values, name), fix, ranges, choices), name)


def as_begun(space: Space, stored: Mapping[str, Any]) -> Space:
    """Return the space that a study stored, where an earlier version read it from what `space` was read from now."""
    plain = space.to_dict()
    if plain != stored and spell_out(item_of(stored, "")).plain() == json.loads(json.dumps(plain)):
        return read_space(stored, space.name)
    return space


def option_shares(values: Mapping[str, Any], configs: Iterable[Mapping[str, Any]]) -> list[Share]:
    """Return how often trials took each option of each switch, the options in the order of the space.

    Args:
        values: the space as plain data, such as `Space.to_dict` gives.
        configs: what the trials trained.
    """
    return _branches.shares(_branches.switches(values), configs)


def set_values(config: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return a configuration with `PATH=VALUE` set in it, paths as `load_space(fix=...)` takes them.

    Raises:
        ConfigError: an assignment that leads nowhere, or a value that is searched instead of set.
    """
    edited = apply_edits(item_of(config, "the configuration"), assignments, option="--set")
    edited = spell_out(edited) if sets_fusion(assignments) else edited
    tree = compile_group(TrialConfig, edited, "")
    for parameter, _ in tree.parameters():
        raise ConfigError(
            f"{parameter.where}: {parameter.path}: one configuration takes one value, not a range or choice"
        )
    return tree.draw(Fixed({}))


def _build(root: Item, name: str) -> Space:
    tree = compile_group(TrialConfig, root, "", skip=OWN_KEYS)
    given = {key: root.value[key] for key in OWN_KEYS if key in root.value}
    for key, item in given.items():
        kind, called = _KINDS.get(key, (str, "a text"))
        if not isinstance(item.value, kind) or isinstance(item.value, bool):
            raise item.error(key, f"expected {called}, got {item.plain()!r}")
    if "dataset" not in given:
        raise root.error("dataset", "missing: name the dataset that the space is for, such as 'dataset: idc'")
    plain = {key: item.plain() for key, item in given.items()}
    space = Space(
        name=name,
        dataset=plain["dataset"],
        metric=plain.get("metric", "balanced_accuracy"),
        protocol=plain.get("protocol"),
        resize=plain.get("resize", "area"),
        imbalance=plain.get("imbalance"),
        folds=plain.get("folds"),
        repeats=plain.get("repeats"),
        options=plain.get("options", {}),
        description=plain.get("description", ""),
        _tree=tree,
        _plain=root.plain(),
    )
    check_sizes(tree, root)
    check_values(tree, root)
    return space


def _active(condition: Sequence[tuple[str, str]], values: Mapping[str, Any]) -> bool:
    return all(values.get(path) == option for path, option in condition)
