"""The environment of a run: seeds, device, threads, precision, versions, folders, and no telemetry.

torch is imported inside the functions: the command line imports this module also where it needs no torch.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune._version import __version__

if TYPE_CHECKING:
    import torch
from dataclasses import dataclass

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "optuna", "ray", "mlflow", "scikit-learn")
_SILENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def disable_telemetry() -> None:
    """Make Ray, MLflow and the Hugging Face hub report nothing; call it before they are imported."""
    os.environ.update(_SILENT)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (initial weights, dropout)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def device() -> torch.device:
    """Return the first GPU that this process may use, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_threads(threads: int) -> None:
    """Compute on this many CPU threads from now on; a reused worker process keeps the last number otherwise."""
    import torch

    torch.set_num_threads(max(1, threads))


def share_gpu(share: float) -> None:
    """Let this process take no more than its share of the GPU's memory, where it has a GPU and not all of it."""
    import torch

    if 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def free_memory() -> None:
    """Free what a training left that ran out of memory: its tensors and its error refer to each other."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def autocast_dtype(precision: str, device: torch.device, *, dense: bool) -> torch.dtype | None:
    """Return the type in which autocast computes a training step; None is plain float32.

    `auto` goes by a table, not by a stopwatch, so that the same machine always chooses the same: bfloat16 on a GPU
    that has it, and on a CPU with bfloat16 instructions when the network is mostly dense convolutions. Measured on
    such a CPU at 32 px, images/s against float32: small CNN x 1.5, ResNet-18 x 1.6, wide AlexNet x 1.8, but
    MobileNet-v3, EfficientNet-Lite and ConvNeXt x 0.5-0.9.

    Args:
        precision: `auto`, `float32` or `bfloat16`.
        dense: whether every backbone of the model is mostly dense convolutions.
    """
    import torch

    if precision == "float32":
        return None
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if dense and _cpu_has_bfloat16() else None


def environment() -> dict[str, Any]:
    """Return what must be known to repeat a run: versions, git commit, platform, processors."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "histotune": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "packages": _versions(),
    }


@cache
def _versions() -> dict[str, str]:
    result = {}
    for name in _PACKAGES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an optional package that is not there has no version
    return result


@cache
def _git_commit() -> str | None:
    """Return the commit of the checkout that histotune runs from, with "+" when files differ; None outside one."""
    here = Path(__file__).parent
    try:
        text = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return text.stdout.strip()


def _cpu_has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX)."""
    if sys.platform != "linux":
        return False
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    return bool({"amx_bf16", "avx512_bf16"} & set(flags))


@dataclass(frozen=True)
class Places:
    """Where things are kept.

    Args:
        runs: folder of all studies, with MLflow's database beside them.
        cache: folder of prepared cohorts.
    """

    runs: Path
    cache: Path

    @classmethod
    def of(cls, runs: str | os.PathLike[str] | None = None, cache: str | os.PathLike[str] | None = None) -> Places:
        """Fill what is not given from `$HISTOTUNE_RUNS`, `$HISTOTUNE_CACHE`, then `runs`, the system's cache folder.

        That is `~/.cache/histotune` on Linux, below `$XDG_CACHE_HOME` where it is set.
        """
        from platformdirs import user_cache_path  # 0.03 s, which `histotune --help` does not wait for

        runs = runs or os.environ.get("HISTOTUNE_RUNS") or "runs"
        cache = cache or os.environ.get("HISTOTUNE_CACHE") or user_cache_path("histotune", appauthor=False)
        return cls(Path(runs).absolute(), Path(cache).expanduser().absolute())
