"""What a space spells out for its user, since a configuration without it is of an earlier version and means another.

Today's `late` says what it is `of`; a `late` that does not is the `mean_embedding` of version 0.2 or earlier. What a
user writes is of today, so the default is written into it; what a study stored is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from histotune.core.config import LATE, LATE_SAYS
from histotune.space._yaml import Item

_FUSION = ("model", "fusion")


def spell_out(root: Item) -> Item:
    """Return a space or configuration whose late fusions all say what they are of."""
    model = root.value.get("model") if isinstance(root.value, dict) else None
    fusion = model.value.get("fusion") if model is not None and isinstance(model.value, dict) else None
    if model is None or fusion is None:
        return root
    inside = Item(model.value | {"fusion": _component(fusion)}, model.where)
    return Item(root.value | {"model": inside}, root.where)


def sets_fusion(assignments: Sequence[str]) -> bool:
    """Whether one of "PATH=VALUE" names the fusion."""
    paths = (text.partition("=")[0].strip().split(".") for text in assignments)
    return any(tuple(path) in (_FUSION, (*_FUSION, "name")) for path in paths)


def is_past(config: Mapping[str, Any]) -> bool:
    """Whether a configuration's fusion is the `late` of an earlier version."""
    fusion = config.get("model", {}).get("fusion", {})
    return isinstance(fusion, Mapping) and fusion.get("name") == LATE and LATE_SAYS not in fusion


def _component(item: Item) -> Item:
    value = item.value
    if value == LATE:
        return Item({"name": Item(LATE, item.where), **_said({}, item.where)}, item.where)
    if not isinstance(value, dict):
        return item
    if "name" in value and value["name"].value == LATE:
        return Item(_said(value, item.where), item.where)
    listed = value.get("choice")
    if listed is None:
        return item
    if isinstance(listed.value, list):
        names = [
            inner.value["name"] if isinstance(inner.value, dict) and "name" in inner.value else inner
            for inner in listed.value
        ]
        if LATE not in [name.value for name in names] or not all(isinstance(name.value, str) for name in names):
            return item
        options = {name.value: Item({}, name.where) for name in names}
    elif isinstance(listed.value, dict):
        options = listed.value
    else:
        return item
    late = options.get(LATE)
    if late is None or not (late.value is None or isinstance(late.value, dict)):
        return item
    said = options | {LATE: Item(_said(late.value or {}, late.where), late.where)}
    return Item(value | {"choice": Item(said, listed.where)}, item.where)


def _said(params: Mapping[str, Item], where: str) -> dict[str, Item]:
    from histotune.models.fusions import FUSIONS  # it needs torch

    (said,) = (parameter for parameter in FUSIONS.entry(LATE).parameters if parameter.name == LATE_SAYS)
    return dict(params) if LATE_SAYS in params else {**params, LATE_SAYS: Item(said.default, where)}
