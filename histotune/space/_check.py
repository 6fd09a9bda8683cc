"""Checks when a space is read that all it can draw can be built, not after hours of search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from histotune.core.config import TrialConfig
from histotune.errors import ConfigError
from histotune.space._nodes import Choice, Constant, Fixed, Group, Node, Switch
from histotune.space._yaml import Item

_DIVISIBLE = 20160  # of branches whose widths are not known yet: any number of heads up to 10, 12, 14 or 16 divides it


def check_config(config: TrialConfig) -> None:
    """Check that every component of a configuration is registered and takes the parameters given.

    Raises:
        ConfigError: an unknown name or parameter, or a value that a loss, fusion or redundancy refuses.
    """
    import torch  # here and in _compile: reading a space needs torch, importing this module does not

    from histotune.models.backbones import BACKBONES, Widths
    from histotune.models.fusions import build_fusion
    from histotune.models.losses import LOSSES, ObjectiveInput
    from histotune.models.redundancies import build_redundancy

    for name, branch in config.model.branches.items():
        _at(f"model.branches.{name}.backbone", BACKBONES.check, branch.backbone.name, branch.backbone.params)
    fusion, redundancy = config.model.fusion, config.model.redundancy
    with torch.device("meta"):  # shapes without numbers
        widths = dict.fromkeys(config.model.branches, Widths(_DIVISIBLE, _DIVISIBLE))
        joins = _at("model.fusion", build_fusion, fusion, widths)
        dims = joins.embedding_dims
        branches = len(config.model.branches)
        _at("model.redundancy", build_redundancy, redundancy.name, redundancy.params, dims, branches)
    probe = ObjectiveInput(feature_dim=4, counts=(3, 2))
    _at("loss", lambda loss: LOSSES.build(loss.name, probe, **loss.params), config.loss)


def check_values(tree: Group, root: Item) -> None:
    """Try the default, every option and both ends of every range: an impossible value is refused now."""
    fixed = [(constant.path, constant.where) for constant in _constant_nodes(tree)]
    for config, where in samples(tree):
        _try(config, [("", where)] if where else [("", root.where), *fixed])


def samples(tree: Group) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the default, every option and both ends of every range: a configuration, and file and line of the value."""
    defaults = {p.path: p.default for p, _ in tree.parameters()}
    yield tree.draw(Fixed(defaults)), ""
    for parameter, condition in tree.parameters():
        for value in parameter.values():
            yield tree.draw(Fixed(defaults | dict(condition) | {parameter.path: value})), parameter.where


def check_sizes(tree: Group, root: Item) -> None:
    """Refuse a range of image sizes."""
    node = tree.children.get("image_size")
    if node is not None and not isinstance(node, (Constant, Choice)):
        raise root.value["image_size"].error(
            "image_size", "must be one number or {choice: [...]}: the images are prepared once for each size"
        )


def _try(config: Mapping[str, Any], places: Sequence[tuple[str, str]]) -> None:
    """Check one configuration; an error names file and line of the longest path that its message begins with."""
    try:
        check_config(TrialConfig.from_dict(config))
    except ConfigError as error:
        _, where = max(place for place in places if str(error).startswith(place[0]))
        raise ConfigError(f"{where}: {error}") from error


def _at(path: str, check: Any, *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _constant_nodes(node: Node) -> list[Constant]:
    if isinstance(node, Constant):
        return [node]
    inner = node.children if isinstance(node, Group) else node.options if isinstance(node, Switch) else {}
    return [constant for child in inner.values() for constant in _constant_nodes(child)]
