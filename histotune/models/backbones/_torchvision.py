"""Let torchvision, and so timm, import beside a CPU build of torch.

The registry's torchvision wheel is linked against CUDA libraries. Without them its extension stays out, the operators
`torchvision::nms` and `torchvision::qnms` stay undefined, and `import torchvision` fails where it registers their
shapes. They are declared here before anything of histotune imports timm or torchvision, and only where the extension
cannot load: a working pair of wheels is left as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def import_timm() -> ModuleType:
    """Import timm (2 s: not before a model of it is built), with torchvision's operators declared where they lack."""
    declare_missing_operators()
    return importlib.import_module("timm")


def declare_missing_operators(folders: Sequence[Path] | None = None) -> bool:
    """Declare torchvision's operators unless its extension loads; returns whether it had to.

    Args:
        folders: where the extension may lie; None takes those of the installed torchvision.
    """
    import torch

    if folders is None:
        spec = importlib.util.find_spec("torchvision")
        folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    if _extension_loads(folders):
        return False
    for operator in _OPERATORS:
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", _SCHEMA)
    return True


def _extension_loads(folders: Sequence[Path]) -> bool:
    import torch

    for library in sorted(path for folder in folders for path in folder.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
        return True
    return False
