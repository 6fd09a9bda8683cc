"""histotune: search, compare, combine and honestly test classifiers for histopathology.

import histotune

study = histotune.search("idc", data="idc_patches", trials=20)
study.leaderboard()
study.ensemble(top=5, strategy="average", export="exports/idc")
histotune.load("exports/idc").predict("new_patches")
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from histotune import _torchvision

__version__ = "0.1.0"

_HOMES = {
    "Study": "study",
    "audit": "audit",
    "evaluate": "jobs",
    "load": "predict",
    "nested_search": "nested",
    "open_study": "study",
    "reproduce": "reproduce",
    "search": "jobs",
    "train": "jobs",
}
__all__ = ["Study", "__version__", "audit", "evaluate", "load", "nested_search", "open_study", "reproduce", "search",
           "train"]  # fmt: skip

_torchvision.install()

if TYPE_CHECKING:
    from histotune.audit import audit
    from histotune.jobs import evaluate, search, train
    from histotune.nested import nested_search
    from histotune.predict import load
    from histotune.reproduce import reproduce
    from histotune.study import Study, open_study


class _Front(ModuleType):
    """The package itself: a public name is imported when it is first used, for the package must load in milliseconds.

    Python binds a submodule to its package's attribute when it is imported; `search`, `train`, `evaluate`, `audit` and
    `reproduce` are functions to the public, so that binding is refused here. `from histotune.search import ...` is not
    affected.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'histotune' has no attribute {name!r}")
        return getattr(importlib.import_module(f"histotune.{_HOMES[name]}"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front
