"""Let torchvision import where its C++ extension cannot load (a CPU build of torch beside the registry's torchvision).

The registry's torchvision wheel is linked against CUDA libraries. Without them its extension stays out, the operators
`torchvision::nms` and `torchvision::qnms` stay undefined, and `import torchvision` fails where it registers their
shapes. `install` puts a finder before the others that declares these two operators just before torchvision runs,
and only when the extension cannot load; a working pair of wheels is left as it is. Nothing of torch is imported before
somebody imports torchvision.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class TorchvisionFinder:
    """Finds torchvision as Python does, and has its missing operators declared before its first line runs."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for `torchvision` itself and for nothing else."""
        if name != "torchvision" or path is not None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        execute = spec.loader.exec_module

        def declare_and_execute(module: ModuleType) -> None:
            declare_missing_operators(folders)
            execute(module)

        spec.loader.exec_module = declare_and_execute  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Put the finder in place, once."""
    if TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, TorchvisionFinder)


def declare_missing_operators(folders: Sequence[Path]) -> bool:
    """Declare torchvision's operators unless the extension in one of `folders` loads; says whether it had to."""
    import torch

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
