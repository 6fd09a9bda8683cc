"""Presets: published configurations by name.

A preset is a YAML file that extends the search space of its study, or another preset, and fixes what the paper fixes;
what it leaves out keeps the default configuration's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histotune.errors import ConfigError, suggest
from histotune.space import Kinds, Space, load_space
from histotune.space._yaml import SHIPPED, find_space, parse_yaml

_FOLDER = "presets"


@dataclass(frozen=True)
class Preset:
    """One configuration with a name.

    Attributes:
        space: the file of the search space in whose study it is trained.
        dataset: registered dataset name.
        protocol: split protocol that a study of it must have, or None for any.
        imbalance: the same of the training part.
        description: one sentence for a person.
        config: nested mapping for `TrialConfig.from_dict`.
    """

    name: str
    space: Path
    dataset: str
    protocol: str | None
    imbalance: str | None
    description: str
    config: Mapping[str, Any]


def preset_names() -> list[str]:
    """Return the names of the presets that come with histotune, sorted."""
    return sorted({path.stem for folder in SHIPPED for path in (folder / _FOLDER).glob("*.yaml")})


def load_preset(name_or_path: str | Path) -> Preset:
    """Read a preset by the name of a shipped file or by path.

    Raises:
        ConfigError: there is none (the nearest name is offered), or it does not make sense; with file, line and path.

    >>> load_preset("janowczyk").config["optimizer"]["name"]
    'adagrad'
    """
    path = _find(str(name_or_path))
    own, space = load_space(path), load_space(_space_of(path))
    return Preset(
        name=path.stem,
        space=_space_of(path),
        dataset=own.dataset,
        protocol=own.protocol if own.protocol != space.protocol else None,
        imbalance=own.imbalance if own.imbalance != space.imbalance else None,
        description=own.description,
        config=own.default(),
    )


def starting_point(
    space: str | Path | None, preset: str | Path | None, kinds: Kinds | None = None
) -> tuple[Space, Preset]:
    """Return the space of a study, and what a single training in it starts from.

    Args:
        space: a shipped space's name or a file; None takes the preset's.
        preset: a shipped preset's name or a file; None takes the default configuration.
        kinds: as `load_space` takes them.

    Raises:
        ConfigError: neither is given, or they are for different datasets.
    """
    if preset is not None:
        result = load_preset(preset)
        loaded = load_space(result.space if space is None else space)
        if result.dataset != loaded.dataset:
            raise ConfigError(
                f"preset {result.name!r} is for dataset {result.dataset!r}, and space {loaded.name!r} is for "
                f"{loaded.dataset!r}: leave the space out, or choose another preset"
            )
        return loaded, result
    if space is None:
        raise ConfigError("name a search space, such as idc, or --preset NAME; see `histotune list presets`")
    loaded = load_space(space, kinds=kinds)
    return loaded, Preset("", find_space(space), loaded.dataset, None, None, "", loaded.default())


def _find(text: str) -> Path:
    named = [folder / _FOLDER / f"{text}.yaml" for folder in SHIPPED]
    path = next((path for path in (*named, Path(text).expanduser()) if path.is_file()), None)
    if path is None:
        raise ConfigError(f"unknown preset {text!r}. {suggest(text, preset_names())}")
    return path.absolute()


def _space_of(path: Path) -> Path:
    """Return the first file along `extends` that is a search space and no preset."""
    parent = parse_yaml(path.read_text(encoding="utf-8"), str(path)).value.get("extends")
    if parent is None:
        raise ConfigError(f"{path}: a preset extends the search space of its study, such as 'extends: idc'")
    extended = find_space(parent.value, path.parent)
    return _space_of(extended) if extended.parent.name == _FOLDER else extended
