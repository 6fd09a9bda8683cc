"""histotune: search, compare, combine and honestly test classifiers for histopathology.

import histotune

study = histotune.search("idc", data="idc_patches", trials=20)
study.leaderboard()
study.ensemble(top=5, strategy="average", export="exports/idc")
histotune.load("exports/idc").predict("new_patches")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from histotune._version import __version__

if TYPE_CHECKING:
    from histotune.api import audit, evaluate, nested_search, search, train
    from histotune.exports.model import load
    from histotune.reproductions.run import reproduce
    from histotune.study import Study, open_study

_HOMES = {
    "Study": "study",
    "audit": "api",
    "evaluate": "api",
    "load": "exports.model",
    "nested_search": "api",
    "open_study": "study",
    "reproduce": "reproductions.run",
    "search": "api",
    "train": "api",
}

__all__ = [
    "Study",
    "__version__",
    "audit",
    "evaluate",
    "load",
    "nested_search",
    "open_study",
    "reproduce",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): the package itself loads in milliseconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"histotune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
