"""Where studies and prepared cohorts are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


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
        """Fill what is not given from `$HISTOTUNE_RUNS`, `$HISTOTUNE_CACHE`, then `runs`, `~/.cache/histotune`."""
        runs = runs or os.environ.get("HISTOTUNE_RUNS") or "runs"
        cache = cache or os.environ.get("HISTOTUNE_CACHE") or Path.home() / ".cache" / "histotune"
        return cls(Path(runs).absolute(), Path(cache).expanduser().absolute())
