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

from histotune import _torchvision

__version__ = "0.1.0"

_HOMES = {
    "Study": "study",
    "evaluate": "study",
    "load": "predict",
    "open_study": "study",
    "search": "study",
    "train": "study",
}
__all__ = ["Study", "__version__", "evaluate", "load", "open_study", "search", "train"]

_torchvision.install()

if TYPE_CHECKING:
    from histotune.predict import load
    from histotune.study import Study, evaluate, open_study, search, train


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the package itself must load in milliseconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'histotune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"histotune.{_HOMES[name]}"), name)
