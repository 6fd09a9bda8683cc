"""A space for a cohort whose modalities are not known yet: `each` lists what to try on every modality of a kind."""

from __future__ import annotations

from collections.abc import Mapping

from histotune.errors import suggest
from histotune.space._yaml import Item, item_of

EACH = "each"


def expand(root: Item, kinds: Mapping[str, str] | None) -> Item:
    """Return the space with a branch for every modality; as it is where it has no `each`.

    A branch is called as its modality. The fusion is `none` over a single modality; over several its option `none`
    keeps any one of them, so that every modality alone competes with the fusions.

    Args:
        kinds: {modality: kind} of the cohort; None gives one modality of every kind that the space lists.

    Raises:
        ConfigError: the space names branches, too, or has no entry for a kind that the cohort has.
    """
    if EACH not in root.value:
        return root
    each, model = root.value[EACH], root.value.get("model", Item({}, root.where))
    if not isinstance(each.value, dict) or not each.value:
        raise each.error(EACH, "expected a mapping from kinds of modality, such as 'table: {backbone: mlp}'")
    if "branches" in model.value:
        raise model.value["branches"].error("model.branches", f"a space has either branches or {EACH!r}")
    kinds = kinds or {kind: kind for kind in each.value}
    for name, kind in kinds.items():
        if kind not in each.value:
            raise each.error(EACH, f"has no entry for kind {kind!r} of modality {name!r}. {suggest(kind, each.value)}")
    branches = {
        name: Item({"modality": Item(name, each.where), **each.value[kind].value}, each.where)
        for name, kind in sorted(kinds.items())
    }
    inner = {**model.value, "branches": Item(branches, each.where)}
    if len(branches) == 1:
        inner["fusion"] = item_of("none", each.where)
    elif "fusion" in inner:
        inner["fusion"] = _any_alone(inner["fusion"], list(branches), each.where)
    others = {key: item for key, item in root.value.items() if key != EACH}
    return Item({**others, "model": Item(inner, model.where)}, root.where)


def _any_alone(fusion: Item, branches: list[str], where: str) -> Item:
    """Let the fusion's option `none`, where it is one, keep any of the branches."""
    options = fusion.value.get("choice") if isinstance(fusion.value, dict) else None
    if options is None or not isinstance(options.value, dict) or "none" not in options.value:
        return fusion
    kept = item_of({"branch": {"choice": branches}}, where)
    return Item({**fusion.value, "choice": Item({**options.value, "none": kept}, options.where)}, fusion.where)
